"""The modules on softmax over all pairs: their ops with the kept options, and temperatures that are trained."""

import copy

import pytest
import torch

from hardmine import losses, ops
from support.comparisons import assert_bitwise_equal
from support.inputs import random_inputs

each_module = pytest.mark.parametrize("name", ["SupConLoss", "InfoNCELoss"])


def arguments_of(name: str) -> tuple[torch.Tensor, ...]:
    inputs = random_inputs(refs=48)
    return inputs[:2] if name == "SupConLoss" else (inputs.embeddings, inputs.ref_embeddings)


@each_module
def test_module_passes_its_options_on(name):
    options = {"temperature": 0.3, "similarity": "dot", "reduction": "none"}
    found = getattr(losses, name)(**options)(*arguments_of(name))
    op = ops.supcon_loss if name == "SupConLoss" else ops.info_nce_loss
    assert_bitwise_equal(found, op(*arguments_of(name), **options))


@each_module
def test_module_trains_its_temperature(name):
    temperature = torch.nn.Parameter(torch.tensor(0.2))
    module = getattr(losses, name)(temperature=temperature)
    assert [*module.parameters()] == [temperature]
    before = module(*arguments_of(name))
    before.backward()
    assert temperature.grad.abs() > 1e-3
    copied = copy.deepcopy(module)
    torch.optim.SGD(module.parameters(), lr=1e-3).step()
    assert module(*arguments_of(name)) < before
    assert_bitwise_equal(copied(*arguments_of(name)), before)
    copied.load_state_dict(module.state_dict())
    assert_bitwise_equal(copied(*arguments_of(name)), module(*arguments_of(name)))


@pytest.mark.parametrize("options", [{"symmetric": True, "in_batch": False}, {"temperature": 0}, {"reduction": "all"}])
def test_info_nce_module_invalid_options_raise(options):
    with pytest.raises(ValueError, match=f"^{next(iter(options))} must be"):
        losses.InfoNCELoss(**options)


def test_sigmoid_module_trains_its_numbers():
    scale, bias = (torch.nn.Parameter(torch.tensor(value)) for value in (5.0, -3.0))
    module = losses.SigmoidLoss(logit_scale=scale, logit_bias=bias)
    assert [*module.parameters()] == [scale, bias]
    found = module(*arguments_of("InfoNCELoss"))
    assert_bitwise_equal(found, ops.sigmoid_loss(*arguments_of("InfoNCELoss"), logit_scale=5.0, logit_bias=-3.0))
    found.backward()
    assert scale.grad != 0
    assert bias.grad != 0


def test_info_nce_module_without_negatives_in_batch_takes_keys():
    query, key = arguments_of("InfoNCELoss")
    found = losses.InfoNCELoss(in_batch=False)(query, key, key[:5].flip(0))
    assert_bitwise_equal(found, ops.info_nce_loss(query, key, key[:5].flip(0), in_batch=False))


@pytest.mark.parametrize("name", ["SupConLoss", "InfoNCELoss", "SigmoidLoss"])
def test_module_tensor_options_are_buffers(name):
    """A plain tensor moves, and is saved, with the module."""
    option = "logit_scale" if name == "SigmoidLoss" else "temperature"
    module = getattr(losses, name)(**{option: torch.tensor(0.2)})
    assert [key for key, _ in module.named_buffers()] == [option]
    before = module(*arguments_of(name))
    module.to(torch.float64)
    assert module.options[option].dtype == torch.float64
    torch.testing.assert_close(module(*arguments_of(name)), before)
    module.to("meta")
    assert module.options[option].is_meta
    other = getattr(losses, name)(**{option: torch.tensor(0.7)})
    other.load_state_dict({option: torch.tensor(0.2)})
    assert_bitwise_equal(other(*arguments_of(name)), before)
    assert_bitwise_equal(copy.deepcopy(other)(*arguments_of(name)), before)
