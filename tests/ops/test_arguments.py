"""Invalid arguments of direct calls of the compiled ops, and calls on other devices."""

import math

import pytest
import torch

from hardmine import ops, reference
from support.inputs import random_inputs, seeded
from support.ops import SELECTING_OPS, each_of
from support.runs import effective_options

each_op = pytest.mark.parametrize("name", SELECTING_OPS)

OPS_WITH_REF_LABELS = (*SELECTING_OPS, "tuplet_loss")
X, Y = torch.randn(4, 3, generator=seeded(0)), torch.tensor([0, 0, 1, 1])
REFS, REF_LABELS = torch.randn(5, 3, generator=seeded(1)), torch.tensor([0, 1, 0, 1, 2])


@pytest.mark.parametrize("library", [ops, reference], ids=["ops", "reference"])
def test_options_not_given_equal_defaults_of_their_term(library):
    inputs = random_inputs()
    triplets = torch.tensor([[0, 5, 1], [1, 6, 0]])
    for op, arguments, terms in (
        (library.triplet_loss, inputs, ("nca", "hinge", "sct")),
        (library.indexed_triplet_loss, (inputs.embeddings, triplets), ("nca", "hinge", "sct", "ratio")),
    ):
        for term in terms:
            given = effective_options({"term": term, "temperature": 0.1, "margin": 0.2, "lam": 1.0})
            assert torch.equal(op(*arguments, term=term), op(*arguments, **given))
    semihard = {"negative": "semihard", "semihard_margin": 0.4}
    expected = library.select_triplets(*inputs, **semihard, tie="exclude")
    assert torch.equal(library.select_triplets(*inputs, **semihard).negative_index, expected.negative_index)


@each_op
def test_generator_on_other_device_raises(name):
    inputs = random_inputs(refs=5).to("meta")
    with pytest.raises(ValueError, match=r"^generator must be on the device of embeddings, meta, got one on cpu$"):
        getattr(ops, name)(*inputs, positive="random", generator=seeded(0))


@each_of(OPS_WITH_REF_LABELS)
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_and_cpu_tensors_together_raise(name):
    with pytest.raises((ValueError, NotImplementedError), match="must be on the"):
        getattr(ops, name)(X, Y.cuda())
    with pytest.raises((ValueError, NotImplementedError), match="must be on the"):
        getattr(ops, name)(X, Y, REFS.cuda(), REF_LABELS.cuda())


# Users may call the compiled ops directly. Such calls skip the checks above and must not read out of bounds.


def compiled_arguments(monkeypatch, name, *, backward=False, **options):
    """A compiled op and the arguments that its Python wrapper passes."""
    compiled = {"select_triplets": "select_triplets"}.get(name, "triplet_loss") + "_backward" * backward
    calls = []
    packet = getattr(torch.ops.hardmine, compiled)
    monkeypatch.setattr(torch.ops.hardmine, compiled, lambda *arguments: calls.append(arguments) or packet(*arguments))
    x = X.clone().requires_grad_()
    if name != "select_triplets":
        options["reduction"] = "none"  # on a CPU, reduced losses call an op that computes their gradients as well
    result = getattr(ops, name)(x, Y, REFS, REF_LABELS, **options)
    (result[2] if name == "select_triplets" else result).sum().backward()
    monkeypatch.undo()
    return packet, list(calls[0])


@each_op
@pytest.mark.parametrize(
    ("position", "wrong", "message"),
    [
        (0, X[0], "embeddings must be"),
        (0, X.int(), "embeddings must be float32"),
        (1, Y[:3], "labels must be"),
        (1, Y.int(), "labels must be"),
        (2, None, "given together"),
        (2, REFS[:, :2], "ref_embeddings must be"),
        (2, REFS.double(), "ref_embeddings must have the dtype"),
        (3, REF_LABELS[:4], "ref_labels must be"),
        (4, Y, "ids and ref_ids must be given together"),
        (5, REF_LABELS, "ids and ref_ids must be given together"),
        (6, X[:1].double(), "random must be None where no selection is random"),
    ],
)
def test_compiled_forward_invalid_argument_raises(name, position, wrong, message, monkeypatch):
    packet, arguments = compiled_arguments(monkeypatch, name)
    arguments[position] = wrong
    with pytest.raises((ValueError, RuntimeError), match=message):
        packet(*arguments)


@each_op
@pytest.mark.parametrize(("position", "name_of_ids"), [(4, "ids"), (5, "ref_ids")])
def test_compiled_forward_invalid_ids_raise(name, position, name_of_ids, monkeypatch):
    packet, arguments = compiled_arguments(monkeypatch, name, ids=Y, ref_ids=REF_LABELS)
    ids = arguments[position]
    for wrong in (ids[:-1], ids.int(), ids[None]):
        with pytest.raises((ValueError, RuntimeError), match=f"{name_of_ids} must be a CPU tensor"):
            packet(*(wrong if i == position else a for i, a in enumerate(arguments)))
    alone = [None if i in (2, 3) else a for i, a in enumerate(arguments)]
    with pytest.raises((ValueError, RuntimeError), match="ref_ids must be None without refs"):
        packet(*alone)


@each_op
@pytest.mark.parametrize(
    ("options", "rows"),
    [({"positive": "random"}, 1), ({"negative": "random"}, 1), ({"positive": "random", "negative": "random"}, 2)],
    ids=str,
)
def test_compiled_forward_invalid_random_numbers_raise(name, options, rows, monkeypatch):
    packet, arguments = compiled_arguments(monkeypatch, name, **options)
    assert arguments[6].shape == (rows, 4)
    right = torch.zeros(rows, 4, dtype=torch.float64)
    for wrong in (None, right.float(), right.long(), right[:, :3], right[0], right[:, :, None]):
        with pytest.raises((ValueError, RuntimeError), match=rf"random must be a CPU tensor \[{rows}, 4\] of float64"):
            packet(*(wrong if i == 6 else a for i, a in enumerate(arguments)))
    # Numbers outside [0, 1) still pick a candidate.
    for number in (1.0, -1.0, 1e300, math.inf, -math.inf, math.nan):
        *_, positive, negative = packet(*(right + number if i == 6 else a for i, a in enumerate(arguments)))
        assert (REF_LABELS[positive] == Y).all()
        assert (REF_LABELS[negative] != Y).all()


@each_op
@pytest.mark.parametrize("bad_index", [-2, 5, 2**40])
def test_compiled_backward_index_out_of_range_raises(name, bad_index, monkeypatch):
    packet, arguments = compiled_arguments(monkeypatch, name, backward=True)
    indices = [i for i, a in enumerate(arguments) if isinstance(a, torch.Tensor) and a.dtype == torch.int64]
    assert len(indices) == 2
    for position in indices:
        wrong = arguments[position].clone()
        wrong[2] = bad_index
        with pytest.raises((ValueError, RuntimeError), match=rf"must lie in \[-1, 5\), got {bad_index}"):
            packet(*(wrong if i == position else a for i, a in enumerate(arguments)))
    for position in indices:
        with pytest.raises((ValueError, RuntimeError), match="_index must be"):
            packet(*(arguments[position][:3] if i == position else a for i, a in enumerate(arguments)))


@each_op
def test_compiled_forward_unknown_enum_codes_raise(name, monkeypatch):
    packet, arguments = compiled_arguments(monkeypatch, name)
    names = [argument.name for argument in packet.default._schema.arguments]
    codes = [names.index(n) for n in ("similarity", "positive", "negative", "semihard_fallback", "tie")]
    if name != "select_triplets":
        codes += [names.index(n) for n in ("term", "hard_rule", "reduction")]
    assert all(type(arguments[position]) is int for position in codes)
    for position in codes:
        for code in (-1, 7):
            given = [code if i == position else a for i, a in enumerate(arguments)]
            message = rf"{names[position]} must be a code from 0 to \d, got {code}"
            with pytest.raises((ValueError, RuntimeError), match=message):
                packet(*given)
