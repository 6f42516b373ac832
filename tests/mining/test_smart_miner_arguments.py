"""The arguments that SmartMiner refuses, by their messages."""

import math

import pytest
import torch

from miners import LABELS, make_images, make_miner


@pytest.mark.parametrize("labels", [[0] * 120, list(range(120))])
def test_miner_labels_without_triplet_raise(labels):
    with pytest.raises(ValueError, match="labels must have at least two classes, one of them with at least two images"):
        make_miner(labels=labels)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"labels": LABELS[:7]}, ValueError, "images must have N = 7 images, one per label, got 120"),
        ({"labels": LABELS.float()}, ValueError, r"labels must be integers \[N\], got torch.float32 \[120\]"),
        ({"model": 3}, TypeError, "model must be a module or a function, got int"),
        ({"batch_size": 0}, ValueError, "batch_size must be from 1 to 2147483647, got 0"),
        ({"batch_size": 2.0}, TypeError, "batch_size must be an integer, got float"),
        ({"batches_per_epoch": 0}, ValueError, "batches_per_epoch must be from 1"),
        ({"mined_share": 1.5}, ValueError, r"mined_share must be from 0 to 1, got 1\.5"),
        ({"mined_share": math.nan}, ValueError, "mined_share must be from 0 to 1, got nan"),
        ({"neighbors": 1025}, ValueError, "neighbors must be from 1 to 1024, got 1025"),
        ({"per_anchor": 0}, ValueError, "per_anchor must be from 1"),
        ({"kappa": -1.0}, ValueError, r"kappa must be a number from 0, an AdaptiveKappa or None, got -1\.0"),
        ({"kappa": math.inf}, ValueError, "kappa must be a number from 0"),
        ({"kappa": "soft"}, TypeError, "kappa must be a number, an AdaptiveKappa or None, got str"),
        ({"method": "hnsw"}, ValueError, "method must be one of 'exact', 'fanng', got 'hnsw'"),
        ({"fanng": {}}, ValueError, "fanng must be None with method='exact': only 'fanng' has a graph, got {}"),
        ({"embed_chunk": 0}, ValueError, "embed_chunk must be from 1"),
        ({"num_workers": -1}, ValueError, "num_workers must be from 0"),
        ({"seed": -1}, ValueError, "seed must be from 0"),
        (
            {"method": "fanng", "fanng": {"max_degre": 3}},
            ValueError,
            "fanng must have keys from init, max_degree, .* got max_degre$",
        ),
        ({"method": "fanng", "fanng": {"metric": "cosine"}}, ValueError, "fanng must have keys from .* got metric$"),
    ],
)
def test_miner_invalid_argument_raises(settings, error, message):
    with pytest.raises(error, match=message):
        make_miner(**settings)


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (lambda x: x.long(), TypeError, "model must return a floating-point tensor, got torch.int64"),
        (lambda x: None, TypeError, "model must return a floating-point tensor, got NoneType"),
        (lambda x: x[0], ValueError, r"model must embed 50 images as \[50, D\], got \[6\]"),
        (lambda x: x[1:], ValueError, r"model must embed 50 images as \[50, D\], got \[49, 6\]"),
        (lambda x: torch.where(x == make_images()[60, 2], math.nan, x), FloatingPointError, "one for image 60: has"),
        (lambda x: x * 1e30, FloatingPointError, "got a non-finite one for image 0"),
    ],
)
def test_epoch_invalid_embeddings_raise(model, error, message):
    with pytest.raises(error, match=message):
        make_miner(model, embed_chunk=50).epoch()


def test_observe_invalid_losses_raise():
    epoch = make_miner().epoch()
    with pytest.raises(ValueError, match=r"losses must be \[T\] = \[16\], got \[\]"):
        epoch.observe(epoch[0], torch.tensor(1.0))
    with pytest.raises(FloatingPointError, match="losses must not be NaN, got NaN in epoch 1"):
        epoch.observe(epoch[0], torch.full((16,), math.nan))
    with pytest.raises(RuntimeError, match="epoch 1 has no error: call observe"), make_miner(kappa=None).epoch():
        pass


def test_miner_replaced_images_and_foreign_state_raise():
    miner = make_miner()
    state = miner.state_dict()
    with pytest.raises(ValueError, match=r"state\['history'\]\[0\] must have the entries epoch, .*, got color"):
        miner.load_state_dict({**state, "history": [{"color": 1}]})
    miner.images = miner.images[:100]
    with pytest.raises(ValueError, match="images must have N = 120 images, one per label, got 100"):
        miner.epoch()


def test_miner_labels_are_copied():
    labels = LABELS.clone()
    miner = make_miner(labels=labels)
    labels.zero_()
    assert miner.labels.equal(LABELS.long())
