"""Embedding of a whole set of images, which leaves the model unchanged."""

from __future__ import annotations

import importlib
import multiprocessing
import signal
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset, default_collate

from hardmine._extras import require
from hardmine.ops._arguments import shape_of
from hardmine.ops._numbers import check_flag, check_integer

_INT32_MAX = 2**31 - 1


def embed_all(
    model: nn.Module | Callable[[Tensor], Tensor],
    images: Tensor | Dataset[Any],
    *,
    chunk: int = 256,
    num_workers: int = 0,
    progress: bool = False,
) -> Tensor:
    """The embeddings of all images, in evaluation mode and without gradients.

    Replaces ``torch.cat([model(images[first : first + chunk]) for first in range(0, len(images), chunk)])``.

    Args:
        model: A module or a function that embeds n images as [n, D], floating. The training mode of a module and of
            each submodule is restored afterwards, even after an error or Ctrl-C.
        images: A tensor [N, ...], or a map-style data set of N items: images, or tuples that begin with one.
        chunk: Number of images per call of the model.
        num_workers: Number of workers of the ``DataLoader`` that reads a data set.
        progress: Show a progress bar on stderr, which needs tqdm.

    Returns:
        float32 [N, D] on the CPU.

    Raises:
        TypeError: An argument or an item of the data set has the wrong type, or the model does not return a
            floating-point tensor.
        ValueError: An argument is out of range, there is no image, or the model returns a tensor that is not [n, D].
        FloatingPointError: An embedding is not finite; the message names the first such image.
        ModuleNotFoundError: ``progress`` is True and tqdm is not installed.

    Example:
        >>> import torch
        >>> embed_all(torch.nn.Flatten(), torch.zeros(5, 2, 3)).shape
        torch.Size([5, 6])
    """
    if not callable(model):
        raise TypeError(f"model must be a module or a function, got {type(model).__name__}")
    count = check_images(images)
    if count == 0:
        raise ValueError("images must have at least one image, got 0")
    chunk = check_integer("chunk", chunk, 1, _INT32_MAX)
    num_workers = check_integer("num_workers", num_workers, 0, _INT32_MAX)
    check_flag("progress", progress)
    chunks: Any = embed_chunks(model, images, chunk=chunk, num_workers=num_workers)
    with closing(chunks):
        if progress:
            bar = require("tqdm").tqdm
            chunks = bar(chunks, total=-(-count // chunk), desc="embedding", unit="chunk", leave=False)
        return torch.cat(list(chunks))


def embed_chunks(
    model: nn.Module | Callable[[Tensor], Tensor],
    images: Tensor | Dataset[Any],
    *,
    chunk: int = 256,
    num_workers: int = 0,
    first: int = 0,
) -> Generator[Tensor, None, None]:
    """The embeddings of all images from number ``first`` on, in order, one chunk at a time.

    Like :func:`embed_all`, but yields each chunk as soon as it is ready. The model is in evaluation mode from the first
    chunk until the generator ends or is closed. Use :func:`contextlib.closing` to close the generator after an error
    too.

    Yields:
        float32 [n, D] on the CPU, for at most ``chunk`` images.
    """
    device = _device(model)
    with _evaluation_mode(model):
        for batch in _chunks(images, chunk, num_workers, first):
            with torch.no_grad():
                embeddings = model(batch if device is None else batch.to(device))
            yield _check_embeddings(embeddings, len(batch), first)
            first += len(batch)


def check_images(images: Any) -> int:
    """``images`` are a tensor [N, ...] or a map-style data set; returns N."""
    if isinstance(images, Tensor) and images.dim() == 0:
        raise ValueError("images must be [N, ...], got []")
    if isinstance(images, (Mapping, str, bytes)) or not (hasattr(images, "__len__") and hasattr(images, "__getitem__")):
        raise TypeError(
            "images must be a tensor [N, ...] or a map-style data set, which has len() and items by number, "
            f"got {type(images).__name__}"
        )
    return len(images)


def _chunks(images: Tensor | Dataset[Any], chunk: int, num_workers: int, first: int) -> Iterable[Tensor]:
    if isinstance(images, Tensor):
        return images[first:].split(chunk)
    if first:
        images = Subset(images, range(first, check_images(images)))
    loader = DataLoader(
        images, batch_size=chunk, num_workers=num_workers, collate_fn=_collate_images, worker_init_fn=block_signals
    )
    # The loader draws a number, which would have no value on a "meta" default device.
    with torch.device("cpu"), signals_blocked():
        return iter(loader)


def block_signals(worker: int) -> None:
    """Block SIGINT and SIGTERM in a ``DataLoader``'s worker. Workers that a server starts do not inherit this."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Block SIGINT and SIGTERM, also in processes that start inside the context, for all their lives.

    A ``DataLoader``'s workers that start in it leave to the parent what Ctrl-C or the end of a service sends to the
    whole process group: the parent then ends them. A signal that comes to the parent meanwhile is delivered afterwards.
    ``Process.terminate`` of these processes, with which the loader ends a worker that is busy or stuck, sends SIGKILL.
    """
    if not hasattr(signal, "pthread_sigmask"):  # on Windows
        yield
        return
    method = multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]
    if method == "forkserver":  # all processes that the server starts would inherit this
        importlib.import_module("multiprocessing.forkserver").ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    others = set(multiprocessing.active_children())
    try:
        yield
    finally:
        for process in set(multiprocessing.active_children()) - others:
            process.terminate = process.kill  # type: ignore[method-assign]
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _collate_images(items: list[Any]) -> Tensor:
    """The images of some items of a data set; other contents of the items are ignored."""
    images = [item[0] if isinstance(item, (list, tuple)) and item else item for item in items]
    problem, batch = None, None
    try:
        with torch.device("cpu"):
            batch = default_collate(images)
    except TypeError as error:
        problem = error
    if isinstance(batch, Tensor):
        return batch
    first = images[0]
    kind = f"{type(first).__name__} with the keys {list(first)}" if isinstance(first, Mapping) else type(first).__name__
    raise TypeError(
        f"images must have items that are tensors or arrays, or tuples that begin with one, got {kind}"
    ) from problem


def _device(model: Any) -> torch.device | None:
    """The device of the model's first parameter; None without parameters."""
    parameters = model.parameters() if isinstance(model, nn.Module) else iter(())
    return next((parameter.device for parameter in parameters), None)


@contextmanager
def _evaluation_mode(model: Any) -> Iterator[None]:
    """Evaluation mode inside the context. Modes are restored per submodule: some may train in evaluation mode."""
    modes = [(part, part.training) for part in model.modules()] if isinstance(model, nn.Module) else []
    try:
        for part, _ in modes:
            part.training = False
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def _check_embeddings(embeddings: Any, count: int, first: int) -> Tensor:
    """The embeddings of images ``first`` to ``first + count - 1``, as float32 on the CPU."""
    if not isinstance(embeddings, Tensor) or not embeddings.is_floating_point():
        kind = str(embeddings.dtype) if isinstance(embeddings, Tensor) else type(embeddings).__name__
        raise TypeError(f"model must return a floating-point tensor, got {kind}")
    if embeddings.ndim != 2 or len(embeddings) != count:
        raise ValueError(f"model must embed {count} images as [{count}, D], got {shape_of(embeddings)}")
    embeddings = embeddings.detach().to("cpu", torch.float32)
    # A norm that overflows would make the row's cosines 0 or NaN, so it is refused like a non-finite element.
    finite = embeddings.square().sum(1).isfinite()
    if not finite.all():
        row = int(finite.logical_not().nonzero()[0])
        raise FloatingPointError(
            f"model must return finite embeddings, got a non-finite one for image {first + row}: has training diverged?"
        )
    return embeddings
