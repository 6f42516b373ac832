"""The reduced sigmoid loss of a batch and its gradients as one compiled op on the CPU."""

from __future__ import annotations

import torch
from torch import Tensor

from hardmine.ops._arguments import SIMILARITIES
from hardmine.ops._fakes import accumulate_dtype, fake_gradients
from hardmine.ops._losses_with_gradients import has_cpu_op, register_loss_with_gradients

_HAS_CPU_OP = has_cpu_op("sigmoid_loss_with_gradients")


def has_sigmoid_op(query: Tensor) -> bool:
    """Whether the device of ``query`` has the op."""
    return query.is_cpu and _HAS_CPU_OP


def sigmoid_of_pairs(query: Tensor, key: Tensor, logit: Tensor, similarity: str, reduction: str) -> Tensor:
    """The mean or the sum over the queries, whose keys have their row numbers."""
    return _loss((query, key, logit, SIMILARITIES.index(similarity), reduction == "mean"))


@torch.library.register_fake("hardmine::sigmoid_loss_with_gradients")
def _(query, key, logit, similarity, is_mean, need_query, need_key, need_logit):
    computed = query.new_empty(query.shape, dtype=accumulate_dtype(query.dtype))
    gradients = fake_gradients(computed, key, need_query, need_key)
    return computed.new_empty(()), *gradients, logit.new_empty(2 if need_logit else 0)


@torch.library.register_fake("hardmine::sigmoid_loss_with_gradients_backward")
def _(grad_loss, grad_query, grad_key, grad_logit, query, key, logit, need_query, need_key, need_logit):
    gradients = fake_gradients(grad_query, grad_key, need_query, need_key)
    return *gradients, grad_logit.new_empty(2 if need_logit else 0)


_loss = register_loss_with_gradients("sigmoid_loss_with_gradients", (0, 1, 2), "SigmoidLoss")
