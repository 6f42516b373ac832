"""Embedding a set in chunks of images: the results, the starting position, and the model's modes meanwhile."""

import importlib
import multiprocessing
import signal
import time
from contextlib import closing, nullcontext

import pytest
import torch
from torch import nn

from hardmine.mining import embedding
from hardmine.mining.embedding import embed_all, embed_chunks, signals_blocked
from support.inputs import seeded


@pytest.fixture
def model() -> nn.Module:
    """A model whose dropout distinguishes training from evaluation."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5)).train()


IMAGES = torch.randn(11, 4, generator=seeded(0))


@pytest.mark.parametrize("kind", ["tensor", "data set", "data set with labels"])
@pytest.mark.parametrize("first", [0, 3, 10])
def test_embed_chunks_equal_whole_embedding(model, kind, first):
    data = {
        "tensor": IMAGES,
        "data set": list(IMAGES),
        "data set with labels": torch.utils.data.TensorDataset(IMAGES, torch.arange(11)),
    }[kind]
    with torch.no_grad():
        expected = model[0](IMAGES)
    chunks = list(embed_chunks(model, data, chunk=4, first=first))
    assert [len(chunk) for chunk in chunks[:-1]] == [4] * (len(chunks) - 1)
    torch.testing.assert_close(torch.cat(chunks), expected[first:])
    assert not chunks[0].requires_grad
    torch.testing.assert_close(embed_all(model, data, chunk=4), expected)


def test_embed_chunks_closed_early_restores_modes(model):
    model[1].eval()
    model[0].weight.requires_grad_()
    chunks = embed_chunks(model, IMAGES, chunk=4)
    assert model.training, "nothing happens before the first chunk"
    with closing(chunks):
        next(chunks)
        assert not model.training
        assert torch.is_grad_enabled(), "gradients are off within a chunk only"
    assert [part.training for part in model.modules()] == [True, True, False]


def test_embed_all_model_error_restores_modes(model):
    broken = nn.Sequential(model, nn.Linear(5, 2))
    for function in (embed_all, lambda *given: list(embed_chunks(*given))):
        with pytest.raises(RuntimeError):
            function(broken, IMAGES)
        assert all(part.training for part in broken.modules())


def test_embed_chunks_nonfinite_row_names_image(model):
    images = IMAGES.clone()
    images[7] = float("nan")
    with pytest.raises(FloatingPointError, match="got a non-finite one for image 7"):
        list(embed_chunks(model, images, chunk=2, first=5))


class BlockedSignals(torch.utils.data.Dataset):
    """Items that say whether the process that reads them blocks SIGINT and SIGTERM."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> torch.Tensor:
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        return torch.tensor([float(signal.SIGINT in blocked), float(signal.SIGTERM in blocked)])


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="Windows has no signal masks")
@pytest.mark.parametrize(("workers", "blocked"), [(0, 0.0), (1, 1.0)])
def test_embed_all_workers_leave_signals_to_parent(workers, blocked):
    found = embed_all(nn.Identity(), BlockedSignals(), num_workers=workers)
    assert found.tolist() == [[blocked, blocked]] * 2
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & {signal.SIGINT, signal.SIGTERM}


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="Windows has no signal masks")
def test_embed_all_workers_of_a_server_leave_signals_to_parent(monkeypatch):
    monkeypatch.setattr(embedding, "signals_blocked", nullcontext)  # as if workers did not inherit it
    assert embed_all(nn.Identity(), BlockedSignals(), num_workers=1).tolist() == [[1.0, 1.0]] * 2


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="Windows has no signal masks")
def test_signals_blocked_delivers_signal_afterwards():
    seen = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    try:
        with signals_blocked():
            signal.raise_signal(signal.SIGTERM)
            assert seen == []
        assert seen == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="Windows has no signal masks")
def test_signals_blocked_leaves_processes_that_terminate_ends():
    with signals_blocked():
        process = multiprocessing.Process(target=time.sleep, args=(60,), daemon=True)
        process.start()
    process.terminate()
    process.join(10)
    ended = not process.is_alive()
    process.kill()
    assert ended


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="Windows has no signal masks")
def test_signals_blocked_starts_a_fork_server_first(monkeypatch):
    """The server's other processes, which later code starts, would inherit what is blocked."""
    server, masks = importlib.import_module("multiprocessing.forkserver"), []
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda allow_none=False: "forkserver")
    monkeypatch.setattr(server, "ensure_running", lambda: masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, ())))
    with signals_blocked():
        assert len(masks) == 1
    assert not masks[0] & {signal.SIGINT, signal.SIGTERM}
