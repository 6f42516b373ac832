"""Smart Mining's triplets, chosen from each sample's neighbors in the whole training set."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hardmine._extras import require
from hardmine._hooks import observed
from hardmine.fanng import _fanng
from hardmine.ops._arguments import FLOAT_DTYPES, INTEGER_DTYPES, shape_of
from hardmine.ops._numbers import check_finite, check_integer
from hardmine.ops._random_draws import forbid_recomputation
from hardmine.types import MinedTriplets

_INT32_MAX = 2**31 - 1


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
    """Triplets that are likely to have a nonzero loss, from each sample's neighbor list.

    An anchor's negatives are those in its list that are at least `kappa` times as far as the nearest positive. Each
    negative is paired with the nearest positive that is farther than the negative. The triplet then violates the
    constraint by as little as possible.

    Args:
        neighbor_lists: Each sample's neighbors, nearest first, [N, K], any integer dtype, on the CPU; -1 after the end
            of a list. :meth:`hardmine.fanng.Index.neighbors` and :func:`hardmine.ops.knn` return such lists. A sample
            in its own list is ignored.
        distances: The neighbors' distances, [N, K], floating, ascending, at least 0; those after a list's end are
            ignored. `kappa` multiplies them as given. The paper uses squared Euclidean distances, |a - b|^2. For
            unsquared distances, the square root of `kappa` gives the same triplets.
        labels: The class of every sample, [N], any integer dtype.
        kappa: The first negative must be at least `kappa` times as far as the nearest positive; at least 0. The paper
            starts with a larger value and lowers it. Values below 1 act like 1, because no negative nearer than the
            nearest positive is ever taken.
        per_anchor: Triplets per anchor, at least 1.
        generator: Source of random choices, on the CPU. None: torch's default generator, which
            :func:`torch.manual_seed` seeds.
        threads: Number of threads; by default torch's.

    Returns:
        :class:`MinedTriplets`: `per_anchor` triplets for each sample that has a positive and a negative anywhere in the
        set, and none for other samples.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: An argument has the wrong shape or value, or is not on the CPU. The message gives row and column of
            an index that is out of range, duplicate or after -1, and of a distance that is not finite or not ascending.
        ModuleNotFoundError: NumPy is not installed.

    Note:
        An anchor's t-th triplet has the t-th nearest of the anchor's negatives; an anchor uses each negative once. If
        the negatives run out, as they do at a large `kappa`, the remaining triplets are random. Their positives and
        negatives are drawn uniformly from the whole set, with replacement.

        If the list has no positive after the negative, one is drawn uniformly from the anchor's positives that are not
        in Algorithm 1's list `pos`. The members of `pos`, which are the nearest positive and those beyond the bound,
        are nearer than the negative. This follows line 21; the paper's text draws from T without N_i, and does not
        define N_i. If `pos` has the whole class, its farthest member is taken.

        A negative exactly at the bound is taken (Algorithm 1, line 11; eq. 6 excludes it). Equal distances are ordered
        as in the list. Products with `kappa` are float64.

        Exactly one number, the seed of all choices, is drawn from `generator`. Equal generator states give equal
        triplets, for any number of threads.

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
    per_anchor = check_integer("per_anchor", per_anchor, 1, _INT32_MAX)
    threads = torch.get_num_threads() if threads is None else check_integer("threads", threads, 1, 1024)
    require("numpy")  # the compiled library takes and gives arrays
    seed = draw_seed(generator)
    mined = _fanng.smart_triplets(lists.numpy(), distances.numpy(), labels.numpy(), kappa, per_anchor, seed, threads)
    return MinedTriplets(*map(torch.from_numpy, mined))


def random_triplets(labels: Tensor, per_anchor: int = 1, generator: torch.Generator | None = None) -> Tensor:
    """Triplets drawn uniformly, as in Smart Mining's first two epochs: :func:`smart_triplets` without lists.

    Args:
        labels: As in :func:`smart_triplets`.
        per_anchor: As in :func:`smart_triplets`.
        generator: As in :func:`smart_triplets`.

    Returns:
        int64 [T, 3]: anchor, positive, negative, by ascending anchor. There are `per_anchor` triplets for each sample
        that has a positive and a negative anywhere in the set.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: An argument has the wrong shape or value, or is not on the CPU.

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
    empty = torch.empty(rows, 0, dtype=torch.float32, device="cpu")
    return smart_triplets(empty.long(), empty, labels, 0.0, per_anchor, generator).triplets


def draw_seed(generator: torch.Generator | None) -> int:
    """The seed of all choices of one call: the only number drawn from the generator."""
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator or None, got {type(generator).__name__}")
    if generator is not None and generator.device.type != "cpu":
        raise ValueError(f"generator must be on the CPU, got {generator.device}")
    if generator is not None:
        forbid_recomputation()
    return int(torch.randint(2**63 - 1, (), generator=generator, device="cpu"))


def _check_lists(neighbor_lists: Any, distances: Any, labels: Any) -> tuple[Tensor, Tensor, Tensor]:
    """The three tensors, contiguous, int64 and float32 or float64. The compiled code checks the lists' values."""
    tensors = {
        "neighbor_lists": (neighbor_lists, INTEGER_DTYPES, "an integer dtype"),
        "distances": (distances, FLOAT_DTYPES, "a floating dtype"),
        "labels": (labels, INTEGER_DTYPES, "an integer dtype"),
    }
    for name, (tensor, dtypes, expected) in tensors.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}")
        if tensor.dtype not in dtypes:
            raise TypeError(f"{name} must have {expected}, got {tensor.dtype}")
        if tensor.layout != torch.strided or tensor.is_nested:
            layout = "nested" if tensor.is_nested else tensor.layout
            raise TypeError(f"{name} must be a dense tensor, got layout {layout}")
        if tensor.device.type != "cpu":
            raise ValueError(f"{name} must be on the CPU, got {tensor.device}")
    if labels.dim() != 1:
        raise ValueError(f"labels must be [N], got {shape_of(labels)}")
    if neighbor_lists.dim() != 2 or len(neighbor_lists) != len(labels):
        raise ValueError(f"neighbor_lists must be [N, K] with N = {len(labels)}, got {shape_of(neighbor_lists)}")
    if distances.shape != neighbor_lists.shape:
        raise ValueError(
            f"distances must be [N, K] = {shape_of(neighbor_lists)}, as neighbor_lists, got {shape_of(distances)}"
        )
    if len(labels) > _INT32_MAX:
        raise ValueError(f"labels must have at most {_INT32_MAX} entries, got {len(labels)}")
    distances = distances.detach()
    if distances.dtype != torch.float64:
        distances = distances.to(torch.float32)
    return neighbor_lists.to(torch.int64).contiguous(), distances.contiguous(), labels.to(torch.int64).contiguous()
