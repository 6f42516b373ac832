"""Base classes of the loss modules: the constructor checks the options, and every call passes them to the op."""

from __future__ import annotations

import copy
import inspect
import reprlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal, overload

import torch
from torch import Tensor, nn

from hardmine.ops._arguments import is_without_values
from hardmine.ops._ignored import check_ignore_index
from hardmine.ops._ranks import group_loss
from hardmine.types import AnySelection, LossResult

_short = reprlib.Repr()
_short.maxlist, _short.maxother = 8, 80


def _shown(value: Any) -> str:
    """An option in ``repr``: of a tensor its number, or else its shape, and whether it has gradients."""
    if not isinstance(value, Tensor):
        return _short.repr(value)
    has_number = value.numel() == 1 and not is_without_values(value)
    text = f"{value.item():.4g}" if has_number else str(list(value.shape))
    return f"{text} (learned)" if value.requires_grad else text


class Loss(nn.Module):
    """A module that stores the options of an op and applies the op with them.

    Args:
        arguments: The options by name, or the ``locals()`` of a constructor.

    A tensor among the options, such as a temperature, is a parameter of the module if it is an ``nn.Parameter``, else a
    buffer: it moves with ``.to()`` and is in the ``state_dict``.

    What changes with every batch, such as ``ids`` and ``weights``, is an argument of the call, not of the constructor.
    """

    _op: ClassVar[Callable[..., Any]]
    # The shape of the labels or triplets of an empty batch.
    _empty: ClassVar[tuple[int, ...]] = (0,)

    def __init__(self, arguments: dict[str, Any]) -> None:
        super().__init__()
        defaults = inspect.signature(type(self)).parameters
        # A None that is the default is left to the op. Any other None is passed on, and the op names it in its error.
        self._options = {
            name: value
            for name, value in arguments.items()
            if name not in ("self", "__class__")
            and (value is not None or name not in defaults or defaults[name].default is not None)
        }
        self._check(self._options)
        for name, value in self._options.items():
            if isinstance(value, nn.Parameter):  # trained with the module
                self.register_parameter(name, value)
            elif isinstance(value, Tensor):
                self.register_buffer(name, value if value.requires_grad else value.clone())
        self._tensors = [name for name, value in self._options.items() if isinstance(value, Tensor)]

    @property
    def options(self) -> dict[str, Any]:
        """The op's options by name, without those that the op resolves itself."""
        if not self._tensors:
            return self._options
        return {**self._options, **{name: getattr(self, name) for name in self._tensors}}

    def _check(self, options: dict[str, Any]) -> None:
        """Let the op check its options on an empty batch, so that errors come before the first training step."""
        local, device = self._local_options(options)
        if options.get("ignore_index") is not None:
            check_ignore_index(options["ignore_index"])
        rows = torch.empty(0, 1, dtype=torch.float32, device=device)
        inspect.unwrap(self._op)(rows, torch.empty(self._empty, dtype=torch.int64, device=device), **local)

    def _local_options(self, options: dict[str, Any]) -> tuple[dict[str, Any], Any]:
        """The options for a call without other ranks, and the device of such a call; checks those for ranks."""
        local = {name: value for name, value in options.items() if name not in ("group", "gradient_reduction")}
        call = group_loss("", options.get("group"), options.get("gradient_reduction"), options.get("reduction"))
        if call is not None:
            call.check()
        devices = [value.device for value in local.values() if isinstance(value, (Tensor, torch.Generator))]
        return local, devices[0] if devices else "cpu"

    def __deepcopy__(self, memo: dict[int, Any]) -> Loss:
        """A copy with the same process group: processes cannot be copied."""
        group = self.options.get("group")
        memo[id(group)] = group
        copied = self.__class__.__new__(self.__class__)
        memo[id(self)] = copied
        copied.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return copied

    def extra_repr(self) -> str:
        """The arguments of the constructor that differ from its defaults."""
        arguments, parameters = self._arguments(), inspect.signature(type(self)).parameters
        given = [
            name
            for name in parameters  # a tensor is shown even if it equals the default
            if name in arguments
            and (isinstance(arguments[name], Tensor) or arguments[name] != parameters[name].default)
        ]
        return ", ".join(f"{name}={_shown(arguments[name])}" for name in given)

    def _arguments(self) -> dict[str, Any]:
        """The arguments that ``repr`` shows."""
        return self.options


class SelectionLoss(Loss):
    """A loss on selected positives and negatives."""

    # The overloads differ in the flags and the result: the layout shows only these side by side.
    # fmt: off
    @overload
    def forward(
        self, embeddings: Tensor, labels: Tensor,
        ref_embeddings: Tensor | None = None, ref_labels: Tensor | None = None, *,
        ids: Tensor | None = None, ref_ids: Tensor | None = None, weights: Tensor | None = None,
        return_selection: Literal[False] = False, return_count: Literal[False] = False,
    ) -> Tensor: ...
    @overload
    def forward(
        self, embeddings: Tensor, labels: Tensor,
        ref_embeddings: Tensor | None = None, ref_labels: Tensor | None = None, *,
        ids: Tensor | None = None, ref_ids: Tensor | None = None, weights: Tensor | None = None,
        return_selection: Literal[True], return_count: Literal[False] = False,
    ) -> tuple[Tensor, AnySelection]: ...
    @overload
    def forward(
        self, embeddings: Tensor, labels: Tensor,
        ref_embeddings: Tensor | None = None, ref_labels: Tensor | None = None, *,
        ids: Tensor | None = None, ref_ids: Tensor | None = None, weights: Tensor | None = None,
        return_selection: Literal[False] = False, return_count: Literal[True],
    ) -> tuple[Tensor, Tensor]: ...
    @overload
    def forward(
        self, embeddings: Tensor, labels: Tensor,
        ref_embeddings: Tensor | None = None, ref_labels: Tensor | None = None, *,
        ids: Tensor | None = None, ref_ids: Tensor | None = None, weights: Tensor | None = None,
        return_selection: Literal[True], return_count: Literal[True],
    ) -> tuple[Tensor, AnySelection, Tensor]: ...
    @overload
    def forward(
        self, embeddings: Tensor, labels: Tensor,
        ref_embeddings: Tensor | None = None, ref_labels: Tensor | None = None, *,
        ids: Tensor | None = None, ref_ids: Tensor | None = None, weights: Tensor | None = None,
        return_selection: bool = False, return_count: bool = False,
    ) -> LossResult[AnySelection]: ...
    # fmt: on
    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        ref_embeddings: Tensor | None = None,
        ref_labels: Tensor | None = None,
        *,
        ids: Tensor | None = None,
        ref_ids: Tensor | None = None,
        weights: Tensor | None = None,
        return_selection: bool = False,
        return_count: bool = False,
    ) -> LossResult[AnySelection]:
        """The loss of a batch. Triplets are selected in the batch itself or among refs.

        Args:
            embeddings: The anchors, [B, D].
            labels: The anchors' classes, [B].
            ref_embeddings: Rows to select from, [M, D]; None selects among the anchors.
            ref_labels: The classes of the refs, [M].
            ids: The anchors' ids, [B]; a pair of equal ids >= 0 is no candidate. With refs, only this excludes an
                anchor's own copy.
            ref_ids: The ids of the refs, [M]; given together with ``ids`` if there are refs.
            weights: The anchors' weights, [B], finite and at least 0: each term is multiplied with its anchor's weight,
                and means are divided by the sum of the weights that count.
            return_selection: Also return the :class:`hardmine.types.Selection`; with ``positive="all"``, the
                :class:`hardmine.types.PairSelection`.
            return_count: Also return the number of anchors that count, int64 [].

        Returns:
            The loss, or a tuple of the loss and what was requested: the selection, then the count.
        """
        return self._op(
            embeddings,
            labels,
            ref_embeddings,
            ref_labels,
            ids=ids,
            ref_ids=ref_ids,
            weights=weights,
            return_selection=return_selection,
            return_count=return_count,
            **self.options,
        )

    if TYPE_CHECKING:
        __call__ = forward
