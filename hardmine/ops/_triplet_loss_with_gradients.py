"""The triplet losses on selected pairs as one compiled op on the CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hardmine.ops._fakes import accumulate_dtype, fake_gradients
from hardmine.ops._losses_with_gradients import has_cpu_op, register_loss_with_gradients

_HAS_CPU_OP = has_cpu_op("triplet_loss_with_gradients")


def has_op_with_gradients(embeddings: Tensor) -> bool:
    """Whether the device of ``embeddings`` has the op."""
    return embeddings.is_cpu and _HAS_CPU_OP


def triplet_loss_with_gradients(*arguments: Any) -> Tensor:
    """The reduced loss, from the arguments of the compiled op triplet_loss."""
    return _loss(arguments)


@torch.library.register_fake("hardmine::triplet_loss_with_gradients")
def _(embeddings, labels, ref_embeddings, *options):
    computed = embeddings.new_empty(embeddings.shape, dtype=accumulate_dtype(embeddings.dtype))
    return computed.new_empty(()), *fake_gradients(computed, ref_embeddings, *options[-2:])


@torch.library.register_fake("hardmine::triplet_loss_with_gradients_backward")
def _(grad_loss, grad_embeddings, grad_ref_embeddings, *options):
    return fake_gradients(grad_embeddings, grad_ref_embeddings, *options[-2:])


_loss = register_loss_with_gradients("triplet_loss_with_gradients", (0, 2), "TripletLoss")
