"""Temperatures that are tensors, with a gradient, in the losses on listed pairs and triplets.

``test_soft_losses.py`` and ``test_tuplet_loss.py`` have those of the losses on log-sum-exps.
"""

import pytest
import torch

from hardmine import losses, ops, reference
from support.comparisons import assert_bitwise_equal
from support.inputs import random_inputs
from support.ops import PRESETS
from support.processes import threads

pytestmark = pytest.mark.emulated

TRIPLETS = torch.tensor([[0, 1, 2], [3, 2, 0], [5, 7, 9], [9, 4, 1]])
CALLS = [
    ("triplet_loss", {"term": "nca"}),
    ("triplet_loss", {"term": "sct", "negative": "hardest", "lam": 0.5}),
    ("triplet_loss", {"term": "nca", "positive": "all", "negative": "semihard"}),
    ("triplet_loss", {"term": "sct", "positive": "all", "negative": "hardest"}),
    *[("sct_loss", {"preset": preset}) for preset in PRESETS],
    ("sct_loss", {"preset": "code2020", "positive": "all"}),
    ("tuplet_loss", {"positive": "all"}),
    ("tuplet_loss", {"positive": "all", "duplicate_threshold": 0.5}),
    ("indexed_triplet_loss", {"term": "nca"}),
    ("indexed_triplet_loss", {"term": "sct"}),
]
each_call = pytest.mark.parametrize(
    ("name", "options"), CALLS, ids=["-".join([n, *map(str, o.values())]) for n, o in CALLS]
)


def evaluate(library, name, options, dtype=torch.float64, rows=48, refs=None, temperature=0.2):
    """The loss, and the gradients of rows, refs and the temperature."""
    inputs = random_inputs(rows, 8, 5, refs, dtype=dtype, spread=1.5)
    leaves = [t.requires_grad_() for t in (inputs.embeddings, inputs.ref_embeddings) if t is not None]
    given = [inputs.embeddings, TRIPLETS] if name == "indexed_triplet_loss" else [*inputs]
    t = torch.tensor(temperature, dtype=torch.float64, requires_grad=True)
    loss = getattr(library, name)(*given, temperature=t, **options)
    scale = torch.linspace(0.5, 1.5, len(loss), dtype=loss.dtype) if loss.dim() else 1.0
    return loss.detach(), *torch.autograd.grad((loss * scale).sum(), [*leaves, t])


@each_call
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("refs", [None, 30])
def test_temperature_tensor_gives_values_and_gradients_of_reference(name, options, reduction, refs):
    if refs and name == "indexed_triplet_loss":
        pytest.skip("given triplets have no refs")
    given = {**options, "reduction": reduction}
    found, expected = (evaluate(library, name, given, refs=refs) for library in (ops, reference))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    assert all(part.any() for part in found)


@each_call
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_temperature_tensor_gives_the_values_of_its_number(name, options, dtype):
    inputs = random_inputs(dtype=dtype)
    given = [inputs.embeddings, TRIPLETS] if name == "indexed_triplet_loss" else [*inputs[:2]]
    of_tensor, of_number = (getattr(ops, name)(*given, temperature=t, **options) for t in (torch.tensor(0.25), 0.25))
    torch.testing.assert_close(of_tensor, of_number)
    if name != "indexed_triplet_loss":
        flags = {"return_count": True}
        counts = [getattr(ops, name)(*given, temperature=t, **options, **flags)[1] for t in (torch.tensor(0.25), 0.25)]
        assert counts[0] == counts[1]


@each_call
def test_temperature_tensor_gradcheck(name, options):
    inputs = random_inputs(10, 4, 3, dtype=torch.float64, spread=1.5)
    rest = [TRIPLETS] if name == "indexed_triplet_loss" else [inputs.labels]
    t = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    leaves = inputs.embeddings.requires_grad_(), t
    assert torch.autograd.gradcheck(lambda x, t: getattr(ops, name)(x, *rest, temperature=t, **options), leaves)


@each_call
def test_temperature_tensor_without_rows_gives_zero(name, options):
    t = torch.tensor(0.3, requires_grad=True)
    rest = torch.empty(0, 3).long() if name == "indexed_triplet_loss" else torch.empty(0).long()
    x = torch.empty(0, 2, requires_grad=True)
    loss = getattr(ops, name)(x, rest, temperature=t, **options)
    assert loss == 0
    loss.backward()
    assert not t.grad


@each_call
def test_temperature_tensor_does_not_hide_nonfinite_rows(name, options):
    inputs = random_inputs(30)
    inputs.embeddings[3, 1] = torch.nan
    x, t = inputs.embeddings.requires_grad_(), torch.tensor(0.3, requires_grad=True)
    rest = TRIPLETS if name == "indexed_triplet_loss" else inputs.labels
    for reduction in ("mean", "none"):
        loss = getattr(ops, name)(x, rest, temperature=t, reduction=reduction, **options)
        assert loss.isnan().all()
        assert torch.autograd.grad(loss.sum(), x)[0].isnan().all()


@each_call
def test_temperature_tensor_passes_verification(name, options, verify):
    inputs = random_inputs(spread=1.5)
    rest = TRIPLETS if name == "indexed_triplet_loss" else inputs.labels
    with verify() as report:
        getattr(ops, name)(inputs.embeddings.requires_grad_(), rest, temperature=torch.tensor(0.3), **options)
    assert report.ops[name].checks == 1


@pytest.mark.cpu
@pytest.mark.thinned(5)
@each_call
def test_temperature_tensor_compiles_without_graph_breaks(name, options):
    torch.compiler.reset()
    inputs = random_inputs(24)
    rest = TRIPLETS if name == "indexed_triplet_loss" else inputs.labels

    def step(x, t):
        loss = getattr(ops, name)(x, rest, temperature=t, **options)
        return loss, *torch.autograd.grad(loss, (x, t))

    x, t = inputs.embeddings.requires_grad_(), torch.tensor(0.2, requires_grad=True)
    loss = torch.compile(lambda x, t: getattr(ops, name)(x, rest, temperature=t, **options), fullgraph=True)(x, t)
    torch.testing.assert_close([loss, *torch.autograd.grad(loss, (x, t))], [*step(x, t)])


@pytest.mark.cpu
@each_call
def test_temperature_tensor_any_threads_give_same_bits(name, options):
    found = []
    for count in (1, 3):
        with threads(count):
            found.append(evaluate(ops, name, options, torch.float32, 3000))
    for a, b in zip(*found, strict=True):
        assert_bitwise_equal(a, b)


def test_temperature_parameters_of_triplet_modules_are_trained():
    inputs = random_inputs()
    for name in ("TripletLoss", "SCTLoss", "EPHNLoss", "BatchAllLoss", "HNLoss"):
        t = torch.nn.Parameter(torch.tensor(0.2))
        module = getattr(losses, name)(temperature=t)
        assert [*module.parameters()] == [t]
        module(*inputs).backward()
        assert t.grad
