"""Embedding a whole set of images, without a trace in the model."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hardmine._extras import require
from hardmine.ops._arguments import shape_of


def embed_all(
    model: nn.Module | Callable[[Tensor], Tensor],
    images: Tensor | torch.utils.data.Dataset,
    *,
    chunk: int = 256,
    num_workers: int = 0,
    progress: bool = False,
) -> Tensor:
    """The embeddings of all images, in evaluation mode and without gradients.

    Replaces ``torch.cat([model(images[first : first + chunk]) for first in range(0, len(images), chunk)])``.

    Args:
        model: A module, or any function, that embeds n images as [n, D], floating. The training mode of a module and
            of each of its parts is put back afterwards, also after an error or Ctrl-C.
        images: A tensor [N, ...], or a map-style data set of N items: images, or tuples that begin with one.
        chunk: Number of images that are embedded at once.
        num_workers: Of the ``DataLoader`` that reads a data set.
        progress: Show a progress bar on stderr, which needs tqdm.

    Returns:
        float32 [N, D] on the CPU.

    Raises:
        TypeError: The model returns something else than a floating-point tensor.
        ValueError: It returns one that is not [n, D].
        FloatingPointError: An embedding is not finite; the message names the first such image.
        ModuleNotFoundError: ``progress`` is True and tqdm is not installed.
    """
    chunks = embed_chunks(model, images, chunk=chunk, num_workers=num_workers)
    with closing(chunks):
        if progress:
            bar = require("tqdm").tqdm
            chunks = bar(chunks, total=-(-len(images) // chunk), desc="embedding", unit="chunk", leave=False)
        return torch.cat(list(chunks))


def embed_chunks(
    model: nn.Module | Callable[[Tensor], Tensor],
    images: Tensor | torch.utils.data.Dataset,
    *,
    chunk: int = 256,
    num_workers: int = 0,
    first: int = 0,
) -> Generator[Tensor, None, None]:
    """The embeddings of all images from the one numbered ``first``, some at a time, in order.

    As :func:`embed_all`, for those who keep each chunk as soon as it is there. The model is in evaluation mode from the
    first chunk until the generator ends or is closed; use :func:`contextlib.closing`, so that it is closed after an
    error, too.

    Yields:
        float32 [n, D] on the CPU, for at most ``chunk`` images.
    """
    device = _device(model)
    with _evaluating(model):
        for some in _chunks(images, chunk, num_workers, first):
            with torch.no_grad():
                embeddings = model(some if device is None else some.to(device))
            yield _checked(embeddings, len(some), first)
            first += len(some)


def _chunks(images: Tensor | torch.utils.data.Dataset, chunk: int, num_workers: int, first: int) -> Any:
    if isinstance(images, Tensor):
        return images[first:].split(chunk)
    if first:
        images = torch.utils.data.Subset(images, range(first, len(images)))
    loader = torch.utils.data.DataLoader(images, batch_size=chunk, num_workers=num_workers)
    return (some[0] if isinstance(some, (list, tuple)) else some for some in loader)


def _device(model: Any) -> torch.device | None:
    """Where the model's first parameter is; None if it has none."""
    parameters = model.parameters() if isinstance(model, nn.Module) else iter(())
    return next((parameter.device for parameter in parameters), None)


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Evaluation mode for a while. Modes are kept a part at a time: some train with a part in evaluation mode."""
    modes = [(part, part.training) for part in model.modules()] if isinstance(model, nn.Module) else []
    try:
        for part, _ in modes:
            part.training = False
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def _checked(embeddings: Any, count: int, first: int) -> Tensor:
    """The embeddings of images ``first`` to ``first + count - 1``, as float32 on the CPU."""
    if not isinstance(embeddings, Tensor) or not embeddings.is_floating_point():
        kind = str(embeddings.dtype) if isinstance(embeddings, Tensor) else type(embeddings).__name__
        raise TypeError(f"model must return a floating-point tensor, got {kind}")
    if embeddings.ndim != 2 or len(embeddings) != count:
        raise ValueError(f"model must embed {count} images as [{count}, D], got {shape_of(embeddings)}")
    embeddings = embeddings.detach().to("cpu", torch.float32)
    # A norm that overflows would make a cosine of the row 0 or NaN: as bad as an element that is not finite.
    finite = embeddings.square().sum(1).isfinite()
    if not finite.all():
        row = int(finite.logical_not().nonzero()[0])
        raise FloatingPointError(f"the embedding of image {first + row} is not finite: has training diverged?")
    return embeddings
