"""Objects of mining can be pickled and copied, or raise an error that says why not."""

import copy
import pickle

import pytest
import torch

from hardmine import mining
from library_calls import given, leaves
from miners import LABELS, make_images, make_miner
from support.comparisons import assert_bitwise_equal

GIVEN = given()
COPIES = {"copy": copy.copy, "deepcopy": copy.deepcopy, "pickle": lambda x: pickle.loads(pickle.dumps(x))}
each_copy = pytest.mark.parametrize("make_copy", COPIES.values(), ids=COPIES)


def neighbor_sampler():
    sampler = mining.AnchorNeighborSampler(GIVEN.labels, 2, 2, 3)
    sampler.update(mining.class_distances(GIVEN.rows, GIVEN.labels))
    return sampler


@each_copy
@pytest.mark.parametrize("make", [lambda: mining.ClassBalancedSampler(GIVEN.labels, 3, 2), neighbor_sampler])
def test_sampler_copy_continues_equally(make, make_copy):
    sampler = make()
    list(sampler)
    copied = make_copy(sampler)
    assert list(copied) == list(sampler)
    assert copied.epoch == sampler.epoch == 2


@each_copy
def test_tree_copy_is_equal(make_copy):
    tree = mining.ClassTree.from_embeddings(GIVEN.rows, GIVEN.labels)
    copied = make_copy(tree)
    for a, b in zip(leaves(vars(copied)), leaves(vars(tree)), strict=True):
        assert_bitwise_equal(a, b) if isinstance(b, torch.Tensor) else None
        assert isinstance(b, torch.Tensor) or a == b
    assert_bitwise_equal(copied.margin_table(), tree.margin_table())


@each_copy
def test_adaptive_kappa_copy_continues_equally(make_copy):
    controller = mining.AdaptiveKappa(random_epochs=1)
    controller.update(0.9)
    copied = make_copy(controller)
    for error in (0.7, 0.2, 0.4):
        assert copied.update(error) == controller.update(error)


@each_copy
@pytest.mark.parametrize("options", [{}, {"method": "fanng"}, {"method": "fanng", "fanng": {"init": "last"}}])
def test_miner_copy_continues_equally(options, make_copy):
    """The graph that warm-starts the next epoch's graph is copied too."""
    miner = make_miner(**options)
    with miner.epoch():
        pass
    copied = make_copy(miner)
    for a, b in zip(leaves(list(copied.epoch())), leaves(list(miner.epoch())), strict=True):
        assert_bitwise_equal(a, b)


@each_copy
def test_epoch_copy_raises_and_names_alternative(make_copy):
    epoch = make_miner(images=make_images(), labels=LABELS).epoch()
    with pytest.raises(TypeError, match=r"^a MinedEpoch cannot be pickled or copied, .* save its state_dict\(\)"):
        make_copy(epoch)
