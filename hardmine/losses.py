"""Losses as modules, named as the papers name them. They only delegate to :mod:`hardmine.ops`.

A ``generator`` among the options is no part of a module's ``state_dict``: save its ``get_state()`` too, to resume a
training. A copy or a pickle of the module has a generator of its own, which goes on from where the original stood, so
that both draw the same numbers.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from hardmine import ops
from hardmine.ops import Selection, TripletCounts, TupletTerms
from hardmine.ops._arguments import check_finite, has_values

if TYPE_CHECKING:
    from hardmine.mining import ClassTree

__all__ = [
    "BatchAllLoss",
    "BatchAllTripletLoss",
    "EPHNLoss",
    "EPLoss",
    "EPSHNLoss",
    "GlobalLoss",
    "HNLoss",
    "HPHNLoss",
    "HPLoss",
    "HierarchicalTripletLoss",
    "NPairLoss",
    "RatioTripletLoss",
    "SCTLoss",
    "SHNLoss",
    "TripletLoss",
    "TupletLoss",
]


class _Loss(nn.Module):
    """Keeps an op's options, and applies the op with them.

    Raises:
        TypeError: On making it, if the op has no such option or an option has the wrong type.
        ValueError: On making it, if an option has the wrong value.
    """

    # What is given to a call, and the labels or triplets of an empty batch.
    _of_the_call = frozenset(
        {"embeddings", "labels", "ref_embeddings", "ref_labels", "return_selection", "return_terms", "return_counts"}
    )
    _nothing = (0,)
    # The options that make the loss the one that its name says.
    _meant: ClassVar[dict[str, Any]] = {}

    def __init__(self, op: Any, options: dict[str, Any]) -> None:
        super().__init__()
        reserved = self._of_the_call & options.keys()
        if reserved:
            raise TypeError(f"{', '.join(sorted(reserved))} belong to the call of the loss, not to its options")
        for name, value in self._meant.items():
            if options.setdefault(name, value) != value:
                raise ValueError(f"{name} must be {value!r} in {type(self).__name__}, got {options[name]!r}")
        # The op itself checks its options, on an empty batch: here, and not in the first step of a training.
        device = getattr(options.get("generator"), "device", "cpu")
        empty = torch.empty(0, 1, dtype=torch.float32, device=device)
        nothing = torch.empty(self._nothing, dtype=torch.int64, device=device)
        inspect.unwrap(op)(empty, nothing, **options)
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

    _meant: ClassVar[dict[str, Any]] = {"positive": "easiest", "negative": "hardest", "term": "nca"}


class SHNLoss(TripletLoss):
    """SHN (ECCV 2020, section 5): NCA on the easiest positive and the semi-hard negative.

    With two images a class, as in that paper, the positive is the only one there is; with more, this is EPSHN.
    """

    _meant: ClassVar[dict[str, Any]] = {"positive": "easiest", "negative": "semihard", "term": "nca"}


class EPHNLoss(TripletLoss):
    """EPHN (WACV 2020, section 4): NCA on the easiest positive and the hardest negative."""

    _meant: ClassVar[dict[str, Any]] = {"positive": "easiest", "negative": "hardest", "term": "nca"}


class EPSHNLoss(TripletLoss):
    """EPSHN (WACV 2020, section 4): NCA on the easiest positive and the semi-hard negative."""

    _meant: ClassVar[dict[str, Any]] = {"positive": "easiest", "negative": "semihard", "term": "nca"}


class HPHNLoss(TripletLoss):
    """HPHN, batch-hard (WACV 2020, section 3): NCA on the hardest positive and the hardest negative."""

    _meant: ClassVar[dict[str, Any]] = {"positive": "hardest", "negative": "hardest", "term": "nca"}


class TupletLoss(_Loss):
    """:func:`hardmine.ops.tuplet_loss` with the options given, all of which that function documents."""

    def __init__(self, **options: Any) -> None:
        super().__init__(ops.tuplet_loss, options)

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        ref_embeddings: Tensor | None = None,
        ref_labels: Tensor | None = None,
        *,
        return_terms: bool = False,
    ) -> Tensor | tuple[Tensor, TupletTerms]:
        """The loss of embeddings [B, D] with labels [B], compared among themselves or with refs [M, D], [M]."""
        return self._op(embeddings, labels, ref_embeddings, ref_labels, return_terms=return_terms, **self.options)


class EPLoss(TupletLoss):
    """EP (WACV 2020, section 4): the easiest positive against all negatives."""

    _meant: ClassVar[dict[str, Any]] = {"positive": "easiest"}


class HPLoss(TupletLoss):
    """HP (WACV 2020, section 4): the hardest positive against all negatives."""

    _meant: ClassVar[dict[str, Any]] = {"positive": "hardest"}


class NPairLoss(TupletLoss):
    """N-pair (WACV 2020, section 2.2): the one positive of a batch with two images a class, against all negatives.

    Its batches have two images a class, where the positive is the only one there is. With more it is the easiest one,
    and this is EP. The paper prints no temperature, which is ``temperature=1.0``, and trains with 0.1 (section 5.1).
    """

    _meant: ClassVar[dict[str, Any]] = {"positive": "easiest"}


class BatchAllLoss(TupletLoss):
    """Batch All (WACV 2020, section 6.1): each positive against all negatives, then the mean over the positives."""

    _meant: ClassVar[dict[str, Any]] = {"positive": "all"}


class BatchAllTripletLoss(_Loss):
    """The hinge of every triplet of the batch (HTL, ECCV 2018, section 3): :func:`ops.batch_all_triplet_loss`.

    Args:
        margin: As in :func:`hardmine.ops.batch_all_triplet_loss`, like all options. A table of margins, [C, C], and
            ``margin_labels`` are buffers: they move with ``to`` and are part of ``state_dict``.
        margin_labels: The labels that the rows of the table stand for, [C].
        options: The other options of the op.

    Attributes:
        margin: The margin in use. Only :meth:`set_margin` replaces it, as HTL does every epoch.
        margin_labels: The labels of its rows, or None.
    """

    def __init__(self, margin: float | Tensor = 0.2, margin_labels: Tensor | None = None, **options: Any) -> None:
        super().__init__(ops.batch_all_triplet_loss, options)
        self.set_margin(margin, margin_labels)

    def set_margin(self, margin: float | Tensor, margin_labels: Tensor | None = None) -> None:
        """Replaces the margin: a number, or a table with the labels of its rows.

        Raises:
            TypeError: As the op does.
            ValueError: As the op does.
        """
        device = margin.device if isinstance(margin, Tensor) else "cpu"
        empty = torch.empty(0, 1, dtype=torch.float32, device=device)
        nothing = torch.empty(0, dtype=torch.int64, device=device)
        inspect.unwrap(self._op)(empty, nothing, margin=margin, margin_labels=margin_labels, **self.options)
        # The op looks at the entries for the classes of a batch: a bad one would show late in an epoch.
        if isinstance(margin, Tensor) and has_values(margin) and not margin.isfinite().all():
            row, column = (~margin.isfinite()).nonzero()[0].tolist()
            raise ValueError(f"margin must be finite, got {margin[row, column].item()} at [{row}, {column}]")
        for name, value in (("margin", margin), ("margin_labels", margin_labels)):
            if hasattr(self, name):
                delattr(self, name)
            if isinstance(value, Tensor):
                self.register_buffer(name, value.detach().clone())
            else:
                setattr(self, name, value)

    def forward(
        self, embeddings: Tensor, labels: Tensor, *, return_counts: bool = False
    ) -> Tensor | tuple[Tensor, TripletCounts]:
        """The loss of embeddings [B, D] with labels [B]."""
        margins = {"margin": self.margin, "margin_labels": self.margin_labels}
        return self._op(embeddings, labels, return_counts=return_counts, **margins, **self.options)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # A table may be loaded over a number, or over one of other classes: the place for it is made first, with the
        # dtype and device of what was there.
        for name in ("margin", "margin_labels"):
            loaded, present = state_dict.get(prefix + name), getattr(self, name)
            if isinstance(loaded, Tensor) and (not isinstance(present, Tensor) or present.shape != loaded.shape):
                place = torch.empty_like(loaded) if not isinstance(present, Tensor) else present.new_empty(loaded.shape)
                delattr(self, name)
                self.register_buffer(name, place)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        margin = list(self.margin.shape) if isinstance(self.margin, Tensor) else self.margin
        return ", ".join([f"margin={margin}", *filter(None, [super().extra_repr()])])


class HierarchicalTripletLoss(BatchAllTripletLoss):
    """The hinge of every triplet, with margins by the classes of anchor and negative (HTL, ECCV 2018, section 4.2).

    ``alpha(y_a, y_n) = beta + d_H(y_a, y_n) - s_{y_a}``, from the class tree of the embeddings, which is made anew
    every epoch; before the first tree one margin for all. The tree's distances are those of unit vectors, so that
    ``similarity`` is cosine::

        loss_of = HierarchicalTripletLoss()
        for epoch in range(30):
            for rows in sampler:  # an AnchorNeighborSampler
                loss = loss_of(network(images[rows]), labels[rows])
                optimizer.zero_grad(); loss.backward(); optimizer.step()
            tree = ClassTree.from_embeddings(embed_all(network, images), labels)
            loss_of.update(tree)
            sampler.update(tree)

    Args:
        margin: alpha of every pair of classes before the first tree, a number.
        beta: By how much classes should become farther apart than they were, in units of the squared distance.
        options: The other options of :func:`hardmine.ops.batch_all_triplet_loss`.

    Attributes:
        margin: The margin in use: the number, or the tree's table [C, C].
        margin_labels: The classes of its rows, or None.
        trees: int64 [], the number of trees so far.

    Raises:
        TypeError: ``margin`` or ``beta`` is no number, or as for all modules.
        ValueError: It is not finite, or as for all modules.

    Note:
        ``state_dict`` holds the table, its classes and the number of trees, so that a training resumes bit for bit with
        the same arguments. It may be loaded into a module before or after its first tree.
        The paper prints the loss with unsquared distances, which is ``squared=False``; its margins are squared ones.
    """

    _meant: ClassVar[dict[str, Any]] = {"similarity": "cosine"}

    def __init__(self, margin: float = 0.2, *, beta: float = 0.1, **options: Any) -> None:
        margin = check_finite("margin", margin)
        super().__init__(margin, **options)
        self.beta = check_finite("beta", beta)
        self._first_margin = margin
        self.register_buffer("trees", torch.zeros((), dtype=torch.int64, device="cpu"))

    def update(self, tree: ClassTree) -> None:
        """Takes the margins of a tree, whose classes must be all that the batches have.

        Raises:
            TypeError: ``tree`` is no :class:`hardmine.mining.ClassTree`.
        """
        from hardmine.mining import ClassTree  # only who trains with a tree needs what mining needs

        if not isinstance(tree, ClassTree):
            raise TypeError(f"tree must be a ClassTree, got {type(tree).__name__}")
        dtype = self.margin.dtype if isinstance(self.margin, Tensor) else torch.float32
        device = self.trees.device
        self.set_margin(tree.margin_table(self.beta, dtype=dtype).to(device), tree.classes.to(device))
        self.trees = self.trees + 1  # a new one: a state_dict that was taken before keeps its number

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if prefix + "trees" in state_dict and prefix + "margin" not in state_dict:  # from before the first tree
            self.set_margin(self._first_margin)
        super()._load_from_state_dict(state_dict, prefix, *args)
        for name in ("margin", "margin_labels"):  # the place that was made may be on the device of what was loaded
            if isinstance(getattr(self, name), Tensor):
                setattr(self, name, getattr(self, name).to(self.trees.device))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, beta={self.beta}"


class _GivenTripletsLoss(_Loss):
    """As :class:`_Loss`, of an op on given triplets."""

    _of_the_call = frozenset({"embeddings", "triplets", "labels"})
    _nothing = (0, 3)

    def forward(self, embeddings: Tensor, triplets: Tensor, labels: Tensor | None = None) -> Tensor:
        """The loss of embeddings [B, D] on triplets [T, 3] of their rows, which fit the labels [B] where given."""
        return self._op(embeddings, triplets, labels=labels, **self.options)


class RatioTripletLoss(_GivenTripletsLoss):
    """Ratio loss on mined triplets (Smart Mining, eq. 2): :func:`hardmine.ops.indexed_triplet_loss`, term ratio."""

    _meant: ClassVar[dict[str, Any]] = {"term": "ratio"}

    def __init__(self, **options: Any) -> None:
        super().__init__(ops.indexed_triplet_loss, options)


class GlobalLoss(_GivenTripletsLoss):
    """Global loss on mined triplets (Smart Mining, eq. 3): :func:`hardmine.ops.global_loss` with these options."""

    def __init__(self, **options: Any) -> None:
        super().__init__(ops.global_loss, options)
