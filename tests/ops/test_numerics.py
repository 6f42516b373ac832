"""Rows without a direction, cosines that round to more than 1, rows that underflow, and tiny batches."""

import itertools

import pytest
import torch

import hardmine
from hardmine import ops, reference
from hardmine.mining import smart_triplets
from support.comparisons import assert_results_bitwise_equal
from support.inputs import Inputs, random_inputs
from support.ops import FLOAT_DTYPES, OPS, POSITIVES, REDUCTIONS, each_of, each_with_similarity, similarities_of_op
from support.runs import run, with_generator
from triplets import CASES, NO_TRIPLETS, Batch, case_id, random_batch, run_given

# Rows without a direction

NORMALIZING = [
    (name, options)
    for name in OPS
    for options in {
        "select_triplets": [{}, {"positive": "random", "negative": "random"}],
        "tuplet_loss": [{"positive": positive} for positive in POSITIVES],
        "batch_all_triplet_loss": [{"squared": True}, {"squared": False}],
    }.get(name, [{}])
]


def rows_without_direction(length, dtype, refs=None):
    """Inputs in which every fifth row has no direction; so have the refs."""
    inputs = random_inputs(24, 5, 3, refs, dtype=dtype)
    for rows in (inputs.embeddings, inputs.ref_embeddings):
        if rows is not None:
            rows[::5] *= length
    return inputs


@pytest.mark.thinned(7)
@pytest.mark.parametrize(("name", "options"), NORMALIZING, ids=str)
@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
@pytest.mark.parametrize("length", [0.0, 1e-14])
def test_row_without_direction_has_zero_gradient(name, options, dtype, length, device):
    for inputs in (rows_without_direction(length, dtype), rows_without_direction(length, dtype, 25)):
        result = run(getattr(ops, name), inputs.to(device), **options)
        expected = run(getattr(reference, name), inputs.to(device).to(torch.float64), **options)
        for grad, wanted in ((result.grad, expected.grad), (result.ref_grad, expected.ref_grad)):
            if grad is None:
                continue
            assert (grad[::5] == 0).all()
            assert (wanted[::5] == 0).all()
            scale = wanted.abs().max().item()
            assert scale > 0, "other rows have gradients"
            assert (grad.double() - wanted).abs().max() <= max(1e-5, 8 * torch.finfo(dtype).eps) * scale


@pytest.mark.parametrize(("name", "options"), CASES, ids=case_id)
@pytest.mark.parametrize("length", [0.0, 1e-14])
def test_given_triplets_row_without_direction_has_zero_gradient(name, options, length, device):
    batch = random_batch(24, 5, 80)
    batch.embeddings[::5] *= length
    if options.get("similarity", "cosine") != "cosine":
        return
    for dtype in FLOAT_DTYPES:
        grad = run_given(getattr(ops, name), batch.to(device).to(dtype), **options).grad
        assert (grad[::5] == 0).all()
        assert grad.any()


@each_of(OPS)
def test_rows_above_epsilon_keep_their_gradient(name, device):
    inputs = random_inputs(24, 5, 3, dtype=torch.float64)
    inputs.embeddings[::5] *= 2e-12 / inputs.embeddings[::5].norm(dim=1, keepdim=True)
    assert run(getattr(ops, name), inputs.to(device)).grad[::5].abs().max() > 1e9


# Cosines never exceed 1


def nearly_parallel(dtype=torch.float32, sign=1):
    """Rows that are multiples of three directions, whose cosines round to values around 1.

    Some of the cosines exceed 1. With ``sign`` -1, some are also around -1.
    """
    directions = torch.randn(3, 33, dtype=dtype, generator=torch.Generator().manual_seed(0))
    multiples = torch.linspace(0.5, 3, 40, dtype=dtype)[:, None]
    if sign < 0:
        multiples[::2] *= -1
    inputs = Inputs(directions.repeat(14, 1)[:40] * multiples, torch.arange(40) // 2 % 5)
    unit = torch.nn.functional.normalize(inputs.embeddings)
    assert (unit @ unit.T).max() > 1, "rounding is at work"
    return inputs


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("sign", [1, -1])
def test_cosine_never_exceeds_one(dtype, sign, device):
    inputs = nearly_parallel(dtype, sign).to(device)
    refs = Inputs(*inputs[:2], *inputs[:2])
    found = [ops.knn(inputs.embeddings, k=39).similarity, ops.knn(inputs.embeddings, inputs.embeddings, 40).similarity]
    for positive, negative in itertools.product(("easiest", "hardest", "random"), ("hardest", "easiest", "random")):
        for given in (inputs, refs):
            found += ops.select_triplets(*given, positive=positive, negative=negative)[2:]
    for fallback in (None, "hardest", "easiest"):
        found += ops.select_triplets(*inputs, negative="semihard", semihard_fallback=fallback)[2:]
    for positive in ("easiest", "hardest"):
        found.append(ops.tuplet_loss(*inputs, positive=positive, return_terms=True)[1].positive_similarity)
    for name in ("triplet_loss", "sct_loss"):
        found += getattr(ops, name)(*inputs, return_selection=True)[1][2:]
    triplets = torch.tensor([[a, (a + 3) % 40, (a + 6) % 40] for a in range(40)], device=device)
    cosine_nca, unreduced = (0, 0, 0.1, 0.2, 1.0), 2
    found += torch.ops.hardmine.indexed_triplet_loss(inputs.embeddings, triplets, *cosine_nca, unreduced)[1:]
    for similarity in found:
        assert similarity.nan_to_num(0.0).abs().max() <= 1
    assert any((similarity == 1).any() for similarity in found)


@pytest.mark.parametrize("threshold", [1.0, 1.0 + 1e-7, 2.0])
def test_duplicate_threshold_of_one_drops_nothing(threshold, device):
    inputs = nearly_parallel().to(device)
    for options in ({"positive": "easiest"}, {"positive": "hardest"}, {"positive": "random"}):
        given = run(ops.select_triplets, inputs, duplicate_threshold=threshold, **options)
        assert_results_bitwise_equal(given, run(ops.select_triplets, inputs, **options))
        assert (given.selection[0] >= 0).all()
    for positive in POSITIVES:
        given = run(ops.tuplet_loss, inputs, duplicate_threshold=threshold, positive=positive)
        assert_results_bitwise_equal(given, run(ops.tuplet_loss, inputs, positive=positive))


def test_duplicate_threshold_below_minus_one_drops_everything(device):
    inputs = nearly_parallel(sign=-1).to(device)
    for positive in ("easiest", "hardest", "random"):
        index = ops.select_triplets(*inputs, positive=positive, duplicate_threshold=-1 - 1e-7)[0]
        assert (index == -1).all()


def test_semihard_negatives_compare_with_clamped_positives(device):
    """No selected negative reaches the similarity 1 of its positive. With ties included, every one may."""
    inputs = nearly_parallel().to(device)
    excluded = ops.select_triplets(*inputs, negative="semihard")
    included = ops.select_triplets(*inputs, negative="semihard", tie="include")
    at_one = excluded.positive_similarity == 1
    assert at_one.sum() > 5
    assert not (excluded.negative_similarity[at_one] == 1).any()
    assert (included.negative_similarity[at_one] == 1).all()


def test_similarity_limits_of_one_are_never_exceeded(device):
    """An anchor counts, or is hard, only if its similarities exceed a limit; no similarity exceeds 1."""
    inputs = nearly_parallel().to(device)
    options = {"negative": "hardest", "reduction": "none"}
    assert (ops.triplet_loss(*inputs, min_similarity=1.0, **options) == 0).all()
    easy = ops.sct_loss(*inputs, preset="code2020", duplicate_threshold=1.0, hard_cutoff=1.0, reduction="none")
    torch.testing.assert_close(easy, ops.triplet_loss(*inputs, **options), rtol=0, atol=0)


def test_smart_triplets_accepts_distances_of_cosines():
    x, labels = nearly_parallel()[:2]
    found = ops.knn(x, k=39)
    smart_triplets(found.index, 2 - 2 * found.similarity, labels, kappa=1.0)


def assert_verify_raises(verify, monkeypatch, name, distort, call, match=""):
    """``verify`` raises if the compiled op's results are replaced by ``distort(*results)``."""
    right = getattr(torch.ops.hardmine, name)
    monkeypatch.setattr(torch.ops.hardmine, name, lambda *args: distort(*right(*args)))
    with pytest.raises(hardmine.VerificationError, match=match), verify():
        call()
    monkeypatch.undo()


def test_verify_cosine_beyond_one_raises(verify, monkeypatch):
    inputs = nearly_parallel()
    beyond = 1 + 2.0**-23
    message = r"must lie in \[-1, 1\]"

    def scale_selection(s_ap, s_an, *indices):
        return s_ap * beyond, s_an * beyond, *indices

    def scale_neighbors(similarity, index):
        return similarity * beyond, index

    select, knn = (lambda: ops.select_triplets(*inputs)), (lambda: ops.knn(inputs.embeddings, k=3))
    assert_verify_raises(verify, monkeypatch, "select_triplets", scale_selection, select, message)
    assert_verify_raises(verify, monkeypatch, "knn", scale_neighbors, knn, message)


def test_verify_positive_dropped_at_threshold_one_raises(verify, monkeypatch):
    inputs = nearly_parallel()

    def drop_positives(s_ap, s_an, positive, negative):
        return s_ap * torch.nan, s_an, torch.full_like(positive, -1), negative

    def call():
        ops.select_triplets(*inputs, duplicate_threshold=1.0)

    assert_verify_raises(verify, monkeypatch, "select_triplets", drop_positives, call, "positive_index is not the best")


# Rows that underflow


@pytest.mark.thinned(11)
@pytest.mark.parametrize("size", [1e-18, 1e-20, 1e-22, 1e-30])
@each_with_similarity(OPS)
def test_verify_underflowing_rows_pass(name, similarity, size, verify):
    options = [{}]
    if name == "tuplet_loss":
        options = [{"positive": positive} for positive in POSITIVES]
    if name == "batch_all_triplet_loss":
        options = [{"squared": s, "margin": m} for s in (True, False) for m in (0.0, 0.2)]
    if name == "select_triplets":
        options = [{}, {"negative": "semihard"}, {"positive": "random", "negative": "random"}]
    for mixed in (False, True):
        inputs = random_inputs(24, 8, 4, 30)
        inputs.embeddings[:: 2 if mixed else 1] *= size
        for given in (inputs, inputs._replace(ref_embeddings=None, ref_labels=None)):
            for chosen in options:
                with verify() as report:
                    run(getattr(ops, name), given, similarity=similarity, **with_generator(chosen))
                assert report.checks == 1


@pytest.mark.thinned(5)
@pytest.mark.parametrize("size", [1e-18, 1e-20, 1e-22, 1e-30])
@pytest.mark.parametrize(("name", "options"), CASES, ids=case_id)
def test_verify_given_triplets_of_underflowing_rows_pass(name, options, size, verify):
    for step in (1, 2):
        batch = random_batch(24, 8, 60)
        batch.embeddings[::step] *= size
        with verify() as report:
            run_given(getattr(ops, name), batch, **options)
        assert report.checks == 1


@pytest.mark.parametrize("size", [1.0, 1e-8])
def test_verify_wrong_distance_of_short_rows_raises(size, verify, monkeypatch):
    """The allowance for underflow hides nothing at sizes whose squares float32 can represent."""
    queries = size * random_inputs(24, 8).embeddings

    def scale(similarity, index):
        return similarity * (1 + 1e-3), index

    assert_verify_raises(verify, monkeypatch, "knn", scale, lambda: ops.knn(queries, k=3, similarity="euclidean"))


# Tiny batches


def labels_of(rows):
    return torch.zeros(rows, dtype=torch.int64), torch.arange(rows)


def small_calls(name):
    """The op on tiny batches, refs and k of 0 and 1, one class and one class per row, and every kind of option."""
    choices = [{}]
    if name in ("select_triplets", "triplet_loss", "sct_loss"):
        negatives = ("hardest", "random") if name == "sct_loss" else ("hardest", "semihard", "random")
        choices = [{"positive": p, "negative": n} for p in ("easiest", "random") for n in negatives]
        if name == "sct_loss":
            choices = [{"preset": preset} for preset in ("paper", "code2020", "code2021")]
    elif name == "tuplet_loss":
        choices = [{"positive": p, "duplicate_threshold": t} for p in POSITIVES for t in (None, 0.5)]
    elif name == "batch_all_triplet_loss":
        choices = [{"squared": s, "reduction": r} for s in (True, False) for r in ("mean", "mean_active", "sum")]
    elif name == "knn":
        choices = [{"k": k} for k in (1, 2)]
    if name in ("triplet_loss", "sct_loss", "tuplet_loss"):
        choices = [{**choice, "reduction": r} for choice in choices for r in REDUCTIONS]
    sizes = itertools.product((0, 1, 2), (None, 0, 1))
    for (rows, refs), choice in itertools.product(sizes, choices):
        for labels, ref_labels in zip(labels_of(rows), labels_of(refs or 0), strict=True):
            x = torch.randn(rows, 3)
            given = (None, None) if refs is None else (torch.randn(refs, 3), ref_labels)
            yield Inputs(x, labels, *given), choice


@pytest.mark.slow
@each_of(OPS)
def test_verify_tiny_batches_pass(name, verify):
    calls = 0
    with verify() as report:
        for inputs, choice in small_calls(name):
            for similarity in similarities_of_op(name):
                run(getattr(ops, name), inputs, similarity=similarity, **choice)
                calls += 1
    assert report.checks == calls >= 36


@pytest.mark.parametrize(("name", "options"), CASES, ids=case_id)
def test_verify_tiny_given_triplets_pass(name, options, verify):
    with verify() as report:
        for rows in (0, 1, 3):
            run_given(getattr(ops, name), Batch(torch.randn(rows, 3), NO_TRIPLETS), **options)
        run_given(getattr(ops, name), Batch(torch.randn(3, 3), torch.tensor([[0, 1, 2]])), **options)
    assert report.checks == 4


def test_verify_tiny_neighbor_lists_pass(verify):
    with verify() as report:
        for rows, length in itertools.product((0, 1, 2), (0, 1)):
            for labels in labels_of(rows):
                smart_triplets(torch.full((rows, length), -1), torch.zeros(rows, length), labels, kappa=1.0)
    assert report.checks == 12
