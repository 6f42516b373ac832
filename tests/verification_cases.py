"""Ways to break an op, each of which hardmine.verify must find."""

import math

import torch


def break_output(monkeypatch, op: str, position: int, change) -> None:
    """Make torch.ops.hardmine.<op> return change(output) for one of its outputs."""
    right = getattr(torch.ops.hardmine, op)

    def wrong(*arguments):
        outputs = list(right(*arguments))
        outputs[position] = change(outputs[position])
        return tuple(outputs)

    monkeypatch.setattr(torch.ops.hardmine, op, wrong)


def at_anchor(value, anchor: int = 0):
    """A change of one anchor's entry: to a number, or to a function of the old entry."""

    def change(tensor):
        tensor = tensor.clone()
        tensor[anchor] = value(tensor[anchor]) if callable(value) else value
        return tensor

    return change


WRONG_GRADIENTS = {
    "a little off": lambda grad: grad * 1.001,
    "none at all": torch.zeros_like,
    "of the wrong sign": torch.neg,
    "of the row before": lambda grad: grad.roll(1, 0),
    "one row off": lambda grad: at_anchor(lambda row: row + 0.01 * grad.abs().max(), 7)(grad),
    "not a number": lambda grad: grad * math.nan,
}
