"""InfoNCE of a batch as one compiled op on the CPU."""

from __future__ import annotations

import torch
from torch import Tensor

from hardmine.ops._arguments import SIMILARITIES
from hardmine.ops._fakes import accumulate_dtype, fake_gradients
from hardmine.ops._losses_with_gradients import has_cpu_op, register_loss_with_gradients

_HAS_CPU_OP = has_cpu_op("info_nce_loss")


def has_info_nce_op(query: Tensor) -> bool:
    """Whether the device of ``query`` has the op."""
    return query.is_cpu and _HAS_CPU_OP


def info_nce_of_pairs(
    query: Tensor, key: Tensor, temperature: Tensor, similarity: str, symmetric: bool, reduction: str
) -> Tensor:
    """The mean or the sum over the queries, whose keys are the first of ``key``; the others are negatives of all."""
    return _loss((query, key, temperature, SIMILARITIES.index(similarity), bool(symmetric), reduction == "mean"))


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


_loss = register_loss_with_gradients("info_nce_loss", (0, 1, 2), "InfoNceLoss")
