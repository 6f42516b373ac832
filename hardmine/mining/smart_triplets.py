"""Smart Mining's triplets: chosen from every sample's neighbors in the whole training set."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hardmine._extras import require
from hardmine._hooks import observed
from hardmine.fanng import _fanng
from hardmine.ops._arguments import (
    FLOAT_DTYPES,
    INTEGER_DTYPES,
    check_finite,
    check_integer,
    forbid_recomputation,
    shape_of,
)
from hardmine.types import MinedTriplets

_MOST = 2**31 - 1  # samples, triplets an anchor


@observed("smart_triplets")
def smart_triplets(
    neighbor_lists: Tensor,
    distances: Tensor,
    labels: Tensor,
    kappa: float,
    per_anchor: int = 1,
    generator: torch.Generator | None = None,
    *,
    threads: int | None = None,
) -> MinedTriplets:
    """Triplets that are likely to have a loss, from every sample's list of neighbors.

    An anchor's negatives are those of its list that are at least `kappa` times as far as its nearest positive. Each
    gets the nearest positive that is farther still, so that the triplet is on the wrong side of the constraint, but
    not by more than it must.

    Args:
        neighbor_lists: Each sample's neighbors, nearest first, [N, K], any integer dtype, on the CPU; -1 from where
            a list ends. Such as :meth:`hardmine.fanng.Index.neighbors` and :func:`hardmine.ops.knn` give. A sample in
            its own list is passed over.
        distances: Their distances, [N, K], floating, ascending, at least 0; those after a list's end do not matter.
            `kappa` multiplies them as they are. The paper's are squared Euclidean distances, |a - b|^2; with others,
            another `kappa` does the same: of unsquared distances its square root.
        labels: The class of every sample, [N], any integer dtype.
        kappa: How many times as far as the nearest positive the first negative must be, at least 0. The paper begins
            with a larger one and lowers it. 1 and all below admit the same, since no negative nearer than the nearest
            positive is ever taken.
        per_anchor: Triplets an anchor, at least 1.
        generator: What random choices draw from, on the CPU. None: torch's own, which :func:`torch.manual_seed` seeds.
        threads: Number of threads; by default torch's.

    Returns:
        :class:`MinedTriplets`: `per_anchor` triplets of every sample that has a positive and a negative anywhere in the
        set, none of others.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: An argument of the wrong shape or value, or not on the CPU. An index out of range, a sample twice in
            a list, an index after -1, and a distance that is no finite number or not ascending are named with row and
            column.
        ModuleNotFoundError: NumPy is not installed.

    Note:
        Of an anchor's triplets, the t-th has the t-th nearest of its negatives; each negative serves an anchor once.
        Where they run out, as they do at a large `kappa`, the rest are random triplets: a positive and a negative drawn
        uniformly from the whole set, the same ones again perhaps.

        Where the list has no positive after the negative, one is drawn uniformly from the anchor's other positives:
        from all that are not in Algorithm 1's list `pos`, whose members, the nearest positive and those beyond the
        bound, are nearer than the negative. (Line 21 has it so; the paper's text draws from T without N_i, which it
        does not define.) If `pos` has the whole class, the farthest of it is taken.

        A negative exactly at the bound is taken (Algorithm 1, line 11; eq. 6 leaves it out). Equal distances count by
        their order in the list. Products with `kappa` are float64.

        One number is drawn from `generator`, whatever the lists; all choices follow from it. Equal states of the
        generator give equal triplets, for any number of threads.

    Reference:
        Harwood et al., "Smart Mining for Deep Metric Learning", ICCV 2017, section 3.2.2, Algorithm 1.

    Example:
        >>> import torch
        >>> from hardmine.mining import smart_triplets
        >>> labels = torch.tensor([0, 0, 0, 1])
        >>> neighbor_lists = torch.tensor([[1, 3, 2], [0, 2, 3], [1, 3, 0], [1, 0, 2]])
        >>> sq_distances = torch.tensor([[0.1, 0.2, 0.3], [0.1, 0.2, 0.3], [0.2, 0.3, 0.4], [0.1, 0.2, 0.3]])
        >>> mined = smart_triplets(neighbor_lists, sq_distances, labels, kappa=1.5)
        >>> mined.triplets[mined.mined_positive]  # negative and positive are from the list
        tensor([[0, 2, 3],
                [1, 2, 3],
                [2, 0, 3]])
    """
    lists, distances, labels = _check_lists(neighbor_lists, distances, labels)
    kappa = check_finite("kappa", kappa, at_least=0.0)
    per_anchor = check_integer("per_anchor", per_anchor, 1, _MOST)
    threads = torch.get_num_threads() if threads is None else check_integer("threads", threads, 1, 1024)
    require("numpy")  # the compiled library takes and gives arrays
    seed = draw_seed(generator)
    mined = _fanng.smart_triplets(lists.numpy(), distances.numpy(), labels.numpy(), kappa, per_anchor, seed, threads)
    return MinedTriplets(*map(torch.from_numpy, mined))


def random_triplets(labels: Tensor, per_anchor: int = 1, generator: torch.Generator | None = None) -> Tensor:
    """Triplets drawn uniformly, as Smart Mining's first two epochs have them: :func:`smart_triplets` without lists.

    Args:
        labels: As in :func:`smart_triplets`.
        per_anchor: As in :func:`smart_triplets`.
        generator: As in :func:`smart_triplets`.

    Returns:
        int64 [T, 3]: anchor, positive, negative; `per_anchor` of every sample that has a positive and a negative
        anywhere in the set, by ascending anchor.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: An argument of the wrong shape or value, or not on the CPU.

    Example:
        >>> import torch
        >>> from hardmine.mining import random_triplets
        >>> labels = torch.tensor([0, 0, 1, 1, 2])  # the last has no positive
        >>> triplets = random_triplets(labels, per_anchor=2)
        >>> triplets.shape
        torch.Size([8, 3])
        >>> anchor, positive, negative = labels[triplets].unbind(1)
        >>> bool((anchor == positive).all() and (anchor != negative).all())
        True
    """
    rows = len(labels) if isinstance(labels, Tensor) and labels.dim() else 0
    none = torch.empty(rows, 0, dtype=torch.float32, device="cpu")
    return smart_triplets(none.long(), none, labels, 0.0, per_anchor, generator).triplets


def draw_seed(generator: torch.Generator | None) -> int:
    """The seed of all choices of one call, the only number that is drawn from the generator."""
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator or None, got {type(generator).__name__}")
    if generator is not None and generator.device.type != "cpu":
        raise ValueError(f"generator must be on the CPU, got one on {generator.device}")
    if generator is not None:
        forbid_recomputation()
    return int(torch.randint(2**63 - 1, (), generator=generator, device="cpu"))


def _check_lists(neighbor_lists: Any, distances: Any, labels: Any) -> tuple[Tensor, Tensor, Tensor]:
    """The three tensors, contiguous, int64 and float32 or float64. The compiled code checks the lists' values."""
    kinds = {
        "neighbor_lists": (neighbor_lists, INTEGER_DTYPES, "an integer dtype"),
        "distances": (distances, FLOAT_DTYPES, "a floating dtype"),
        "labels": (labels, INTEGER_DTYPES, "an integer dtype"),
    }
    for name, (tensor, dtypes, kind) in kinds.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}")
        if tensor.dtype not in dtypes:
            raise TypeError(f"{name} must have {kind}, got {tensor.dtype}")
        if tensor.layout != torch.strided or tensor.is_nested:
            layout = "nested" if tensor.is_nested else tensor.layout
            raise TypeError(f"{name} must be a dense tensor, got layout {layout}")
        if tensor.device.type != "cpu":
            raise ValueError(f"{name} must be on the CPU, got it on {tensor.device}")
    if labels.dim() != 1:
        raise ValueError(f"labels must be [N], got {shape_of(labels)}")
    if neighbor_lists.dim() != 2 or len(neighbor_lists) != len(labels):
        raise ValueError(f"neighbor_lists must be [N, K] with N = {len(labels)}, got {shape_of(neighbor_lists)}")
    if distances.shape != neighbor_lists.shape:
        raise ValueError(
            f"distances must be [N, K] = {shape_of(neighbor_lists)}, as neighbor_lists, got {shape_of(distances)}"
        )
    if len(labels) > _MOST:
        raise ValueError(f"labels must be at most {_MOST}, got {len(labels)}")
    distances = distances.detach()
    if distances.dtype != torch.float64:
        distances = distances.to(torch.float32)
    return neighbor_lists.to(torch.int64).contiguous(), distances.contiguous(), labels.to(torch.int64).contiguous()
