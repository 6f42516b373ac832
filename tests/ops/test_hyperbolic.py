"""``similarity="hyperbolic"``: the negative distance of the Poincare ball, in every op that takes it."""

import math

import pytest
import torch

from hardmine import losses, ops, reference
from hardmine.ops import _hyperbolic
from support.comparisons import assert_bitwise_equal
from support.inputs import seeded
from support.processes import output_of, run_python, simd_levels, threads

pytestmark = pytest.mark.emulated

TRIPLET_OPTIONS = [
    {"negative": "hardest"},
    {"negative": "semihard", "term": "hinge", "margin": 0.3},
    {"positive": "hardest", "negative": "semihard", "semihard_margin": 0.5, "semihard_fallback": "hardest"},
    {"positive": "all", "negative": "semihard", "term": "soft_margin"},
    {"positive": "all", "negative": "hardest", "duplicate_threshold": -0.5},
    {"negative": "hardest", "negative_ranks": (1, 3)},
]
CALLS = [
    *[("triplet_loss", options) for options in TRIPLET_OPTIONS],
    ("sct_loss", {"lam": 0.5}),
    *[("logsumexp", {"pairs": pairs}) for pairs in ("positive", "negative", "all")],
    ("supcon_loss", {}),
    *[("tuplet_loss", {"positive": positive}) for positive in ("easiest", "hardest", "all")],
    ("tuplet_loss", {"positive": "all", "reduction": "mean_pairs"}),
    ("info_nce_loss", {"symmetric": True}),
    ("info_nce_loss", {}),
]
each_call = pytest.mark.parametrize(
    ("name", "options"), CALLS, ids=["-".join([n, *map(str, o.values())]) for n, o in CALLS]
)
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def ball_rows(rows, depth=5, dtype=torch.float64, seed=0, largest=0.95):
    """Rows of random norms in the ball, the same in float32 and float64."""
    x = torch.randn(rows, depth, generator=seeded(seed), dtype=torch.float64)
    norms = largest * torch.rand(rows, 1, generator=seeded(seed + 1), dtype=torch.float64) ** 0.3
    return (x / x.norm(dim=1, keepdim=True) * norms).float().to(dtype)


def evaluate(library, name, options, dtype=torch.float64, rows=48, refs=None, depth=5, largest=0.95, seed=0):
    """The result and the gradients."""
    leaves = [ball_rows(rows, depth, dtype, seed, largest).requires_grad_()]
    labels = [torch.arange(rows) % 8]
    if name == "info_nce_loss":
        leaves, labels = [*leaves, ball_rows(rows, depth, dtype, seed + 2, largest).requires_grad_()], []
        arguments = leaves
    elif refs:
        leaves.append(ball_rows(refs, depth, dtype, seed + 2, largest).requires_grad_())
        arguments = [leaves[0], *labels, leaves[1], torch.arange(refs) % 8]
    else:
        arguments = [*leaves, *labels]
    loss = getattr(library, name)(*arguments, similarity="hyperbolic", **options)
    scale = torch.linspace(0.5, 1.5, len(loss), dtype=loss.dtype) if loss.dim() else 1.0
    total = (torch.where(loss == -math.inf, 0.0, loss) * scale).sum()
    if not total.requires_grad:  # the reference, without a pair
        return loss.detach(), *map(torch.zeros_like, leaves)
    grads = torch.autograd.grad(total, leaves, allow_unused=True)
    return loss.detach(), *(torch.zeros_like(x) if g is None else g for x, g in zip(leaves, grads, strict=True))


def test_hyperbolic_hand_worked_distances_match():
    """From the origin the distance is 2 artanh(|y|); on one line, distances add up."""
    x = torch.tensor([[0.0, 0.0], [0.5, 0.0], [-0.8, 0.0], [0.0, 0.6]], dtype=torch.float64)
    similarity, index = ops.knn(x, k=3, similarity="hyperbolic")
    found = torch.zeros(4, 4, dtype=torch.float64).scatter(1, index, similarity)
    radii = [2 * math.atanh(norm) for norm in (0.5, 0.8, 0.6)]
    assert (-found[0, 1:]).tolist() == pytest.approx(radii)
    assert -found[1, 2].item() == pytest.approx(radii[0] + radii[1])
    assert -found[2, 3].item() == pytest.approx(math.acosh(1 + 2 * (0.64 + 0.36) / (0.36 * 0.64)))
    assert torch.equal(found, found.T)


@each_call
@pytest.mark.parametrize("refs", [None, 31])
@pytest.mark.parametrize("depth", [1, 5, 300])
def test_hyperbolic_values_and_gradients_equal_reference(name, options, refs, depth):
    found, expected = (evaluate(library, name, options, refs=refs, depth=depth) for library in (ops, reference))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)
    assert all(part.any() for part in found)


@each_call
def test_hyperbolic_sizes_around_blocks_equal_reference(name, options):
    for rows in (0, 1, 2, 95, 97, 193):
        found, expected = (evaluate(library, name, options, rows=rows) for library in (ops, reference))
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)


@each_call
def test_hyperbolic_pairs_with_equal_ids_are_left_out_as_in_reference(name, options):
    given = {**options, "ids": torch.arange(48) % 5}
    found, expected = (evaluate(library, name, given) for library in (ops, reference))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)
    assert not torch.equal(found[0], evaluate(ops, name, options)[0])


@pytest.mark.parametrize("largest", [0.5, 0.95, 0.999])
@each_call
def test_hyperbolic_errors_are_those_of_plain_pytorch(name, options, largest):
    """In float32 no worse than twice plain PyTorch, against float64: near the boundary, too.

    Near the boundary the gradients of a query's distances, up to 2 / gap each, are nearly parallel. In the gradient of
    a query in InfoNCE they cancel.
    """
    if options.get("negative") == "semihard" or "negative_ranks" in options:
        pytest.skip("rounding may change which negative has a rank, or is semi-hard")
    squares = []  # of the errors, of those of plain PyTorch, and of the exact results, per result and seed
    for seed in range(0, 40, 10):
        kwargs = {"rows": 120, "largest": largest, "seed": seed}
        found = evaluate(ops, name, options, torch.float32, **kwargs)
        plain = evaluate(reference, name, options, torch.float32, **kwargs)
        exact = evaluate(reference, name, options, torch.float64, **kwargs)
        differences = [(f.double() - e, p.double() - e, e) for f, p, e in zip(found, plain, exact, strict=True)]
        squares.append([[part.nan_to_num(0.0, 0.0, 0.0).square().sum() for part in parts] for parts in differences])
    for error, allowed, scale in torch.tensor(squares).sum(0).sqrt().tolist():
        assert error <= 2 * allowed + torch.finfo(torch.float32).eps * 16 * scale


@pytest.mark.parametrize("positive", ["easiest", "hardest", "random"])
@pytest.mark.parametrize("negative", ["hardest", "easiest", "semihard", "random"])
@each_dtype
def test_hyperbolic_selection_equals_reference(positive, negative, dtype):
    x, labels = ball_rows(97, dtype=dtype), torch.arange(97) % 9
    options = {"positive": positive, "negative": negative, "similarity": "hyperbolic"}
    found = []
    for library in (ops, reference):
        generator = {"generator": seeded(5)} if "random" in (positive, negative) else {}
        found.append(library.select_triplets(x, labels, **options, **generator))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-5, equal_nan=True)


@each_call
def test_hyperbolic_gradcheck(name, options):
    labels = torch.tensor([0, 0, 1, 1, 2, 2, 0, 1])
    leaves = [ball_rows(8, 3, largest=0.8).requires_grad_()]
    if name == "info_nce_loss":
        leaves.append(ball_rows(8, 3, seed=2, largest=0.8).requires_grad_())

    def loss(*rows):
        rest = [] if name == "info_nce_loss" else [labels]
        return getattr(ops, name)(*rows, *rest, similarity="hyperbolic", **options)

    assert torch.autograd.gradcheck(loss, leaves)


def test_hyperbolic_knn_gradients_equal_reference():
    for refs in (None, ball_rows(31, seed=2)):
        found = []
        for library in (ops, reference):
            leaves = [t.clone().requires_grad_() for t in (ball_rows(40), refs) if t is not None]
            similarity, index = library.knn(*leaves, k=4, similarity="hyperbolic")
            weights = torch.rand(similarity.shape, generator=seeded(1), dtype=torch.float64)
            found.append([similarity.detach(), index, *torch.autograd.grad((similarity * weights).sum(), leaves)])
        torch.testing.assert_close(*found, rtol=1e-10, atol=1e-12)


@each_call
def test_hyperbolic_equal_rows_have_distance_and_gradient_zero(name, options):
    x = ball_rows(6).repeat_interleave(2, 0).requires_grad_()
    labels = torch.arange(12) // 2
    arguments = (x, x.detach().clone()) if name == "info_nce_loss" else (x, labels)
    loss = getattr(ops, name)(*arguments, similarity="hyperbolic", **options)
    total = torch.where(loss == -math.inf, 0.0, loss).sum()
    assert total.isfinite()
    assert torch.autograd.grad(total, x)[0].isfinite().all()
    similarity, _ = ops.knn(x.detach(), k=1, similarity="hyperbolic")
    assert not similarity.any()


@each_call
@pytest.mark.parametrize("norm", [1.0, 1.5])
def test_hyperbolic_rows_outside_of_the_ball_raise(name, options, norm):
    x = ball_rows(8)
    x[3] = torch.tensor([norm, 0, 0, 0, 0])
    arguments = (ball_rows(8), x) if name == "info_nce_loss" else (x, torch.arange(8) // 2)
    row_name = "positive_key" if name == "info_nce_loss" else "embeddings"
    with pytest.raises(ValueError, match=rf"^{row_name} must have rows of norm below 1 .*, got {norm:g} at \[3\]$"):
        getattr(ops, name)(*arguments, similarity="hyperbolic", **options)


@pytest.mark.parametrize("norm", [1.0, 1.5])
def test_hyperbolic_rows_outside_of_the_ball_are_nan_where_values_are_unread(norm, monkeypatch):
    """As on a GPU, whose values a check would wait for."""
    monkeypatch.setattr(_hyperbolic, "has_values", lambda tensor: False)
    x, labels = ball_rows(8), torch.arange(8) // 2
    x[3] = torch.tensor([norm, 0, 0, 0, 0])
    similarity, index = ops.knn(x, k=7, similarity="hyperbolic")
    assert similarity[3].isnan().all()
    assert (index[3] == -1).all()
    assert not (index == 3).any()
    x.requires_grad_()
    for name, options in CALLS:
        if name != "info_nce_loss":
            loss = getattr(ops, name)(x, labels, similarity="hyperbolic", **options)
            assert loss.isnan().all()
            assert torch.autograd.grad(loss.sum(), x)[0].isnan().all()


@each_call
def test_hyperbolic_nan_rows_make_the_loss_nan(name, options):
    x = ball_rows(8)
    x[3, 1] = torch.nan
    x.requires_grad_()
    arguments = (x, ball_rows(8)) if name == "info_nce_loss" else (x, torch.arange(8) // 2)
    loss = getattr(ops, name)(*arguments, similarity="hyperbolic", **options)
    assert loss.isnan().all()
    assert torch.autograd.grad(loss.sum(), x)[0].isnan().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_hyperbolic_half_rows_are_computed_in_float32(dtype):
    x = ball_rows(24, dtype=dtype, largest=0.8)
    labels = torch.arange(24) % 4
    found, exact = [], []
    for rows, into in ((x.clone(), found), (x.float(), exact)):
        loss = ops.supcon_loss(rows.requires_grad_(), labels, similarity="hyperbolic")
        into.extend([loss.detach(), torch.autograd.grad(loss, rows)[0]])
    assert_bitwise_equal(found[0], exact[0])
    assert_bitwise_equal(found[1], exact[1].to(dtype))


@each_call
def test_hyperbolic_passes_verification(name, options, verify):
    x, labels = ball_rows(48, dtype=torch.float32, largest=0.9), torch.arange(48) % 8
    arguments = (x, ball_rows(48, dtype=torch.float32, seed=2)) if name == "info_nce_loss" else (x, labels)
    with verify() as report:
        getattr(ops, name)(*arguments, similarity="hyperbolic", **options)
        ops.knn(x, k=3, similarity="hyperbolic")
    assert report.ops[name].checks == 1


@pytest.mark.cpu
@each_call
def test_hyperbolic_any_threads_give_same_bits(name, options):
    found = []
    for count in (1, 3):
        with threads(count):
            found.append(evaluate(ops, name, options, torch.float32, 1000))
    for a, b in zip(*found, strict=True):
        assert_bitwise_equal(a, b)


LEVELS_SCRIPT = """
import sys, torch
from ops.test_hyperbolic import CALLS, ball_rows, evaluate
from hardmine import ops
results = []
for name, options in CALLS:
    for dtype in (torch.float32, torch.float64):
        results += evaluate(ops, name, options, dtype, 250, None if name == "info_nce_loss" else 97, 20)
results += ops.knn(ball_rows(250, 20, torch.float32), k=5, similarity="hyperbolic")
torch.save(results, sys.argv[1])
"""


@pytest.mark.cpu
@pytest.mark.subprocess
def test_hyperbolic_any_simd_level_gives_same_bits(tmp_path):
    assert len(simd_levels()) > 1
    found = []
    for simd in simd_levels():
        path = tmp_path / simd
        output_of(run_python("-c", LEVELS_SCRIPT, str(path), HARDMINE_SIMD=simd))
        found.append(torch.load(path))
    for other in found[1:]:
        for a, b in zip(other, found[0], strict=True):
            assert_bitwise_equal(a, b)


@pytest.mark.cpu
@pytest.mark.thinned(5)
@each_call
def test_hyperbolic_compiles_without_graph_breaks(name, options):
    torch.compiler.reset()
    x, labels = ball_rows(24, dtype=torch.float32).requires_grad_(), torch.arange(24) % 4

    other = ball_rows(24, dtype=torch.float32, seed=2) if name == "info_nce_loss" else labels

    def step(x):
        return getattr(ops, name)(x, other, similarity="hyperbolic", **options)

    torch.testing.assert_close(torch.compile(step, fullgraph=True)(x), step(x))


@pytest.mark.parametrize(
    "name",
    ["batch_all_triplet_loss", "multi_similarity_loss", "sigmoid_loss", "indexed_triplet_loss", "global_loss"],
)
def test_losses_without_hyperbolic_similarity_refuse_it(name):
    x = ball_rows(8)
    rest = x if name == "sigmoid_loss" else torch.arange(8) // 2
    if name in ("indexed_triplet_loss", "global_loss"):
        rest = torch.tensor([[0, 1, 2]])
    with pytest.raises(ValueError, match=r"^similarity must be one of .*, got 'hyperbolic'$"):
        getattr(ops, name)(x, rest, similarity="hyperbolic")


def test_hyperbolic_modules_take_it():
    x, labels = ball_rows(24), torch.arange(24) % 4
    for name in ("TripletLoss", "SCTLoss", "TupletLoss", "SupConLoss"):
        module = getattr(losses, name)(similarity="hyperbolic")
        assert_bitwise_equal(module(x, labels), module._op(x, labels, similarity="hyperbolic"))


def test_hyperbolic_ignored_rows_may_be_outside_of_the_ball():
    x, labels = ball_rows(24), torch.arange(24) % 4
    labels[3] = -1
    expected = ops.supcon_loss(x, labels, similarity="hyperbolic", ignore_index=-1)
    x[3] = 2.0
    assert_bitwise_equal(ops.supcon_loss(x, labels, similarity="hyperbolic", ignore_index=-1), expected)
