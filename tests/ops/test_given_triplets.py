"""The contract of the losses on given triplets: edges, dtypes, identical bits, torch's own checks."""

import math
import sys

import pytest
import torch

import hardmine
from hardmine import ops, reference
from support.comparisons import assert_bitwise_equal
from support.ops import FLOAT_DTYPES, REDUCTIONS
from support.processes import SIMD_LEVELS, output_of, run_python, simd_levels, threads
from triplets import (
    CASES,
    GIVEN,
    NO_TRIPLETS,
    Batch,
    Outcome,
    assert_outcomes_close,
    assert_outcomes_equal,
    case_id,
    compiled_arguments,
    random_batch,
    random_triplets,
    run_given,
    run_given_both,
    skip_if_triplets_are_unchecked,
)

pytestmark = pytest.mark.emulated

each_op = pytest.mark.parametrize("name", GIVEN)
each_case = pytest.mark.parametrize(("name", "options"), CASES, ids=case_id)
ignore_warnings_of_torch = pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")


# Edges


@pytest.mark.thinned(5)
@each_case
@pytest.mark.parametrize(
    ("rows", "depth", "count"),
    [(0, 5, 0), (1, 5, 0), (2, 1, 0), (3, 1, 1), (3, 5, 1), (3, 1, 9), (4, 2, 200), (12, 20_000, 20), (300, 3, 2)],
)
def test_op_edge_shapes_match_reference(name, options, rows, depth, count, device):
    batch = random_batch(rows, depth, count, dtype=torch.float64, seed=5).to(device)
    result, expected = run_given_both(name, batch, **options)
    assert result.grad.shape == (rows, depth)
    assert_outcomes_close(result, expected, 1e-12)


@each_op
@pytest.mark.parametrize("depth", [1, 2, 7, 8, 15, 16, 17, 31, 32, 33, 255, 256, 257])
def test_op_depths_around_vector_sizes_match_reference(name, depth, device):
    batch = random_batch(23, depth, 30, dtype=torch.float64, seed=depth).to(device)
    for similarity in ("cosine", "euclidean"):
        assert_outcomes_close(*run_given_both(name, batch, similarity=similarity), 1e-12)


@each_case
def test_op_without_triplets_is_zero(name, options, device):
    batch = Batch(random_batch().embeddings, NO_TRIPLETS).to(device)
    outcome = run_given(getattr(ops, name), batch, **options)
    assert outcome.loss.item() == 0.0
    assert outcome.loss.shape == ()
    assert not outcome.grad.any()


@pytest.mark.parametrize("count", [0, 1, 9])
def test_loss_has_shape_of_reduction(count, device):
    batch = random_batch(count=count).to(device)
    assert ops.indexed_triplet_loss(*batch, reduction="none").shape == (count,)
    assert ops.indexed_triplet_loss(*batch, reduction="sum").shape == ()


@each_case
def test_op_rows_in_many_or_no_triplets_match_reference(name, options, device):
    """Row 0 is in every triplet, in every position; rows 20 and up are in none."""
    batch = random_batch(30, 8, 0, dtype=torch.float64)
    triplets = torch.tensor([[0, 1 + i % 19, 1 + (i + 7) % 19] for i in range(60)])
    for t, triplet in enumerate(triplets):
        triplets[t] = triplet.roll(t % 3)
    result, expected = run_given_both(name, batch._replace(triplets=triplets).to(device), **options)
    assert expected.grad[0].any()
    assert not result.grad[20:].any()
    assert_outcomes_close(result, expected, 1e-12)


@each_op
def test_op_noncontiguous_inputs_and_gradients_are_equal(name, device):
    batch = random_batch(depth=9).to(device)
    strided = Batch(*(torch.stack([t, t.neg()], -1)[..., 0] for t in batch))
    transposed = Batch(*(t.T.contiguous().T for t in batch))
    expected = run_given(getattr(ops, name), batch)
    assert expected.grad.any()
    for variant in (strided, transposed):
        assert not variant.embeddings.is_contiguous()
        assert not variant.triplets.is_contiguous()
        assert_outcomes_equal(run_given(getattr(ops, name), variant), expected)
    if name == "indexed_triplet_loss":
        x = batch.embeddings.requires_grad_()
        loss = ops.indexed_triplet_loss(x, batch.triplets, reduction="none")
        upstream = torch.linspace(-1, 1, 120, device=device).reshape(60, 2)[:, 0]
        (strided,) = torch.autograd.grad(loss, x, upstream, retain_graph=True)
        (straight,) = torch.autograd.grad(loss, x, upstream.contiguous())
        assert_bitwise_equal(strided, straight)


@each_op
@pytest.mark.parametrize(
    "dtype",
    [torch.uint8, torch.int8, torch.int16, torch.int32, torch.uint16, torch.uint32, torch.uint64],
    ids=str,
)
def test_op_any_integer_triplet_dtype_is_equal(name, dtype):
    batch = random_batch()
    expected = run_given(getattr(ops, name), batch)
    assert_outcomes_equal(run_given(getattr(ops, name), batch._replace(triplets=batch.triplets.to(dtype))), expected)


@each_op
@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
def test_op_outputs_have_documented_dtypes(name, dtype, device):
    outcome = run_given(getattr(ops, name), random_batch(dtype=dtype).to(device))
    assert outcome.loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert outcome.grad.dtype == dtype
    assert outcome.grad.any()


# NaN, infinite and extreme values


@pytest.mark.thinned(5)
@each_case
@pytest.mark.parametrize("bad", [math.nan, math.inf, 3e19], ids=["nan", "inf", "overflow"])
@pytest.mark.parametrize("row", [0, 39], ids=["in a triplet", "in none"])
def test_op_nonfinite_row_gives_nan(name, options, bad, row, device):
    batch = random_batch()
    batch.triplets[0] = torch.tensor([0, 1, 2])
    batch.triplets[batch.triplets == 39] = 38
    batch = batch._replace(triplets=batch.triplets[batch.triplets.sort().values.diff().ne(0).all(1)])
    batch.embeddings[row, 4] = bad
    outcome = run_given(getattr(ops, name), batch.to(device), **options)
    assert outcome.loss.isnan().all()
    assert outcome.grad.isnan().all()
    assert getattr(reference, name)(*batch, **options).isnan().all()
    nothing = run_given(getattr(ops, name), batch._replace(triplets=NO_TRIPLETS).to(device), **options)
    assert nothing.loss.isnan()
    assert nothing.grad.isnan().all()


@each_case
def test_op_zero_and_equal_rows_match_reference(name, options, device):
    batch = random_batch(24, 5, 80, dtype=torch.float64)
    batch.embeddings[::5] = 0.0
    batch.embeddings[1::5] = batch.embeddings[1]
    result, expected = run_given_both(name, batch.to(device), **options)
    assert result.grad.isfinite().all()
    assert result.grad.any()
    assert_outcomes_close(result, expected, 1e-12)


# Autograd


@each_op
def test_op_second_derivative_raises(name):
    batch = random_batch()
    x = batch.embeddings.requires_grad_()
    (grad,) = torch.autograd.grad(getattr(ops, name)(x, batch.triplets), x, create_graph=True)
    with pytest.raises(NotImplementedError, match=rf"hardmine::{name} has no second derivative"):
        grad.square().sum().backward()


@each_op
def test_op_gradient_only_if_required(name):
    batch = random_batch()
    assert not getattr(ops, name)(*batch).requires_grad
    batch.embeddings.requires_grad_()
    assert getattr(ops, name)(*batch).requires_grad
    with torch.no_grad():
        assert not getattr(ops, name)(*batch).requires_grad
    with torch.inference_mode():
        getattr(ops, name)(*batch)


# Identical bits for every thread count and SIMD level


@pytest.mark.cpu
@each_case
def test_op_any_thread_count_is_bitwise_equal(name, options):
    """The inputs are large enough for every loop to be split among 5 threads; rows occur in many triplets."""
    batch = random_batch(2000, 64, 100)
    batch = batch._replace(triplets=torch.cat([batch.triplets + 19 * i for i in range(60)]) % 2000)
    with threads(1):
        expected = run_given(getattr(ops, name), batch, **options)
    assert expected.grad.any(1).sum() > 1000
    for count in (1, 2, 3, 5, 5):
        with threads(count):
            assert_outcomes_equal(run_given(getattr(ops, name), batch, **options), expected)


SHAPES = [(3, 1, 1), (7, 16, 5), (33, 17, 40), (60, 257, 90), (300, 40, 500)]


def save_outcomes(path: str) -> None:
    """Run every case at the level that HARDMINE_SIMD names, print that level and save the outcomes."""
    outcomes = {
        f"{name}, {options}, {dtype}, {shape}": tuple(
            run_given(getattr(ops, name), random_batch(*shape, dtype=dtype, seed=1), **options)
        )
        for name, options in CASES
        for dtype in FLOAT_DTYPES
        for shape in SHAPES
    }
    torch.save(outcomes, path)
    print(hardmine.simd_level())  # noqa: T201


@pytest.fixture(scope="module")
def outcomes_at(tmp_path_factory):
    """The outcomes at a SIMD level, computed once."""
    folder = tmp_path_factory.mktemp("simd")

    def outcomes(level: str) -> dict[str, tuple]:
        path = folder / f"{level}.pt"
        if not path.exists():
            assert output_of(run_python(__file__, str(path), HARDMINE_SIMD=level)) == level
        return torch.load(path)

    return outcomes


@pytest.mark.slow
@pytest.mark.subprocess
@pytest.mark.cpu
@pytest.mark.parametrize("level", SIMD_LEVELS[1:])
def test_op_simd_levels_are_bitwise_equal(level, outcomes_at):
    if level not in simd_levels():
        pytest.skip(f"this CPU or build has {', '.join(simd_levels())} only")
    scalar, outcomes = outcomes_at("scalar"), outcomes_at(level)
    assert scalar.keys() == outcomes.keys()
    assert sum(bool(grad.any()) for _, grad in scalar.values()) > len(scalar) / 2
    for case, expected in scalar.items():
        try:
            assert_outcomes_equal(Outcome(*outcomes[case]), Outcome(*expected))
        except AssertionError as error:
            raise AssertionError(f"{level} differs from scalar: {case}") from error


MEMORY_SCRIPT = """
import re, sys, torch
from hardmine import ops
from triplets import random_triplets

def peak_mib():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 1024

def step(count):
    x = torch.randn(2000, 256, requires_grad=True)
    triplets = (random_triplets(2000, 100).repeat(count // 100, 1) + 7 * (torch.arange(count)[:, None] // 100)) % 2000
    getattr(ops, sys.argv[1])(x, triplets).backward()
    assert x.grad.any(1).sum() > 100

step(100)
before = peak_mib()
step(100_000)
print(peak_mib() - before)
"""


@pytest.mark.slow
@pytest.mark.subprocess
@each_op
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/status")
def test_op_peak_memory_is_below_triplets_times_depth(name):
    """The rows of 100,000 triplets alone would take 293 MiB."""
    assert float(output_of(run_python("-c", MEMORY_SCRIPT, name))) < 40


# torch's own checks


@pytest.mark.slow
@ignore_warnings_of_torch
@each_op
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("count", [0, 30])
@pytest.mark.parametrize("unreduced", [False, True])
def test_op_opcheck_passes(name, dtype, count, unreduced):
    x, *rest = compiled_arguments(name, random_batch(count=count, dtype=dtype))
    if unreduced and name == "global_loss":
        pytest.skip("a global loss has no terms of single triplets")
    if unreduced:
        rest[-1] = REDUCTIONS.index("none")
    op, backward = (getattr(torch.ops.hardmine, f"{name}{suffix}").default for suffix in ("", "_backward"))
    torch.library.opcheck(op, (x.requires_grad_(), *rest))
    x = x.detach()
    loss, positive, negative = op(x, *rest)
    for extra in (None, torch.ones_like(positive)):
        torch.library.opcheck(backward, (torch.ones_like(loss), extra, None, x, rest[0], positive, negative, *rest[1:]))


@each_op
def test_op_meta_tensors_match_shapes_and_dtypes(name):
    batch = random_batch(dtype=torch.float16)
    for options in ({}, {"reduction": "none"})[: 1 if name == "global_loss" else 2]:
        on_cpu, on_meta = (run_given(getattr(ops, name), b, **options) for b in (batch, batch.to("meta")))
        for a, b in zip(on_meta, on_cpu, strict=True):
            assert (a.device.type, a.shape, a.dtype) == ("meta", b.shape, b.dtype)
    getattr(ops, name)(*batch.to("meta"), labels=torch.arange(40, device="meta"))


@pytest.mark.cpu
@pytest.mark.slow
@ignore_warnings_of_torch
@each_op
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_op_torch_compile_has_no_graph_break_and_is_equal(name, backend):
    """Compiled forward and backward, with labels too.

    The second call compiles for any batch size and any number of triplets.
    """
    labels = torch.arange(48)

    def loss(x, triplets, labels):
        return getattr(ops, name)(x, triplets, labels=labels)

    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, backend=backend)
    for rows, count in ((48, 60), (37, 21), (21, 44)):
        batch = random_batch(rows, count=count, seed=rows)
        x = batch.embeddings.requires_grad_()
        eager = getattr(ops, name)(x, batch.triplets)
        fused = compiled(x, batch.triplets, labels[:rows])
        assert_bitwise_equal(fused, eager)
        (expected,) = torch.autograd.grad(eager, x)
        assert expected.any()
        assert_bitwise_equal(torch.autograd.grad(fused, x)[0], expected)


@pytest.mark.cpu
@pytest.mark.slow
@ignore_warnings_of_torch
@each_op
@skip_if_triplets_are_unchecked
def test_op_torch_compile_bad_indices_raise(name):
    torch.compiler.reset()
    compiled = torch.compile(getattr(ops, name), fullgraph=True, backend="aot_eager")
    with pytest.raises(ValueError, match=r"triplets must lie in \[0, B\) = \[0, 5\), got 5 at \[0, 2\]"):
        compiled(torch.ones(5, 3), torch.tensor([[0, 1, 5]]))


def test_random_triplets_have_three_different_rows():
    triplets = random_triplets(7, 200)
    assert triplets.sort().values.diff().gt(0).all()
    assert triplets.unique().tolist() == list(range(7))


if __name__ == "__main__":
    save_outcomes(sys.argv[1])
