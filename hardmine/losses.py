"""Losses as modules, named as the papers name them. They only delegate to :mod:`hardmine.ops`.

A ``generator`` among the options is no part of a module's ``state_dict``: save its ``get_state()`` too, to resume a
training. A copy or a pickle of the module has a generator of its own, which goes on from where the original stood, so
that both draw the same numbers.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from hardmine import ops
from hardmine.ops import Selection

__all__ = [
    "EPHNLoss",
    "EPSHNLoss",
    "GlobalLoss",
    "HNLoss",
    "HPHNLoss",
    "RatioTripletLoss",
    "SCTLoss",
    "SHNLoss",
    "TripletLoss",
]


class _Loss(nn.Module):
    """Keeps an op's options, and applies the op with them.

    Raises:
        TypeError: On making it, if the op has no such option or an option has the wrong type.
        ValueError: On making it, if an option has the wrong value.
    """

    # What is given to a call, and the labels or triplets of an empty batch.
    _of_the_call = frozenset({"embeddings", "labels", "ref_embeddings", "ref_labels", "return_selection"})
    _nothing = (0,)

    def __init__(self, op: Any, options: dict[str, Any]) -> None:
        super().__init__()
        reserved = self._of_the_call & options.keys()
        if reserved:
            raise TypeError(f"{', '.join(sorted(reserved))} belong to the call of the loss, not to its options")
        # The op itself checks its options, on an empty batch: here, and not in the first step of a training.
        device = getattr(options.get("generator"), "device", None)
        empty = torch.empty(0, 1, device=device), torch.empty(self._nothing, dtype=torch.int64, device=device)
        inspect.unwrap(op)(*empty, **options)
        self._op = op
        self.options = options

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        ref_embeddings: Tensor | None = None,
        ref_labels: Tensor | None = None,
        *,
        return_selection: bool = False,
    ) -> Tensor | tuple[Tensor, Selection]:
        """The loss of embeddings [B, D] with labels [B], selected among themselves or among refs [M, D], [M]."""
        return self._op(
            embeddings, labels, ref_embeddings, ref_labels, return_selection=return_selection, **self.options
        )

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items())


class TripletLoss(_Loss):
    """:func:`hardmine.ops.triplet_loss` with the options given, all of which that function documents."""

    def __init__(self, **options: Any) -> None:
        super().__init__(ops.triplet_loss, options)


class SCTLoss(_Loss):
    """Selectively Contrastive Triplet loss (ECCV 2020, eq. 13): :func:`hardmine.ops.sct_loss` with these options."""

    def __init__(self, **options: Any) -> None:
        super().__init__(ops.sct_loss, options)


class HNLoss(TripletLoss):
    """HN (ECCV 2020, section 5): NCA on the easiest positive and the hardest negative.

    With two images a class, as in that paper, the positive is the only one there is; with more, this is EPHN.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"positive": "easiest", "negative": "hardest", "term": "nca", **options})


class SHNLoss(TripletLoss):
    """SHN (ECCV 2020, section 5): NCA on the easiest positive and the semi-hard negative.

    With two images a class, as in that paper, the positive is the only one there is; with more, this is EPSHN.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"positive": "easiest", "negative": "semihard", "term": "nca", **options})


class EPHNLoss(TripletLoss):
    """EPHN (WACV 2020, section 4): NCA on the easiest positive and the hardest negative."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"positive": "easiest", "negative": "hardest", "term": "nca", **options})


class EPSHNLoss(TripletLoss):
    """EPSHN (WACV 2020, section 4): NCA on the easiest positive and the semi-hard negative."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"positive": "easiest", "negative": "semihard", "term": "nca", **options})


class HPHNLoss(TripletLoss):
    """HPHN, batch-hard (WACV 2020, section 3): NCA on the hardest positive and the hardest negative."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"positive": "hardest", "negative": "hardest", "term": "nca", **options})


class _GivenTripletsLoss(_Loss):
    """As :class:`_Loss`, of an op on given triplets."""

    _of_the_call = frozenset({"embeddings", "triplets", "labels"})
    _nothing = (0, 3)

    def forward(self, embeddings: Tensor, triplets: Tensor, labels: Tensor | None = None) -> Tensor:
        """The loss of embeddings [B, D] on triplets [T, 3] of their rows, which fit the labels [B] where given."""
        return self._op(embeddings, triplets, labels=labels, **self.options)


class RatioTripletLoss(_GivenTripletsLoss):
    """Ratio loss on mined triplets (Smart Mining, eq. 2): :func:`hardmine.ops.indexed_triplet_loss`, term ratio."""

    def __init__(self, **options: Any) -> None:
        super().__init__(ops.indexed_triplet_loss, {"term": "ratio", **options})


class GlobalLoss(_GivenTripletsLoss):
    """Global loss on mined triplets (Smart Mining, eq. 3): :func:`hardmine.ops.global_loss` with these options."""

    def __init__(self, **options: Any) -> None:
        super().__init__(ops.global_loss, options)
