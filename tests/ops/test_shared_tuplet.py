"""Tuplet losses whose work is shared in parts: the loss and the gradient of the op without parts, to rounding."""

import math
import re

import pytest
import torch

from hardmine import ops
from hardmine.ops._arguments import REDUCTIONS, SIMILARITIES
from hardmine.ops._shared_selection import Rows
from hardmine.ops._shared_tuplet import one_shift_suffices, tuplet_in_parts
from support.comparisons import assert_bitwise_equal
from support.fake_ranks import run_shares
from support.inputs import labels_of_sizes, random_ids, random_inputs
from support.ops import POSITIVES
from support.ops import REDUCTIONS as REDUCTION_NAMES

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

PARTS = (1, 2, 3, 5, 64)
RTOL = {torch.float32: 2e-6, torch.float64: 1e-14, torch.bfloat16: 2e-6}


def codes(similarity="cosine", positive="easiest", temperature=0.1, duplicate_threshold=math.inf, reduction="mean"):
    """The options of the loss in the order of the compiled op's schema."""
    positive, reduction = POSITIVES.index(positive), REDUCTIONS.index(reduction)
    return [SIMILARITIES.index(similarity), positive, temperature, duplicate_threshold, reduction, False]


def check_shared(inputs, parts, ids=None, **options):
    """Every rank has the same loss; loss and summed gradients are those of tuplet_loss, which are returned."""
    x = inputs.embeddings.clone().requires_grad_()
    compiled = codes(**options)
    expected = torch.ops.hardmine.tuplet_loss(x, inputs.labels, None, None, ids, None, *compiled)
    gradient = torch.linspace(0.5, 2.0, expected[0].numel(), dtype=expected[0].dtype).reshape(expected[0].shape)
    expected[0].backward(gradient)

    def body(shares):
        outputs = tuplet_in_parts(Rows(*inputs[:2], ids), compiled, shares)
        saved = outputs[3:]
        return outputs, torch.ops.hardmine.tuplet_loss_backward_part(
            gradient, inputs.embeddings, inputs.labels, ids, *saved, *compiled, shares.part, shares.num_parts
        )

    ranks = run_shares(parts, body)
    for outputs, _ in ranks:
        for actual, wanted in zip(outputs, ranks[0][0], strict=True):
            assert_bitwise_equal(actual, wanted)
    rtol = RTOL[inputs.embeddings.dtype]
    for actual, wanted in zip(ranks[0][0], expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=rtol, atol=rtol, equal_nan=True)
    assert torch.equal(ranks[0][0][6], expected[6])  # positives are selected, and so exact
    total = torch.stack([part for _, part in ranks]).sum(0)
    low = inputs.embeddings.dtype == torch.bfloat16
    scale = max(1.0, float(x.grad.double().abs().max())) if x.grad.numel() else 1.0
    torch.testing.assert_close(
        total, x.grad.to(total.dtype), rtol=2**-8 if low else 0, atol=(1e-3 if low else 20 * rtol) * scale
    )
    return expected[0], x.grad


@pytest.mark.thinned(11)
@pytest.mark.parametrize("positive", POSITIVES)
@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("temperature", [0.02, 0.1, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("parts", PARTS)
def test_tuplet_in_parts_any_rule_matches_tuplet_loss(parts, dtype, temperature, similarity, positive):
    inputs = random_inputs(500, 9, 12, spread=1.5, dtype=dtype)
    loss, grad = check_shared(inputs, parts, similarity=similarity, positive=positive, temperature=temperature)
    assert loss > 0
    assert grad.any()


@pytest.mark.parametrize("reduction", REDUCTION_NAMES)
@pytest.mark.parametrize("kind", ["few", "many", "all"])
def test_tuplet_in_parts_with_ids_matches_tuplet_loss(kind, reduction):
    inputs = random_inputs(300, 9, 12, spread=1.5)
    for positive in POSITIVES:
        check_shared(inputs, 3, random_ids(inputs, kind)["ids"], positive=positive, reduction=reduction)


@pytest.mark.parametrize("rows", [0, 1, 2, 95, 96, 97, 289])
def test_tuplet_in_parts_edge_sizes_match_tuplet_loss(rows):
    for temperature in (0.02, 0.1):
        check_shared(random_inputs(rows, 5, 4), 5, temperature=temperature)


@pytest.mark.parametrize("sizes", [[300], [150, 150], [1] * 200], ids=["one", "two", "single"])
def test_tuplet_in_parts_classes_of_any_size_match_tuplet_loss(sizes):
    inputs = random_inputs(sum(sizes), 5)._replace(labels=labels_of_sizes(sizes))
    for positive in POSITIVES:
        check_shared(inputs, 3, positive=positive, duplicate_threshold=0.9)


def test_tuplet_in_parts_infinite_row_makes_loss_and_gradient_nan():
    inputs = random_inputs(200, 9, 12)
    inputs.embeddings[5, 3] = torch.inf
    compiled = codes()

    def body(shares):
        outputs = tuplet_in_parts(Rows(*inputs[:2], None), compiled, shares)
        return outputs[0], torch.ops.hardmine.tuplet_loss_backward_part(
            torch.ones(()), *inputs[:2], None, *outputs[3:], *compiled, shares.part, shares.num_parts
        )

    for loss, part in run_shares(2, body):
        assert loss.isnan()
        assert part.isnan().all()


@pytest.mark.parametrize("temperature", [0.02, 0.1])
def test_tuplet_loss_part_sums_of_parts_are_of_different_pairs(temperature):
    # One class per row: all rows are negatives, and so every part sums over its own pairs only.
    inputs = random_inputs(900, 9)._replace(labels=torch.arange(900))
    compiled = codes(temperature=temperature)

    def body(shares):
        similarity, positive, temperature, *_ = compiled
        words = None
        if not one_shift_suffices("cosine", temperature):
            words = torch.ops.hardmine.select_triplets_part(
                *inputs[:2], None, similarity, positive, 0, 0, 0, math.inf, math.inf, False, True, 0, 1
            )
        else:
            words = torch.full((1, 1, 900), torch.iinfo(torch.int64).min)
        return torch.ops.hardmine.tuplet_loss_part(
            *inputs[:2], None, words, similarity, positive, temperature, False, shares.part, shares.num_parts
        )

    sums = torch.stack(run_shares(4, body))
    whole = run_shares(1, body)[0]
    torch.testing.assert_close(sums.sum(0), whole, rtol=1e-6, atol=0)
    share = sums.sum(1) / whole.sum()
    assert ((share > 0.15) & (share < 0.35)).all()


@pytest.mark.parametrize("positive", POSITIVES)
@pytest.mark.parametrize("temperature", [0.02, 0.1])
def test_compiled_ops_of_tuplet_parts_opcheck_passes(temperature, positive):
    inputs = random_inputs(60, 9, 5)
    ids = torch.arange(60) // 2 * 7
    compiled = codes(temperature=temperature, positive=positive)
    calls = []
    names = ("tuplet_loss_part", "tuplet_loss_of_parts", "tuplet_loss_backward_part")

    def record(name):
        packet = getattr(torch.ops.hardmine, name)

        def call(*arguments):
            calls.append((packet.default, arguments))
            return packet(*arguments)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.setattr(torch.ops.hardmine, name, record(name))

        def body(shares):
            outputs = tuplet_in_parts(Rows(*inputs[:2], ids), compiled, shares)
            torch.ops.hardmine.tuplet_loss_backward_part(
                torch.ones(()), *inputs[:2], ids, *outputs[3:], *compiled, 0, 1
            )

        run_shares(1, body)
    assert len(calls) == 3
    for op, arguments in calls:
        torch.library.opcheck(op, arguments)


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize(
    "temperature", [0.045, math.nextafter(2 * 1.4426950408889634 / 64, 0), 0.0450842200277801, 0.05]
)
def test_one_shift_suffices_agrees_with_the_compiled_op(temperature, similarity):
    inputs = random_inputs(20, 9, 5)
    compiled = codes(similarity, "all", temperature)
    part = (*compiled[:3], False, 0, 1)
    if one_shift_suffices(similarity, temperature):
        torch.ops.hardmine.tuplet_loss_part(*inputs[:2], None, None, *part)
    else:
        with pytest.raises(ValueError, match=re.escape("words must be given")):
            torch.ops.hardmine.tuplet_loss_part(*inputs[:2], None, None, *part)


def test_compiled_ops_of_tuplet_parts_invalid_arguments_are_named():
    inputs = random_inputs(20, 9, 5)
    words = torch.zeros(1, 1, 20, dtype=torch.int64)
    for arguments, message in (
        ((words, 0, 0, 0.1, False, 3, 3), "part must be from 0 to num_parts - 1 = 2, got 3"),
        ((words[:, :, 1:], 0, 0, 0.1, False, 0, 3), "words must be those of embeddings, got [1, 1, 19]"),
        ((words, 0, 0, 0.01, False, 0, 3), "words must be int64 [1 or 2, 2, B], got [1, 1, 20]"),
        ((words, 0, 2, 0.1, False, 0, 3), "words must be given unless one shift and all positives are used"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            torch.ops.hardmine.tuplet_loss_part(*inputs[:2], None, *arguments)
    assert ops.tuplet_loss(*inputs[:2]).isfinite()
