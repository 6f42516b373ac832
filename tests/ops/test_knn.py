"""Exact nearest neighbors: by hand, ties, both ways to visit pairs, every k, and against a stable sort."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hardmine import ops, reference
from support.comparisons import (
    assert_as_accurate_as_plain_torch,
    assert_bitwise_equal,
    assert_results_close,
    assert_same_selection,
)
from support.inputs import HAND_POINTS, exact_inputs, random_inputs, seeded
from support.ops import SIMILARITIES
from support.runs import leaves_of, run, run_both

pytestmark = pytest.mark.emulated

IMPLEMENTATIONS = pytest.mark.parametrize("knn", [ops.knn, reference.knn], ids=["op", "ref"])
each_similarity = pytest.mark.parametrize("similarity", SIMILARITIES)
with_and_without_refs = pytest.mark.parametrize("refs", [None, 150], ids=["self", "refs"])

# The neighbors of each point of HAND_POINTS (see support.inputs), nearest first, and their similarities.
HAND_WORKED = {
    "cosine": (
        [[2, 1, 3, 4], [2, 3, 0, 4], [1, 0, 3, 4], [1, 2, 0, 4], [3, 1, 2, 0]],
        [[0.8, 0.6, 0, -1], [0.96, 0.8, 0.6, -0.6], [0.96, 0.8, 0.6, -0.8], [0.8, 0.6, 0, 0], [0, -0.6, -0.8, -1]],
    ),
    "dot": (
        [[2, 1, 3, 4], [2, 3, 0, 4], [1, 0, 3, 4], [1, 2, 0, 4], [3, 0, 1, 2]],
        [[4, 3, 0, -1], [24, 4, 3, -3], [24, 4, 3, -4], [4, 3, 0, 0], [0, -1, -3, -4]],
    ),
    "euclidean": (
        [[3, 4, 2, 1], [2, 3, 0, 4], [1, 0, 3, 4], [0, 4, 1, 2], [3, 0, 1, 2]],
        [[-math.sqrt(d) for d in row] for row in ([2, 4, 18, 20], [2, 18, 20, 32], [2, 18, 20, 34], [2, 2, 18, 20])]
        + [[-math.sqrt(d) for d in (2, 4, 32, 34)]],
    ),
}


@IMPLEMENTATIONS
@pytest.mark.parametrize(("similarity", "worked"), HAND_WORKED.items(), ids=HAND_WORKED)
@pytest.mark.parametrize("k", [1, 2, 4, 6])
def test_knn_hand_worked_neighbors_match(knn, similarity, worked, k, device):
    neighbors = knn(HAND_POINTS.embeddings.to(device), k=k, similarity=similarity)
    for query, (index, s) in enumerate(zip(*worked, strict=True)):
        missing = max(k - 4, 0)
        assert neighbors.index[query].tolist() == index[:k] + [-1] * missing
        expected = s[:k] + [math.nan] * missing
        assert neighbors.similarity[query].tolist() == pytest.approx(expected, abs=1e-6, nan_ok=True)


@IMPLEMENTATIONS
def test_knn_defaults_are_ten_nearest_by_cosine(knn, device):
    """The 10 nearest by cosine: among the other rows without refs, and among all refs with them."""
    x = random_inputs(30).embeddings.to(device)
    similarity, index = knn(x)
    assert (similarity.shape, index.shape) == ((30, 10), (30, 10))
    assert not (index == torch.arange(30, device=device)[:, None]).any()
    assert similarity.max() < 1 - 1e-6
    similarity, index = knn(x, x)
    assert index[:, 0].tolist() == list(range(30))
    assert similarity[:, 0].tolist() == pytest.approx([1.0] * 30)


@IMPLEMENTATIONS
def test_knn_exclude_self_false_includes_query(knn, device):
    x = random_inputs(30).embeddings.to(device)
    assert_same_selection(knn(x, exclude_self=False), knn(x, x))
    assert_same_selection(knn(x, exclude_self=True), knn(x))
    assert_same_selection(knn(x, x, exclude_self=False), knn(x, x))


# Ties


@each_similarity
@with_and_without_refs
@pytest.mark.parametrize("k", [1, 7, 200])
def test_knn_small_integers_are_exact(similarity, refs, k, device):
    """Indices equal those of a stable sort; similarities are equal to the bit."""
    inputs = exact_inputs(similarity, 180, 4, refs=refs).to(device)
    result, expected = run_both("knn", inputs, similarity=similarity, k=k)
    assert_same_selection(result.selection, expected.selection)
    s = expected.selection[0]
    if k > 1:
        assert (s[:, 1:] == s[:, :-1]).sum() > 100, "many ties"
    assert_results_close(result, expected, 1e-5)


@each_similarity
@pytest.mark.parametrize("rows", [5, 97, 500])
def test_knn_equal_rows_go_to_lowest_index(similarity, rows, device):
    """All similarities tie, so the neighbors are the first other rows, in order."""
    x = torch.tensor([[3.0, 4.0]], device=device).expand(rows, 2)
    for k in (1, 3, 40, rows + 2):
        neighbors = ops.knn(x, k=k, similarity=similarity)
        others = torch.arange(rows).expand(rows, rows)[~torch.eye(rows, dtype=torch.bool)].reshape(rows, rows - 1)
        expected = torch.nn.functional.pad(others, (0, max(k - rows + 1, 0)), value=-1)[:, :k]
        assert neighbors.index.tolist() == expected.tolist()
        among_all = ops.knn(x, x, k=min(k, rows), similarity=similarity)
        assert among_all.index.tolist() == [list(range(min(k, rows)))] * rows


@each_similarity
def test_knn_blocks_of_equal_rows_match_reference(similarity, device):
    """A hundred copies of each of six rows, in mixed order: the k-th neighbor is within a tie."""
    rows = torch.tensor([[1.0, 0], [0, 1], [1, 1], [-1, 0], [3, 4], [-4, 3]])
    x = rows[torch.randperm(600, generator=seeded(0)) % 6].to(device)
    for k in (1, 50, 99, 100, 101, 350, 599, 700):
        assert_same_selection(ops.knn(x, k=k, similarity=similarity), reference.knn(x, k=k, similarity=similarity))


# Both ways to visit pairs


@pytest.mark.thinned(5)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@each_similarity
@pytest.mark.parametrize("rows", [2, 95, 96, 97, 191, 192, 193, 400])
def test_knn_refs_equal_to_queries_give_same_lists(dtype, similarity, rows, device):
    """Without refs each unordered pair is visited once.

    With the queries as refs, dropping the query itself gives the same lists.
    """
    x = random_inputs(rows, 9, dtype=dtype, seed=rows).embeddings.to(device)
    k = min(60, rows - 1)
    alone = ops.knn(x, k=k, similarity=similarity)
    whole = ops.knn(x, x.clone(), k=k + 1, similarity=similarity)
    keep = whole.index != torch.arange(rows, device=device)[:, None]
    keep[:, -1] &= ~keep.all(1)
    for actual, expected in zip(alone, whole, strict=True):
        assert_bitwise_equal(actual, expected[keep].reshape(rows, k))
    for actual, expected in zip(ops.knn(x, k=k + 1, exclude_self=False, similarity=similarity), whole, strict=True):
        assert_bitwise_equal(actual, expected)


@pytest.mark.thinned(11)
@pytest.mark.parametrize(
    "rows",
    [
        *(1, 2, 3, 94, 95, 96, 97, 98, 191, 192, 193, 288, 383, 384, 385),
        *(pytest.param(rows, marks=pytest.mark.cpu) for rows in (577, 1000)),
    ],
)
@each_similarity
def test_knn_rows_around_block_sizes_match_reference(rows, similarity, device):
    for k in (1, 5, 33):
        inputs = random_inputs(rows, 3, dtype=torch.float64, seed=rows).to(device)
        assert_results_close(*run_both("knn", inputs, similarity=similarity, k=k), 1e-12)


@pytest.mark.thinned(5)
@pytest.mark.cpu
@pytest.mark.parametrize(("rows", "refs"), [(1, 1), (1, 5000), (2, 3001), (5, 191), (97, 193), (3000, 1), (1000, 7)])
@each_similarity
@pytest.mark.parametrize("k", [1, 10, 300])
def test_knn_few_queries_or_refs_match_reference(rows, refs, similarity, k, device):
    inputs = random_inputs(rows, 4, 4, refs, dtype=torch.float64, seed=1).to(device)
    assert_results_close(*run_both("knn", inputs, similarity=similarity, k=k), 1e-12)


@each_similarity
def test_knn_without_queries_or_refs_is_empty(similarity, device):
    for rows, refs in ((0, None), (0, 4), (4, 0), (1, None)):
        inputs = random_inputs(rows, 3, refs=refs).to(device)
        result = run(ops.knn, inputs, similarity=similarity, k=3)
        assert result.selection[1].tolist() == [[-1] * 3] * rows
        assert result.selection[0].shape == (rows, 3)
        assert result.selection[0].isnan().all()
        assert not result.grad.any()


@each_similarity
@with_and_without_refs
def test_knn_smaller_k_is_prefix_of_full_list(similarity, refs, device):
    inputs = random_inputs(140, 6, refs=refs).to(device)
    x, y = inputs.embeddings, inputs.ref_embeddings
    candidates = refs or 139
    whole = ops.knn(x, y, k=candidates, similarity=similarity)
    assert (whole.index >= 0).all()
    assert (whole.index.sort(1).values.diff(dim=1) > 0).all(), "no repeats"
    assert (whole.similarity[:, 1:] <= whole.similarity[:, :-1]).all()
    for k in (1, 2, 3, 15, 16, 17, 31, 32, 33, 100, candidates - 1):
        for actual, expected in zip(ops.knn(x, y, k=k, similarity=similarity), whole, strict=True):
            assert_bitwise_equal(actual, expected[:, :k].contiguous())


@pytest.mark.slow
@pytest.mark.cpu
@pytest.mark.parametrize("refs", [None, 2500], ids=["self", "refs"])
@each_similarity
def test_knn_max_k_matches_reference(refs, similarity, device):
    for rows in (700, 1024, 1025, 1500) if refs is None else (40,):
        inputs = random_inputs(rows, 6, refs=refs, dtype=torch.float64).to(device)
        assert_results_close(*run_both("knn", inputs, similarity=similarity, k=1024), 1e-12)


@pytest.mark.parametrize("order", ["best first", "best last"])
def test_knn_candidates_in_sorted_order_are_found(order, device):
    """Each further candidate improves the list of the best never, or always."""
    angles = torch.linspace(0, 3, 2000, dtype=torch.float64)
    angles = angles if order == "best first" else angles.flip(0)
    refs = torch.stack([angles.cos(), angles.sin()], 1).to(device)
    queries = torch.tensor([[1.0, 0.0]] * 3, dtype=torch.float64, device=device)
    for k in (1, 17, 500):
        index = torch.arange(k) if order == "best first" else 1999 - torch.arange(k)
        assert ops.knn(queries, refs, k=k).index.tolist() == [index.tolist()] * 3


@each_similarity
def test_knn_depth_one_and_huge_match_reference(similarity, device):
    for rows, depth in ((300, 1), (60, 4000)):
        inputs = random_inputs(rows, depth, dtype=torch.float64).to(device)
        result, expected = run_both("knn", inputs, similarity=similarity, k=20)
        if depth == 1 and similarity == "cosine":  # cosines are 1 and -1: all ties
            assert_same_selection(result.selection, expected.selection)
        else:
            assert_results_close(result, expected, 1e-12)


def test_knn_close_points_far_from_origin_keep_distances(device):
    """-|a - b| is computed from differences.

    With |a|^2 + |b|^2 - 2 a.b, all of these distances would round to 0 or to 1.
    """
    steps = torch.tensor([0.0, 1.0, 3.0, 7.0]) / 4
    x = (1e5 + steps)[:, None].expand(4, 16).to(device)
    neighbors = ops.knn(x, k=3, similarity="euclidean")
    assert neighbors.index.tolist() == [[1, 2, 3], [0, 2, 3], [1, 0, 3], [2, 1, 0]]
    assert neighbors.similarity[0].tolist() == [-1.0, -3.0, -7.0]


# Values that are not finite


def test_knn_nan_and_minus_infinity_are_not_candidates(device):
    """NaN is never a candidate, nor is minus infinity, which every number would beat."""
    queries = torch.tensor([[1.0, 0.0], [math.nan, 1.0], [-math.inf, 0.5]], device=device)
    refs = torch.tensor([[1.0, 2.0], [math.inf, 1.0], [2.0, math.nan], [3.0, 0.0]], device=device)
    neighbors = ops.knn(queries, refs, k=4, similarity="dot")
    # s of query 0: 1, inf, NaN, 3; s of query 2: -inf, -inf, NaN, -inf
    assert neighbors.index.tolist() == [[1, 3, 0, -1], [-1] * 4, [-1] * 4]
    assert neighbors.similarity[0].tolist() == pytest.approx([math.inf, 3.0, 1.0, math.nan], nan_ok=True)
    assert neighbors.similarity[1:].isnan().all()


@each_similarity
@with_and_without_refs
def test_knn_nan_row_leaves_other_lists_equal(similarity, refs, device):
    inputs = random_inputs(50, 5, refs=refs).to(device)
    clean = run(ops.knn, inputs, similarity=similarity, k=9)
    rows = inputs.embeddings if refs is None else inputs.ref_embeddings
    bad = int(clean.selection[1][0, 0])
    rows[bad] = math.nan
    result = run(ops.knn, inputs, similarity=similarity, k=9)
    assert not (result.selection[1] == bad).any()
    same = ~(clean.selection[1] == bad).any(1)
    if refs is None:
        assert (result.selection[1][bad] == -1).all()
        same[bad] = False
    assert 10 < same.sum() < 50
    for actual, expected in zip(result.selection, clean.selection, strict=True):
        assert_bitwise_equal(actual[same], expected[same])


# Accuracy and gradients


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@each_similarity
@with_and_without_refs
def test_knn_error_is_at_most_twice_plain_torch(dtype, similarity, refs, device):
    inputs = random_inputs(120, 40, refs=refs, dtype=dtype, spread=2.5, seed=2).to(device)
    exact = assert_as_accurate_as_plain_torch("knn", inputs, similarity=similarity, k=5)
    assert exact.grad.any(1).all()


@pytest.mark.thinned(5)
@each_similarity
@with_and_without_refs
@pytest.mark.parametrize("k", [1, 3, 30])
def test_knn_gradcheck_passes(similarity, refs, k, device):
    inputs = random_inputs(12, 4, 3, refs and 20, spread=1.2, dtype=torch.float64, seed=1).to(device)
    leaves = leaves_of(inputs)

    def similarities(x, y=None):
        neighbors = ops.knn(x, y, k=k, similarity=similarity)
        return neighbors.similarity[neighbors.index >= 0]  # gradcheck cannot compare NaN

    assert torch.autograd.gradcheck(similarities, leaves, eps=1e-6, atol=1e-6, rtol=1e-5)
    upstream = torch.linspace(1, 2, len(similarities(*leaves)), dtype=torch.float64, device=device)
    assert all(g.any() for g in torch.autograd.grad(similarities(*leaves), leaves, upstream))


def test_knn_hand_worked_gradient_matches(device):
    """Query (1, 2) against (3, 1), (2, 2), (-1, -1): dot products 6 with ref 1 and 5 with ref 0; ref 2 is not listed.

    With upstream gradients 2 and 10: 2 (2, 2) + 10 (3, 1) for the query, 10 (1, 2) for ref 0, 2 (1, 2) for ref 1.
    """
    x = torch.tensor([[1.0, 2.0]], device=device, requires_grad=True)
    refs = torch.tensor([[3.0, 1.0], [2.0, 2.0], [-1.0, -1.0]], device=device, requires_grad=True)
    neighbors = ops.knn(x, refs, k=2, similarity="dot")
    assert neighbors.index.tolist() == [[1, 0]]
    assert neighbors.similarity.tolist() == [[6.0, 5.0]]
    neighbors.similarity.backward(torch.tensor([[2.0, 10.0]], device=device))
    assert x.grad.tolist() == [[34.0, 14.0]]
    assert refs.grad.tolist() == [[10.0, 20.0], [2.0, 4.0], [0.0, 0.0]]


@each_similarity
def test_knn_equal_points_and_missing_neighbors_have_finite_gradient(similarity, device):
    x = torch.tensor([[1.0, 1.0], [1.0, 1.0], [2.0, 0.0]], device=device, requires_grad=True)
    neighbors = ops.knn(x, k=4, similarity=similarity)
    neighbors.similarity.backward(torch.ones_like(neighbors.similarity))  # entries with index -1 included
    assert x.grad.isfinite().all()
    assert x.grad.any()


@each_similarity
def test_knn_gradient_equals_that_of_select_triplets(similarity, device):
    """The first neighbor among refs of another class is the hardest negative."""
    inputs = random_inputs(40, 6, refs=60).to(device)
    strangers = inputs._replace(ref_labels=inputs.ref_labels + 1000)
    leaves = leaves_of(strangers)
    by_knn = ops.knn(strangers.embeddings, strangers.ref_embeddings, k=1, similarity=similarity)
    selected = ops.select_triplets(*strangers, negative="hardest", similarity=similarity)
    assert torch.equal(by_knn.index[:, 0], selected.negative_index)
    assert_bitwise_equal(by_knn.similarity[:, 0], selected.negative_similarity)
    upstream = torch.linspace(1, 2, 40, device=device)
    one = torch.autograd.grad(by_knn.similarity[:, 0], leaves, upstream)
    two = torch.autograd.grad(selected.negative_similarity, leaves, upstream)
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6 * b.abs().max().item())


# Random inputs and options


@st.composite
def problems(draw):
    inputs = random_inputs(
        rows=draw(st.integers(0, 60)),
        depth=draw(st.integers(2, 20)),
        refs=draw(st.none() | st.integers(0, 60)),
        dtype=torch.float64,
        seed=draw(st.integers(0, 10_000)),
    )
    alone = inputs.ref_embeddings is None
    options = {
        "similarity": draw(st.sampled_from(SIMILARITIES)),
        "k": draw(st.integers(1, 70)),
        "exclude_self": draw(st.sampled_from([None, True, False] if alone else [None, False])),
    }
    return inputs, options


@settings(max_examples=300, deadline=None, derandomize=True)
@given(problems())
def test_knn_random_inputs_and_options_match_reference(problem):
    inputs, options = problem
    if options["exclude_self"] is False and options["similarity"] == "euclidean" and inputs.ref_embeddings is None:
        # with distances, each query is at distance 0 of itself: a kink of the gradient
        options = {**options, "similarity": "dot"}
    assert_results_close(*run_both("knn", inputs, **options), 1e-10)
