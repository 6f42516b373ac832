"""ignore_index: rows with this label are as if they were not in the batch, and results keep the batch's shape."""

import inspect
import math

import pytest
import torch

from hardmine import losses, ops, reference
from hardmine.ops._ignored import KeptRows
from hardmine.types import Selection, TupletTerms
from hardmine.verification import VerificationError
from support.comparisons import assert_bitwise_equal, assert_results_bitwise_equal, assert_results_close
from support.inputs import HAND_POINTS, Inputs, random_ids, random_inputs, random_table
from support.ops import (
    LOSSES,
    OPS_WITH_LABELS,
    SELECTING_OPS,
    each_of,
    each_with_refs,
    reductions_of,
    selection_options,
)
from support.runs import Result, arguments_of, effective_options, evaluate, run, run_both, with_generator

pytestmark = pytest.mark.emulated

IGNORED = 5  # a label of random_inputs
each_library = pytest.mark.parametrize("library", [ops, reference], ids=["ops", "reference"])

# HAND_POINTS, whose second point is ignored
HAND_LABELS = torch.tensor([0, -7, 1, 0, 1])


def with_labels(inputs, change, names=("labels", "ref_labels")):
    """The inputs with other labels."""
    given = {name: getattr(inputs, name) for name in names}
    return inputs._replace(**{name: change(labels) for name, labels in given.items() if labels is not None})


def kept(inputs, options):
    """The inputs and ids without the ignored rows, and the masks of the kept anchors and candidates."""
    keep = inputs.labels != IGNORED
    ref_keep = None if inputs.ref_labels is None else inputs.ref_labels != IGNORED
    assert keep.any()
    masks = (keep, keep, ref_keep, ref_keep)
    rest = Inputs(*(None if t is None else t[mask] for t, mask in zip(inputs, masks, strict=True)))
    ids = {"ids": keep, "ref_ids": ref_keep}
    options = {name: value[ids[name]] if name in ids else value for name, value in options.items()}
    return rest, options, keep, keep if ref_keep is None else ref_keep


def spread(values, keep, fill):
    full = values.new_full((len(keep), *values.shape[1:]), fill)
    full[keep] = values
    return full


def spread_result(name, result, keep, candidates):
    """The result for the kept rows as that for all rows."""
    if name == "batch_all_triplet_loss":
        selection = result.selection
    else:
        numbers = torch.cat([candidates.nonzero().squeeze(1), torch.tensor([-1])])
        fills = {TupletTerms: [-1, math.nan, -math.inf], Selection: [-1, -1, math.nan, math.nan]}
        fill = fills[TupletTerms if len(result.selection) == 3 else Selection]
        fields = [part if part.is_floating_point() else numbers[part] for part in result.selection]
        selection = tuple(spread(part, keep, value) for part, value in zip(fields, fill, strict=True))
    loss = spread(result.loss, keep, 0.0) if result.loss.dim() else result.loss
    ref_grad = None if result.ref_grad is None else spread(result.ref_grad, candidates, 0.0)
    return Result(loss, selection, spread(result.grad, keep, 0.0), ref_grad)


def weighted(name, inputs, weights, **options):
    """As ``run``, but with weights of all anchors, so that both sides of a comparison have equal ones."""
    x, refs = (
        None if rows is None else rows.detach().clone().requires_grad_()
        for rows in (inputs.embeddings, inputs.ref_embeddings)
    )
    given = Inputs(x, inputs.labels, refs, inputs.ref_labels)
    loss, returned = evaluate(getattr(ops, name), given, **with_generator(options))
    if name == "select_triplets":
        parts = zip(returned[:2], returned[2:], (1.0, -2.0), strict=True)
        loss = sum(factor * torch.where(index >= 0, s, 0.0) for index, s, factor in parts)
    scalar = (loss * weights).sum() if loss.dim() else loss
    leaves = [leaf for leaf in arguments_of(name, given) if leaf is not None and leaf.requires_grad]
    grad, *ref_grad = torch.autograd.grad(scalar, leaves)
    return Result(loss.detach(), tuple(t.detach() for t in returned), grad, ref_grad[0] if ref_grad else None)


def check_equals_dropped(name, inputs, **options):
    """The op with ``ignore_index`` gives the bits of the op on the other rows; ignored rows hold NaN."""
    rest, rest_options, keep, candidates = kept(inputs, options)
    poisoned = Inputs(*(None if t is None else t.clone() for t in inputs))
    poisoned.embeddings[~keep] = math.nan
    if inputs.ref_embeddings is not None:
        poisoned.ref_embeddings[~candidates] = math.inf
    weights = torch.linspace(0.5, 1.5, len(keep), dtype=torch.float32)
    result = weighted(name, poisoned, weights, ignore_index=IGNORED, **options)
    expected = spread_result(name, weighted(name, rest, weights[keep], **rest_options), keep, candidates)
    assert_results_bitwise_equal(result, expected)
    return result


@each_library
@pytest.mark.parametrize("with_refs", [False, True], ids=["self", "refs"])
def test_select_triplets_hand_worked_ignored_point_match(library, with_refs):
    inputs, ids = (HAND_POINTS.embeddings, HAND_LABELS), {}
    if with_refs:
        inputs, ids = inputs * 2, {"ids": torch.arange(5), "ref_ids": torch.arange(5)}
    selection = library.select_triplets(*inputs, ignore_index=-7, **ids)
    assert selection.positive_index.tolist() == [3, -1, 4, 0, 2]
    assert selection.negative_index.tolist() == [2, -1, 0, 2, 3]
    expected = [0.0, math.nan, -0.8, 0.0, -0.8]
    assert selection.positive_similarity.tolist() == pytest.approx(expected, nan_ok=True)
    assert selection.negative_similarity.tolist() == pytest.approx([0.8, math.nan, 0.8, 0.6, 0.0], nan_ok=True)


@each_library
def test_losses_hand_worked_ignored_point_match(library):
    points = HAND_POINTS.embeddings, HAND_LABELS
    options = {"term": "hinge", "negative": "hardest", "margin": 0.2, "reduction": "none", "ignore_index": -7}
    loss, count = library.triplet_loss(*points, return_count=True, **options)
    assert loss.tolist() == pytest.approx([1.0, 0.0, 1.8, 0.8, 1.0])
    assert count == 4
    assert library.triplet_loss(*points, **{**options, "reduction": "mean"}).item() == pytest.approx(4.6 / 4)
    loss, terms = library.tuplet_loss(*points, temperature=1.0, reduction="none", ignore_index=-7, return_terms=True)
    expected = [math.log1p(sum(map(math.exp, t))) for t in ([0.8, -1.0], [1.6, 1.4], [0.6, 0.0], [-0.2, 0.8])]
    assert loss.tolist() == pytest.approx([expected[0], 0.0, *expected[1:]], abs=1e-6)
    assert terms.positive_index.tolist() == [3, -1, 4, 0, 2]
    assert terms.negative_logsumexp[1] == -math.inf
    loss, counts = library.batch_all_triplet_loss(*points, margin=0.0, ignore_index=-7, return_counts=True)
    # s_an - s_ap is half of d_ap - d_an
    assert (int(counts.total), int(counts.active)) == (8, 5)
    assert loss.item() == pytest.approx((0.8 + 1.6 + 1.4 + 0.6 + 0.8) / 8)


@each_with_refs(OPS_WITH_LABELS)
@pytest.mark.parametrize("kind", [None, "many"], ids=["alone", "ids"])
def test_op_with_ignored_rows_equals_op_without_them(name, refs, kind):
    inputs = random_inputs(48, refs=refs)
    options = {} if kind is None else random_ids(inputs, kind)
    for reduction in reductions_of(name) if name in LOSSES else [None]:
        given = options if reduction is None else {**options, "reduction": reduction}
        result = check_equals_dropped(name, inputs, **given)
        assert result.grad.isfinite().all()
        assert result.grad.ne(0).any()


@pytest.mark.thinned(3)
@each_of(SELECTING_OPS)
@pytest.mark.parametrize("options", selection_options(), ids=str)
@pytest.mark.parametrize("refs", [None, 30], ids=["self", "refs"])
def test_selection_rules_with_ignored_rows_equal_those_without_them(name, options, refs):
    check_equals_dropped(name, random_inputs(48, refs=refs), **effective_options(options))


@each_with_refs(OPS_WITH_LABELS)
def test_op_with_ignored_rows_matches_reference(name, refs):
    inputs = random_inputs(40, refs=refs)
    for reduction in reductions_of(name) if name in LOSSES else [None]:
        options = {} if reduction is None else {"reduction": reduction}
        actual, expected = run_both(name, inputs, ignore_index=IGNORED, **options)
        assert_results_close(actual, expected, 2e-5)


@each_with_refs(OPS_WITH_LABELS)
def test_op_without_the_ignored_label_equals_op(name, refs):
    inputs = random_inputs(40, refs=refs)
    assert_results_bitwise_equal(run(getattr(ops, name), inputs, ignore_index=99), run(getattr(ops, name), inputs))


@pytest.mark.parametrize(
    ("name", "refs", "ignored"),
    [
        *((name, None, ("labels",)) for name in OPS_WITH_LABELS),
        *(
            (name, 7, ignored)
            for name in OPS_WITH_LABELS
            for ignored in (("labels",), ("ref_labels",), ("labels", "ref_labels"))
        ),
    ],
    ids=str,
)
@pytest.mark.parametrize("rows", [0, 1, 6])
def test_op_without_other_anchors_or_refs_is_zero(name, refs, ignored, rows):
    inputs = with_labels(random_inputs(rows, refs=refs), lambda labels: torch.full_like(labels, IGNORED), ignored)
    result = run(getattr(ops, name), inputs, ignore_index=IGNORED)
    assert result.loss.eq(0).all()
    assert result.grad.eq(0).all()
    if name in SELECTING_OPS:
        assert [len(part) for part in result.selection] == [rows] * 4
        assert all((part == -1).all() for part in result.selection[:2])
        assert all(part.isnan().all() for part in result.selection[2:])


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64], ids=str)
@each_of(OPS_WITH_LABELS)
def test_op_with_labels_of_another_dtype_ignores_them(name, dtype):
    inputs = with_labels(random_inputs(30, refs=20), lambda labels: labels + 4)
    other = with_labels(inputs, lambda labels: labels.to(dtype))
    ids = {"ids": torch.arange(30).to(dtype), "ref_ids": torch.arange(20).to(dtype)}
    results = [run(getattr(ops, name), given, ignore_index=9, **ids) for given in (inputs, other)]
    assert_results_bitwise_equal(*results)


@pytest.mark.parametrize("name", ["labels", "ref_labels"])
def test_ignore_index_that_uint64_labels_cannot_have_raises(name):
    inputs = random_inputs(5, refs=5)
    inputs = with_labels(inputs, lambda labels: labels + 4)
    inputs = with_labels(inputs, lambda labels: labels.to(torch.uint64), (name,))
    with pytest.raises(ValueError, match=rf"^ignore_index must be at least 0 if {name} are uint64, got -1$"):
        ops.select_triplets(*inputs, ignore_index=-1)


@each_of(OPS_WITH_LABELS)
def test_op_with_ignore_index_checks_its_arguments(name):
    op, (x, y) = getattr(ops, name), random_inputs(5)[:2]
    with pytest.raises(ValueError, match=r"^labels must be \[B\] = \[5\], got \[4\]$"):
        op(x, y[:4], ignore_index=1)
    with pytest.raises(ValueError, match=r"^ids must be \[B\] = \[5\], got \[4\]$"):
        op(x, y, ids=y[:4], ignore_index=1)
    with pytest.raises(TypeError, match="'marginn'"):
        op(x, y, marginn=1, ignore_index=1)
    with pytest.raises(TypeError, match=r"positional|unexpected"):
        op(x, y, None, None, "hardest", ignore_index=1)


@pytest.mark.cpu  # on a GPU a label without a row is no error
def test_margin_table_without_the_ignored_class_works():
    inputs = random_inputs(40)
    table, classes = random_table(5, dtype=torch.float32), torch.tensor([-4, -1, 2, 8, 11])
    with pytest.raises(ValueError, match="labels must"):
        ops.batch_all_triplet_loss(*inputs[:2], margin=table, margin_labels=classes)
    loss = ops.batch_all_triplet_loss(*inputs[:2], margin=table, margin_labels=classes, ignore_index=IGNORED)
    rest = kept(inputs, {})[0]
    assert_bitwise_equal(loss, ops.batch_all_triplet_loss(*rest[:2], margin=table, margin_labels=classes))
    assert loss > 0


def test_margin_table_of_large_uint64_labels_works_with_ignored_rows():
    """They are distinct from all others only as long as both tensors are uint64."""
    x, labels = random_inputs(12)[0], torch.tensor([0, 3, 2**64 - 1] * 4, dtype=torch.uint64)
    table, classes = random_table(2, dtype=torch.float32), torch.tensor([3, 2**64 - 1], dtype=torch.uint64)
    loss = ops.batch_all_triplet_loss(x, labels, margin=table, margin_labels=classes, ignore_index=0)
    rest = [row for row in range(12) if row % 3]
    expected = ops.batch_all_triplet_loss(x[rest], torch.tensor([0, 1] * 4), margin=table)
    assert_bitwise_equal(loss, expected)
    assert loss > 0


@each_with_refs(("triplet_loss", "tuplet_loss"), refs=12)
def test_gradient_with_ignored_rows_passes_gradcheck(name, refs):
    inputs = random_inputs(12, 4, 4, refs=refs, dtype=torch.float64)
    leaves = [t.requires_grad_() for t in (inputs.embeddings, inputs.ref_embeddings) if t is not None]

    def loss(*leaves):
        given = Inputs(leaves[0], inputs.labels, *([leaves[1], inputs.ref_labels] if refs else []))
        return getattr(ops, name)(*given, ignore_index=2, reduction="none")

    assert torch.autograd.gradcheck(loss, leaves)


@pytest.mark.slow
@pytest.mark.cpu
@each_with_refs(OPS_WITH_LABELS)
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_op_with_ignored_rows_compiles_to_one_graph(name, refs, backend):
    """Batches whose number of ignored rows changes, also to all and none."""
    torch.compiler.reset()  # the function below has the same code for every op
    reduction = {"reduction": "none"} if name in ("triplet_loss", "sct_loss", "tuplet_loss") else {}
    compiled = torch.compile(
        lambda *inputs: getattr(ops, name)(*inputs, ignore_index=IGNORED, **reduction), backend=backend, fullgraph=True
    )
    for rows, classes in ((40, 6), (40, 4), (41, 3), (1, 1), (0, 6), (30, 6)):
        inputs = random_inputs(rows, classes=classes, refs=refs)
        inputs = Inputs(*(None if t is None else t.requires_grad_() if t.is_floating_point() else t for t in inputs))
        outputs = []
        for function in (compiled, lambda *inputs: getattr(ops, name)(*inputs, ignore_index=IGNORED, **reduction)):
            out = function(*arguments_of(name, inputs))
            similarities = out[2:] if name == "select_triplets" else (out,)
            scalar = sum(torch.where(s.isnan(), 0.0, s).sum() for s in similarities)
            leaves = [t for t in arguments_of(name, inputs) if t is not None and t.requires_grad]
            outputs.append([*(out if name == "select_triplets" else (out,)), *torch.autograd.grad(scalar, leaves)])
        for got, expected in zip(*outputs, strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6, equal_nan=True)


# Verification


@each_with_refs(OPS_WITH_LABELS)
def test_verify_of_ignored_rows_passes(name, refs, verify):
    inputs = random_inputs(40, refs=refs)
    inputs.embeddings[inputs.labels == IGNORED] = math.nan
    with verify() as report:
        for reduction in reductions_of(name) if name in LOSSES else [None]:
            options = {} if reduction is None else {"reduction": reduction}
            run(getattr(ops, name), inputs, ignore_index=IGNORED, **options)
            run(getattr(ops, name), random_inputs(40, refs=refs), ignore_index=99, **options)
    assert report.checks == report.ops[name].calls > 0


WRONG = {
    "an ignored row selected": ("rows_of", lambda right: lambda self, index: right(self, index) * 0),
    "rows not counted": ("rows_of", lambda right: lambda self, index: self.spread(index, -1)),
    "anchors not counted": ("spread", lambda right: lambda self, values, fill: right(self, values, fill).roll(1)),
    "another fill": ("spread", lambda right: lambda self, values, fill: right(self, values, -2)),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("name", ["select_triplets", "tuplet_loss"])
def test_verify_finds_wrong_results_of_ignored_rows(name, wrong, verify, monkeypatch):
    method, change = WRONG[wrong]
    monkeypatch.setattr(KeptRows, method, change(getattr(KeptRows, method)))
    inputs = random_inputs(40)
    assert (inputs.labels == IGNORED).nonzero().min() < 20
    with pytest.raises(VerificationError), verify():
        run(getattr(ops, name), inputs, ignore_index=IGNORED)


# Loss modules


MODULES = [name for name in losses.__all__ if "ignore_index" in inspect.signature(getattr(losses, name)).parameters]


def test_every_loss_on_labels_ignores():
    assert set(losses.__all__) - set(MODULES) == {
        "CrossBatchMemory",
        "GlobalLoss",
        "InfoNCELoss",
        "RatioTripletLoss",
        "SigmoidLoss",
    }


@pytest.mark.parametrize("name", MODULES)
def test_loss_module_ignores_its_label(name):
    inputs = random_inputs(40)
    inputs = inputs._replace(labels=(inputs.labels + 4) // 3)
    options = {"classes": 6} if name == "HierarchicalTripletLoss" else {}
    loss_of, all_rows = (getattr(losses, name)(**options, **more) for more in ({"ignore_index": 3}, {}))
    keep = inputs.labels != 3
    assert "ignore_index=3" in repr(loss_of)
    assert_bitwise_equal(loss_of(*inputs[:2]), all_rows(inputs.embeddings[keep], inputs.labels[keep]))
    assert loss_of(*inputs[:2]) != all_rows(*inputs[:2])


@pytest.mark.parametrize("name", MODULES)
def test_loss_module_refuses_invalid_ignore_index(name):
    with pytest.raises(TypeError, match=r"^ignore_index must be an integer, got float$"):
        getattr(losses, name)(ignore_index=0.5, **({"classes": 6} if name == "HierarchicalTripletLoss" else {}))


def test_memory_of_a_loss_that_ignores_a_label():
    """Ignored rows enter the queue and are no candidates."""
    memory = losses.CrossBatchMemory(losses.EPHNLoss(ignore_index=IGNORED), 60, 8)
    for seed in range(3):
        inputs = random_inputs(20, seed=seed)
        inputs.embeddings[inputs.labels == IGNORED] = math.nan
        loss, selection = memory(*inputs[:2], return_selection=True)
        assert loss.isfinite()
        chosen = selection.positive_index[inputs.labels != IGNORED]
        assert (memory.labels[chosen[chosen >= 0]] != IGNORED).all()
    assert loss > 0
    assert (memory.labels == IGNORED).any()


def test_op_with_ignore_index_but_without_labels_names_itself():
    with pytest.raises(TypeError, match=r"^triplet_loss\(\) missing 1 required positional argument: 'labels'"):
        ops.triplet_loss(torch.ones(2, 2), ignore_index=0)
