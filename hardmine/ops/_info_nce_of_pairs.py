"""InfoNCE of a batch as one compiled op on the CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hardmine.ops._arguments import SIMILARITIES
from hardmine.ops._fakes import accumulate_dtype, fake_gradients
from hardmine.ops._losses_with_gradients import has_cpu_op, register_loss_with_gradients

_HAS_CPU_OP = has_cpu_op("info_nce_loss")


def has_info_nce_op(query: Tensor) -> bool:
    """Whether the device of ``query`` has the op."""
    return query.is_cpu and _HAS_CPU_OP


def options_of_pairs(temperature: Tensor, similarity: str, symmetric: bool, reduction: str) -> tuple[Any, ...]:
    """The options of the compiled op: the loss is the mean or the sum over the queries."""
    return temperature, SIMILARITIES.index(similarity), bool(symmetric), reduction == "mean"


@torch.library.register_fake("hardmine::info_nce_loss")
def _(query, key, temperature, similarity, symmetric, is_mean, need_query, need_key, need_temperature):
    computed = query.new_empty(query.shape, dtype=accumulate_dtype(query.dtype))
    gradients = fake_gradients(computed, key, need_query, need_key)
    return computed.new_empty(()), *gradients, temperature.new_empty(() if need_temperature else (0,))


@torch.library.register_fake("hardmine::info_nce_loss_backward")
def _(grad_loss, grad_query, grad_key, grad_temperature, query, key, temperature, *needed):
    need_query, need_key, need_temperature = needed
    gradients = fake_gradients(grad_query, grad_key, need_query, need_key)
    return *gradients, grad_temperature.new_empty(() if need_temperature else (0,))


# Of a tuple of queries, keys and the options; the first keys are those of the queries, the others are negatives of all.
loss_of_pairs = register_loss_with_gradients("info_nce_loss", (0, 1, 2), "InfoNceLoss")
