"""Ids: a pair of equal ids >= 0 is neither positive nor negative nor neighbor, in every op and its reference."""

import inspect
import math

import pytest
import torch

from hardmine import losses, ops, reference
from hardmine.reference.select_triplets import candidate_pairs
from support.comparisons import (
    assert_bitwise_equal,
    assert_results_bitwise_equal,
    assert_results_close,
    assert_same_selection,
)
from support.inputs import HAND_POINTS, Inputs, exact_inputs, inputs_of_sizes, random_ids, random_inputs, seeded
from support.ops import (
    OPS,
    POSITIVES,
    SELECTED_LOSSES,
    SELECTING_OPS,
    each_of,
    each_with_refs,
    selection_options,
    similarities_of_op,
)
from support.processes import threads
from support.runs import arguments_of, evaluate, run, run_both, with_generator
from verification_cases import at_anchor, break_output

pytestmark = pytest.mark.emulated

each_library = pytest.mark.parametrize("library", [ops, reference], ids=["ops", "reference"])
each_kind = pytest.mark.parametrize("kind", ["few", "many", "all"])

# HAND_POINTS has labels 0 0 1 0 1. The first three points share an id; the last two have none.
HAND_IDS = torch.tensor([5, 5, 5, -1, -1])


def as_refs(inputs: Inputs) -> Inputs:
    """The anchors as their own refs."""
    return Inputs(*inputs[:2], *inputs[:2])


# Tables worked by hand


@each_library
@pytest.mark.parametrize("dtype", [torch.int64, torch.int8], ids=str)
@pytest.mark.parametrize("with_refs", [False, True], ids=["self", "refs"])
def test_select_triplets_hand_worked_ids_match(library, dtype, with_refs):
    ids = {"ids": HAND_IDS.to(dtype)}
    inputs = HAND_POINTS
    if with_refs:  # the last two rows have no id, so that they are candidates of themselves
        inputs, ids["ref_ids"] = as_refs(inputs), HAND_IDS
    selection = library.select_triplets(*inputs, **ids)
    assert selection.positive_index.tolist() == ([3, 3, 4, 3, 4] if with_refs else [3, 3, 4, 1, 2])
    assert selection.negative_index.tolist() == [4, 4, 3, 2, 3]
    expected = [0.0, 0.8, -0.8, 1.0, 1.0] if with_refs else [0.0, 0.8, -0.8, 0.8, -0.8]
    assert selection.positive_similarity.tolist() == pytest.approx(expected)
    assert selection.negative_similarity.tolist() == pytest.approx([-1.0, -0.6, 0.6, 0.6, 0.0])


@each_library
@pytest.mark.parametrize("with_refs", [False, True], ids=["self", "refs"])
@pytest.mark.parametrize("fallback", ["hardest", "easiest"])
def test_semihard_fallback_with_ids_skips_copies(library, with_refs, fallback):
    """Anchor 0 is less similar to its positive than to any negative. Both extreme negatives share its id.

    The last two anchors find a semi-hard negative. They are first by label, so the fallback has rows in another order.
    """
    x = torch.tensor([[1.0], [-1.0], [0.5], [0.9], [0.7], [0.7], [0.7]])
    labels, ids = torch.tensor([3, 3, 1, 1, 2, 0, 0]), torch.tensor([4, 1, 4, 4, 9, -1, -1])
    options = {"negative": "semihard", "semihard_fallback": fallback, "similarity": "dot"}
    if with_refs:
        inputs = (x[:1], labels[:1], x[1:], labels[1:])
        selection = library.select_triplets(*inputs, ids=ids[:1], ref_ids=ids[1:], **options)
        assert selection.negative_index.tolist() == [3]
    else:
        selection = library.select_triplets(x, labels, ids=ids, **options)
        expected = {"hardest": [4, 2, 4, 4, 0, 2, 2], "easiest": [4, 3, 1, 1, 1, 2, 2]}
        assert selection.negative_index.tolist() == expected[fallback]
    assert selection.negative_similarity[0].item() == pytest.approx(0.7)


@each_library
def test_knn_hand_worked_ids_match(library):
    similarity, index = library.knn(HAND_POINTS.embeddings, k=4, ids=HAND_IDS)
    assert index.tolist() == [[3, 4, -1, -1], [3, 4, -1, -1], [3, 4, -1, -1], [1, 2, 0, 4], [3, 1, 2, 0]]
    assert similarity[0].tolist() == pytest.approx([0.0, -1.0, math.nan, math.nan], nan_ok=True)
    found = library.knn(HAND_POINTS.embeddings, HAND_POINTS.embeddings[2:], k=1, ids=HAND_IDS, ref_ids=HAND_IDS[2:])
    assert found.index.flatten().tolist() == [1, 1, 1, 1, 2]
    # Without exclude_self, a row with an id is still excluded by it.
    found = library.knn(HAND_POINTS.embeddings, k=1, ids=HAND_IDS, exclude_self=False)
    assert found.index.flatten().tolist() == [3, 3, 3, 3, 4]


@each_library
@pytest.mark.parametrize("positive", POSITIVES)
def test_tuplet_loss_hand_worked_ids_match(library, positive):
    loss = library.tuplet_loss(*HAND_POINTS, ids=HAND_IDS, positive=positive, temperature=1.0, reduction="none")
    terms = [[-1.0], [-1.4], [1.4], [-0.2, -0.8], [-0.2, 0.2, 0.8]]  # s_an - s_ap, for the easiest positive
    expected = [math.log1p(sum(map(math.exp, term))) for term in terms]
    if positive != "easiest":  # anchor 3 also has positive 0, with similarity 0
        other = math.log1p(math.exp(0.6) + math.exp(0.0))
        expected[3] = other if positive == "hardest" else (expected[3] + other) / 2
    assert loss.tolist() == pytest.approx(expected, abs=1e-6)


@each_library
def test_batch_all_triplet_loss_hand_worked_ids_match(library):
    """The triplets' d_ap - d_an are -2; -14; 14; -18, 0, -2, 16; 30, 2, 32."""
    loss, counts = library.batch_all_triplet_loss(
        *HAND_POINTS[:2], ids=HAND_IDS, margin=1.0, similarity="euclidean", return_counts=True
    )
    assert (int(counts.active), int(counts.total)) == (6, 10)
    assert loss.item() == pytest.approx((15 + 1 + 17 + 31 + 3 + 33) / 2 / 10)


# Against the reference


SIZES = [(1, 30), (2, 5), (23, 24), (25, 97), (61, 193), (200, 131)]


@pytest.mark.thinned(7)
@each_of(OPS)
@each_kind
@pytest.mark.parametrize("with_refs", [False, True], ids=["self", "refs"])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("similarity", ["cosine", "euclidean", "dot"])
def test_op_with_ids_matches_reference(name, kind, with_refs, sizes, similarity):
    """Sizes around those of tiles. Without rounding errors, selections match exactly."""
    if similarity not in similarities_of_op(name):
        pytest.skip("no such case")
    rows, refs = sizes
    inputs = exact_inputs(similarity, rows, 16, 4, refs if with_refs else None)
    options = {"similarity": similarity, **random_ids(inputs, kind)}
    if name in ("tuplet_loss", *SELECTED_LOSSES):
        options["temperature"] = 0.7 if similarity == "cosine" else 20.0
    actual, expected = run_both(name, inputs, **options)
    assert_results_close(actual, expected, 2e-5)
    if kind == "many" and rows > 30:
        without = run(getattr(ops, name), inputs, **{k: v for k, v in options.items() if "ids" not in k})
        assert any(not torch.equal(*pair) for pair in zip(actual.tensors(), without.tensors(), strict=True))


@pytest.mark.thinned(3)
@each_of(SELECTING_OPS)
@pytest.mark.parametrize("options", selection_options(), ids=str)
@pytest.mark.parametrize("refs", [None, 90], ids=["self", "refs"])
@pytest.mark.parametrize("kind", ["few", "many"])
def test_selection_rules_with_ids_match_reference(name, options, refs, kind):
    inputs = exact_inputs(options.get("similarity", "cosine"), 61, 16, 3, refs)
    actual, expected = run_both(name, inputs, **options, **random_ids(inputs, kind))
    assert_results_close(actual, expected, 2e-5)


@pytest.mark.parametrize("kind", ["few", "many"])
@pytest.mark.parametrize("refs", [None, 300], ids=["self", "refs"])
def test_selection_with_ids_in_tiles_of_negatives_matches_reference(kind, refs):
    """Sorted pairs: most tiles hold negatives alone, and without refs they serve their rows and their columns."""
    inputs, labels = exact_inputs("cosine", 300, refs=refs), torch.arange(300) // 2
    inputs = inputs._replace(labels=labels, ref_labels=None if refs is None else labels)
    assert_results_close(*run_both("select_triplets", inputs, **random_ids(inputs, kind)), 2e-5)


@each_kind
@pytest.mark.parametrize("sizes", [[3] * 20, [40, 50, 1, 2]], ids=str)
@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("with_table", [False, True])
def test_batch_all_triplet_loss_with_ids_matches_reference(kind, sizes, squared, with_table):
    """Classes with short and with long lists of positives."""
    inputs = inputs_of_sizes(sizes)
    table = torch.rand(len(sizes), len(sizes), generator=seeded(2), dtype=torch.float64) if with_table else 0.3
    options = {"squared": squared, "margin": table, "reduction": "mean_active"}
    for given in (inputs, Inputs(*inputs[:2], *inputs_of_sizes(sizes[::-1], seed=7)[:2])):
        ids = random_ids(given, kind)
        assert_results_close(*run_both("batch_all_triplet_loss", given, **options, **ids), 1e-12)


@each_of(OPS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_op_with_ids_of_every_dtype_matches_reference(name, dtype):
    inputs = exact_inputs("cosine", 61, dtype=dtype, refs=90)
    tolerance = 1e-12 if dtype == torch.float64 else 2 * torch.finfo(dtype).eps
    assert_results_close(*run_both(name, inputs, **random_ids(inputs, "many")), tolerance)


# Ids that exclude nothing more, everything, or an anchor's own copy


@each_with_refs(OPS)
def test_op_ids_that_exclude_nothing_are_bitwise_equal_to_none(name, refs):
    """Distinct ids of equal low halves, negative ids, ids that only anchors have, ids that only refs have."""
    inputs = random_inputs(100, refs=refs)
    expected = run(getattr(ops, name), inputs)
    rows, more = torch.arange(100), torch.arange(30) + 100
    cases = [(rows << 32, more << 32), (rows * 0 - 1, more * 0 - 1), (rows - 200, more - 2**62), (rows * 0 + 7, more)]
    if refs is None:
        cases = cases[:3]
    for ids, ref_ids in cases:
        options = {"ids": ids, **({} if refs is None else {"ref_ids": ref_ids})}
        assert_results_bitwise_equal(run(getattr(ops, name), inputs, **options), expected)


@pytest.mark.parametrize("refs", [None, 30], ids=["self", "refs"])
def test_random_picks_with_distinct_ids_are_bitwise_equal_to_none(refs):
    inputs, options = random_inputs(60, refs=refs), {"positive": "random", "negative": "random"}
    ids = {"ids": torch.arange(60) << 32}  # of equal low halves
    if refs is not None:
        ids["ref_ids"] = torch.arange(60, 60 + refs) << 32
    actual, expected = (ops.select_triplets(*inputs, **options, **more, generator=seeded(0)) for more in (ids, {}))
    assert_same_selection(actual, expected)


@each_with_refs(OPS)
def test_op_equal_ids_leave_no_candidate(name, refs):
    inputs = random_inputs(40, refs=refs)
    result = run(getattr(ops, name), inputs, **random_ids(inputs, "all"))
    assert not result.loss.any()
    assert not result.grad.any()
    assert refs is None or not result.ref_grad.any()
    if name == "batch_all_triplet_loss":
        assert [int(count) for count in result.selection] == [0, 0]
    elif name == "tuplet_loss":
        assert (result.selection[0] == -1).all()
        assert (result.selection[2] == -math.inf).all()
    else:
        assert all((t == -1).all() if t.dtype == torch.int64 else t.isnan().all() for t in result.selection)


@pytest.mark.thinned(5)
@each_of((*SELECTING_OPS, "knn"))
@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
@pytest.mark.parametrize("options", [{}, *selection_options()[:12]], ids=str)
def test_op_refs_that_hold_the_anchors_are_bitwise_equal_to_none(name, similarity, options):
    """With ids, the anchors among themselves: a memory that holds the batch, or a gallery that holds the queries."""
    if name == "knn" and options:
        pytest.skip("no such options")
    inputs, ids = exact_inputs(similarity, 110), torch.arange(110) + 3
    arguments, own = (arguments_of(name, given) for given in (inputs, as_refs(inputs)))
    op = getattr(ops, name)
    results = [
        op(*given, **more, **with_generator(options, inputs.embeddings.device), similarity=similarity)
        for given, more in ((arguments, {}), (own, {"ids": ids, "ref_ids": ids}))
    ]
    for actual, expected in zip(*((r if isinstance(r, tuple) else (r,)) for r in results), strict=True):
        assert_bitwise_equal(actual, expected)


@each_of(OPS)
def test_op_gradient_of_a_memory_that_holds_the_batch_is_right(name):
    """The gradients of anchors and refs add up to those of the anchors among themselves."""
    inputs, ids = random_inputs(60, dtype=torch.float64), torch.arange(60)
    expected = run(getattr(ops, name), inputs)
    memory = run(getattr(ops, name), as_refs(inputs), ids=ids, ref_ids=ids)
    torch.testing.assert_close(memory.loss, expected.loss)
    torch.testing.assert_close(memory.grad + memory.ref_grad, expected.grad)
    wrong = run(getattr(ops, name), as_refs(inputs))
    assert (wrong.loss - expected.loss).abs().max() > 0.01 * expected.loss.abs().max(), (
        "without ids the copies are candidates"
    )


def ids_of_kind(kind: str, inputs: Inputs) -> dict[str, torch.Tensor]:
    """Few, many or all ids match; or ids are the classes, each in one class, or spread evenly over all."""
    if kind in ("few", "many", "all"):
        return random_ids(inputs, kind)
    of = {
        "classes": lambda labels: labels + 4,
        "within classes": lambda labels: (labels + 4) * 100 + torch.arange(len(labels)) % 3,
        "across classes": lambda labels: torch.arange(len(labels)) % 7 - 1,
    }[kind]
    ids = {"ids": of(inputs.labels)}
    return ids if inputs.ref_labels is None else {**ids, "ref_ids": of(inputs.ref_labels)}


@pytest.mark.parametrize("kind", ["few", "many", "all", "classes", "within classes", "across classes"])
@pytest.mark.parametrize("refs", [None, 131], ids=["self", "refs"])
@pytest.mark.parametrize("classes", [1, 2, 9, 60])
@pytest.mark.parametrize("threshold", [None, 0.5], ids=["by ids", "by similarity"])
def test_random_picks_with_ids_of_any_kind_match_reference(kind, refs, classes, threshold):
    """Both ways to pick: from labels and ids alone, and from similarities."""
    inputs = exact_inputs("cosine", 83, 16, classes, refs)
    options = {"positive": "random", "negative": "random", "duplicate_threshold": threshold}
    options |= ids_of_kind(kind, inputs)
    for seed in range(5):
        actual, expected = (
            library.select_triplets(*inputs, **options, generator=seeded(seed)) for library in (ops, reference)
        )
        assert_same_selection(actual, expected)


@pytest.mark.parametrize("refs", [None, 90], ids=["self", "refs"])
def test_random_picks_with_ids_draw_every_candidate_equally(refs):
    inputs = random_inputs(60, classes=2, refs=refs)
    ids = random_ids(inputs, "many")
    options = {"positive": "random", "negative": "random", **ids}
    picks = [ops.select_triplets(*inputs, **options, generator=seeded(seed)) for seed in range(300)]
    _, positives, negatives = candidate_pairs(*inputs, *ids.values())
    for name, candidates in (("positive_index", positives), ("negative_index", negatives)):
        index = torch.stack([getattr(pick, name) for pick in picks])
        assert ((index >= 0) == candidates.any(1)).all()
        counts = torch.zeros(candidates.shape).scatter_add_(1, index.T.clamp(min=0), torch.ones(60, 300))
        counts[~candidates.any(1)] = 0
        assert not counts[~candidates].any()
        share = counts / 300 * candidates.sum(1, keepdim=True)
        assert share[candidates].std() < 0.5
        assert (counts > 0)[candidates].float().mean() > 0.95


# The contract


@pytest.mark.thinned(3)
@pytest.mark.cpu
@each_of(OPS)
@each_kind
@pytest.mark.parametrize("refs", [None, 1500], ids=["self", "refs"])
def test_op_with_ids_any_thread_count_is_bitwise_equal(name, kind, refs):
    inputs = exact_inputs("cosine", 1300, 16, 40, refs)
    options = random_ids(inputs, kind)
    with threads(1):
        expected = run(getattr(ops, name), inputs, **options)
    for count in (2, 3, 5):
        with threads(count):
            assert_results_bitwise_equal(run(getattr(ops, name), inputs, **options), expected)


@pytest.mark.cpu
@each_with_refs(OPS)
@each_kind
def test_verify_with_ids_passes(name, refs, kind, verify):
    inputs = random_inputs(40, refs=refs)
    with verify() as report:
        for options in [{}, {"similarity": "euclidean"}]:
            run(getattr(ops, name), inputs, **options, **random_ids(inputs, kind))
    assert report.checks == 2
    assert report.largest_deviation < 1e-5


@pytest.mark.cpu
@each_of(OPS)
def test_verify_finds_ignored_ids(name, verify, monkeypatch):
    """The compiled op gets other ids than the reference, which exclude nothing."""
    compiled = "triplet_loss" if name == "sct_loss" else name
    packet = getattr(torch.ops.hardmine, compiled)
    position = [argument.name for argument in packet.default._schema.arguments].index("ids")

    def without_ids(*arguments):
        return packet(*(a * 0 - 1 if i == position else a for i, a in enumerate(arguments)))

    monkeypatch.setattr(torch.ops.hardmine, compiled, without_ids)
    inputs = random_inputs(40)
    with verify(), pytest.raises(Exception, match="disagrees with its reference"):
        run(getattr(ops, name), inputs, **random_ids(inputs, "many"))


@pytest.mark.cpu
@pytest.mark.parametrize("which", [2, 3], ids=["positive", "negative"])
def test_verify_finds_a_selected_copy(which, verify, monkeypatch):
    """Anchor 0 gets a candidate that shares its id, and is the best one without ids."""
    break_output(monkeypatch, "select_triplets", which, at_anchor(which - 1))
    with verify(), pytest.raises(Exception, match="index is not the best candidate"):
        ops.select_triplets(*HAND_POINTS, ids=HAND_IDS)


@pytest.mark.cpu
def test_verify_counts_no_excluded_triplet_at_the_kink(verify, monkeypatch):
    """All rows are equal, and the margin is 0: every triplet is at the hinge's kink, but the ids exclude all."""
    break_output(monkeypatch, "batch_all_triplet_loss", 3, lambda active: active + 1)
    options = {"margin": 0.0, "similarity": "euclidean", "ids": torch.zeros(6, dtype=torch.int64)}
    with verify(), pytest.raises(Exception, match="active is 1, the reference has 0"):
        ops.batch_all_triplet_loss(torch.zeros(6, 3), torch.arange(6) // 2, **options)


@pytest.mark.thinned(2)
@each_with_refs(OPS, refs=12)
def test_op_with_ids_gradcheck_passes(name, refs, device):
    inputs = random_inputs(10, 4, 3, refs, dtype=torch.float64, spread=1.2, seed=1).to(device)
    options = random_ids(inputs, "few", seed=3)
    if name in SELECTED_LOSSES:
        options["temperature"] = 0.5
    leaves = [t.requires_grad_() for t in (inputs.embeddings, inputs.ref_embeddings) if t is not None]

    def function(x, refs=None):
        return evaluate(getattr(ops, name), inputs._replace(embeddings=x, ref_embeddings=refs), **options)[0]

    assert torch.autograd.gradcheck(function, leaves, eps=1e-6, atol=1e-6, rtol=1e-5)
    assert all(gradient.any() for gradient in torch.autograd.grad(function(*leaves).sum(), leaves))


@each_with_refs(OPS)
def test_op_with_ids_on_meta_and_fake_tensors_has_shapes(name, refs):
    inputs = random_inputs(refs=refs)
    options = random_ids(inputs, "few")
    expected = run(getattr(ops, name), inputs, **options)
    on_meta = run(getattr(ops, name), inputs.to("meta"), **{key: t.to("meta") for key, t in options.items()})
    for a, b in zip(on_meta.tensors(), expected.tensors(), strict=True):
        assert (a.device.type, a.shape, a.dtype) == ("meta", b.shape, b.dtype)


@pytest.mark.thinned(3)
@pytest.mark.cpu
@each_with_refs(OPS)
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
def test_op_with_ids_compiled_is_bitwise_equal(name, refs):
    op = getattr(ops, name)

    def outputs(inputs, ids):
        loss, returned = evaluate(op, inputs, **ids)
        return loss, *returned

    torch.compiler.reset()
    compiled = torch.compile(outputs, fullgraph=True, backend="aot_eager")
    for rows in (40, 29):
        inputs = random_inputs(rows, refs=refs)
        ids = random_ids(inputs, "many")
        for actual, expected in zip(compiled(inputs, ids), outputs(inputs, ids), strict=True):
            assert_bitwise_equal(actual, expected)


@each_with_refs(OPS)
def test_op_ids_of_every_dtype_and_layout_are_equal(name, refs):
    inputs = random_inputs(60, refs=refs)
    drawn = {"ids": torch.randint(-5, 20, (60,), generator=seeded(0))}
    if refs is not None:
        drawn["ref_ids"] = torch.randint(-5, 20, (refs,), generator=seeded(1))

    def result(change):
        return run(getattr(ops, name), inputs, **{key: change(ids) for key, ids in drawn.items()})

    def strided(ids):
        return torch.stack([ids, -ids], 1)[:, 0]

    assert not strided(drawn["ids"]).is_contiguous()
    expected = result(lambda ids: ids)
    for change in (
        *(lambda ids, dtype=dtype: ids.to(dtype) for dtype in (torch.int32, torch.int16, torch.int8)),
        strided,
        lambda ids: torch.where(ids < 0, ids * 7, ids),
        lambda ids: torch.where(ids < 0, ids - 2**60, ids + 2**61),
    ):
        assert_results_bitwise_equal(result(change), expected)


@pytest.mark.cpu
def test_uint64_ids_that_cannot_be_read_raise():
    inputs = random_inputs(10).to("meta")
    ids = torch.arange(10, dtype=torch.uint64, device="meta")
    with pytest.raises(TypeError, match=r"^ids must be uint64 only where values can be read"):
        ops.select_triplets(*inputs, ids=ids)


# Loss modules


LOSS_MODULES = [
    name
    for name in losses.__all__
    if name not in ("HierarchicalTripletLoss", "CrossBatchMemory", "InfoNCELoss")
    and "ids" in inspect.signature(getattr(losses, name).forward).parameters
]


def test_every_loss_on_a_batch_takes_ids():
    assert {"TripletLoss", "SCTLoss", "TupletLoss", "BatchAllTripletLoss", "EPSHNLoss", "HPLoss"} <= set(LOSS_MODULES)


@pytest.mark.parametrize("name", LOSS_MODULES)
def test_loss_module_passes_ids_on(name):
    inputs = random_inputs(40)
    loss_of = getattr(losses, name)()
    ids = random_ids(inputs, "many")
    actual, without = loss_of(*inputs[:2], **ids), loss_of(*inputs[:2])
    assert_bitwise_equal(actual, loss_of._op(*inputs[:2], **loss_of.options, **ids))
    assert actual != without
    if "ref_ids" in inspect.signature(loss_of.forward).parameters:
        memory, rows = as_refs(inputs), {"ids": torch.arange(40), "ref_ids": torch.arange(40)}
        torch.testing.assert_close(loss_of(*memory, **rows), without)


def test_equal_selection_of_a_gallery_with_the_queries():
    """A selection's indices are rows of the refs, which may be in another order than the anchors."""
    inputs = random_inputs(50)
    order = torch.randperm(50, generator=seeded(0))
    refs = Inputs(*inputs[:2], inputs.embeddings[order], inputs.labels[order])
    selection = ops.select_triplets(*refs, ids=torch.arange(50), ref_ids=order)
    expected = ops.select_triplets(*inputs)
    assert_same_selection((order[selection.positive_index], order[selection.negative_index], *selection[2:]), expected)
