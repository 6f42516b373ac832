"""Every SIMD level of this machine gives the bits of the scalar level, forward and backward, in a process per level."""

import sys

import pytest
import torch

import hardmine
from hardmine import ops
from support.comparisons import assert_results_bitwise_equal
from support.inputs import Inputs, exact_inputs, inputs_of_sizes, random_ids, random_inputs
from support.ops import OPS, SIMILARITIES, selection_options, similarities_of_op
from support.processes import SIMD_LEVELS, output_of, run_python, simd_levels
from support.runs import Result, run

# Rows on both sides of the bounds of every level's groups, panels and blocks; depths around those of vectors and chunks
SHAPES = [(1, 1), (2, 7), (13, 16), (33, 17), (97, 31), (257, 8), (40, 256), (41, 257), (30, 513), (300, 40)]


def cases() -> dict[str, tuple[str, Inputs, dict]]:
    """The cases by name: op, inputs and options."""
    found = {}

    def add(name: str, inputs: Inputs, what: str, **options) -> None:
        shown = {key: value for key, value in options.items() if not isinstance(value, torch.Tensor)}
        found[f"{name}, {what}, {shown}"] = (name, inputs, options)

    for dtype in (torch.float32, torch.float64):
        for similarity in SIMILARITIES:
            for rows, depth in SHAPES:
                for refs in (None, rows + 5):
                    inputs = random_inputs(rows, depth, 3, refs, spread=1.5, dtype=dtype, seed=depth)
                    what = f"{dtype}, {rows} x {depth}, {refs} refs"
                    for name in OPS:
                        if similarity in similarities_of_op(name):
                            add(name, inputs, what, similarity=similarity)
            ties = exact_inputs(similarity, 300, 16, dtype=dtype)
            add("select_triplets", ties, f"{dtype}, ties", similarity=similarity)
            add("knn", ties, f"{dtype}, ties", similarity=similarity, k=70)
            add("knn", random_inputs(90, 20, refs=2000, dtype=dtype), f"{dtype}", similarity=similarity, k=200)
            for positive in ("easiest", "hardest", "all"):
                for temperature in (0.01, 0.05, 1.0):
                    inputs = random_inputs(250, 20, 4, spread=1.5, dtype=dtype)
                    options = {"positive": positive, "temperature": temperature, "similarity": similarity}
                    add("tuplet_loss", inputs, f"{dtype}", **options)
        for similarity in ("cosine", "euclidean"):
            for squared in (True, False):
                options = {"similarity": similarity, "squared": squared, "margin": 0.4}
                for refs in (None, 300):
                    inputs = random_inputs(250, 20, 4, refs, spread=1.5, dtype=dtype)
                    add("batch_all_triplet_loss", inputs, f"{dtype}, {refs} refs", **options)
            for sizes in ([70, 30, 1], [4] * 50, [130]):
                inputs = inputs_of_sizes(sizes, 17, dtype)
                add("triplet_loss", inputs, f"{dtype}, {sizes}", positive="all", similarity=similarity)
        for options in selection_options():
            add("triplet_loss", random_inputs(150, 20, dtype=dtype), f"{dtype}", **options)
        for kind in ("few", "many"):
            for name in OPS:
                inputs = random_inputs(250, 20, 4, 300, spread=1.5, dtype=dtype)
                add(name, inputs, f"{dtype}, {kind} ids", **random_ids(inputs, kind))
    bad = random_inputs(50, 20)
    bad.embeddings[3, 5] = float("inf")
    bad.embeddings[8] = 0.0
    for kind in ({}, {"positive": "random", "negative": "random"}):
        add("select_triplets", bad, "not finite", similarity="dot", **kind)
    for dtype in (torch.float16, torch.bfloat16):
        add("sct_loss", random_inputs(150, 20, dtype=dtype), f"{dtype}")
    return found


def save_results(path: str) -> None:
    """Run every case at the level that HARDMINE_SIMD names, print that level and save the results."""
    results = {
        case: tuple(run(getattr(ops, name), inputs, **options)) for case, (name, inputs, options) in cases().items()
    }
    torch.save(results, path)
    print(hardmine.simd_level())  # noqa: T201


@pytest.fixture(scope="module")
def results_at(tmp_path_factory):
    """The results at a SIMD level, computed once."""
    folder = tmp_path_factory.mktemp("simd")

    def results(level: str) -> dict[str, Result]:
        path = folder / f"{level}.pt"
        if not path.exists():
            assert output_of(run_python(__file__, str(path), HARDMINE_SIMD=level)) == level
        return {case: Result(*tensors) for case, tensors in torch.load(path).items()}

    return results


@pytest.mark.subprocess
@pytest.mark.parametrize("level", SIMD_LEVELS[1:])
def test_op_simd_levels_are_bitwise_equal(level, results_at):
    if level not in simd_levels():
        pytest.skip(f"this CPU or build has {', '.join(simd_levels())} only")
    scalar, results = results_at("scalar"), results_at(level)
    assert scalar.keys() == results.keys()
    assert any(result.grad.any() for result in scalar.values())
    for case, expected in scalar.items():
        try:
            assert_results_bitwise_equal(results[case], expected)
        except AssertionError as error:
            raise AssertionError(f"{level} differs from scalar: {case}") from error


@pytest.mark.subprocess
def test_simd_level_of_process_is_known():
    assert hardmine.simd_level() in simd_levels()
    assert "scalar" in simd_levels()


if __name__ == "__main__":
    save_results(sys.argv[1])
