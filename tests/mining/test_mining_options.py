"""Every option of mining refuses invalid values before the model or the images are used."""

import re

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from bad_values import FLAG, THREADS, each_refused, integer, number
from hardmine import mining
from hardmine.mining.embedding import embed_all
from library_calls import given

GIVEN = given()
MOST = 2**31 - 1
RANKS = {"num_replicas": integer(1, MOST, optional=True), "rank": integer(0, 0, optional=True)}
SAMPLER = {
    **RANKS,
    **{"images_per_class": integer(1), "batches_per_epoch": integer(1, optional=True)},
    **{"seed": integer(-MOST, 2**62)},
}
TREE = {"levels": integer(0, 2**15 - 1)}
OPTIONS = {
    "AdaptiveKappa": {
        **{"target_error": number(0, 1), "window": integer(1), "random_epochs": integer(0)},
        **{"soft_kappa": number(1), "min_kappa": number(0), "max_kappa": number(1), "max_step": number(1)},
    },
    "AnchorNeighborSampler": {
        **{**SAMPLER, "anchors_per_batch": integer(1), "classes_per_anchor": integer(1)},
    },
    "ClassBalancedSampler": {**SAMPLER, "classes_per_batch": integer(1, optional=True)},
    "ClassBalancedSampler of a size": {"batch_size": integer(1, optional=True)},
    "ClassTree": TREE,
    "ClassTree.from_embeddings": TREE,
    "ClassTree.margin_table": {"beta": number(-torch.inf, torch.inf)},
    "SmartMiner": {
        **RANKS,
        **{"batch_size": integer(1, MOST), "batches_per_epoch": integer(1, MOST, optional=True)},
        **{"mined_share": number(0, 1), "neighbors": integer(1, 1024), "per_anchor": integer(1, MOST)},
        **{"kappa": number(0, optional=True), "embed_chunk": integer(1, MOST), "num_workers": integer(0, MOST)},
        **{"seed": integer(0, 2**62), "progress": FLAG},
    },
    "embed_all": {"chunk": integer(1, MOST), "num_workers": integer(0, MOST), "progress": FLAG},
    "random_triplets": {"per_anchor": integer(1, MOST)},
    "smart_triplets": {"kappa": number(0), "per_anchor": integer(1, MOST), "threads": THREADS},
}


def no_model(images):
    raise AssertionError("work has begun")


def in_one_process(**options):
    """Options with both arguments of ranks, because one alone is an error of its own."""
    return {"num_replicas": 1, "rank": 0} | options


TREE_OF_ROWS = mining.ClassTree.from_embeddings(GIVEN.rows, GIVEN.labels)
CALLS = {
    "AdaptiveKappa": mining.AdaptiveKappa,
    "AnchorNeighborSampler": lambda **options: mining.AnchorNeighborSampler(
        GIVEN.labels,
        **{"anchors_per_batch": 2, "classes_per_anchor": 2, "images_per_class": 2} | in_one_process(**options),
    ),
    "ClassBalancedSampler": lambda **options: mining.ClassBalancedSampler(
        GIVEN.labels, **{"classes_per_batch": 2} | in_one_process(**options)
    ),
    "ClassBalancedSampler of a size": lambda batch_size: mining.ClassBalancedSampler(
        GIVEN.labels, batch_size=batch_size
    ),
    "ClassTree": lambda **options: mining.ClassTree(TREE_OF_ROWS.distances, **options),
    "ClassTree.from_embeddings": lambda **options: mining.ClassTree.from_embeddings(
        GIVEN.rows, GIVEN.labels, **options
    ),
    "ClassTree.margin_table": TREE_OF_ROWS.margin_table,
    "SmartMiner": lambda **options: mining.SmartMiner(no_model, GIVEN.rows, GIVEN.labels, **in_one_process(**options)),
    "embed_all": lambda **options: embed_all(no_model, GIVEN.rows, **options),
    "random_triplets": lambda **options: mining.random_triplets(GIVEN.labels, **options),
    "smart_triplets": lambda **options: mining.smart_triplets(
        GIVEN.lists, GIVEN.sq_dist, GIVEN.labels, **{"kappa": 1.0} | options
    ),
}


@each_refused(OPTIONS)
def test_mining_invalid_option_raises_by_name(function, argument, value, error):
    with pytest.raises(error, match=rf"^{argument} must be "):
        CALLS[function](**{argument: value})


@pytest.mark.parametrize(
    ("labels", "got"),
    [
        ("text", "str"),
        (["cat", "dog"], "list with 'cat' at [0]"),
        ([0, "dog"], "list with 'dog' at [1]"),
        ((0, None), "tuple with None at [1]"),
        ([0, 2**70], "list with 1180591620717411303424 at [1]"),
        (np.array(["cat", "dog"]), "ndarray of <U3"),
        ({"label": 1}, "dict"),
        (None, "NoneType"),
    ],
)
@pytest.mark.parametrize(
    "call",
    [
        lambda labels: mining.ClassBalancedSampler(labels, 1),
        lambda labels: mining.AnchorNeighborSampler(labels, 1, 1, 1),
        lambda labels: mining.SmartMiner(no_model, GIVEN.rows, labels),
        lambda labels: mining.class_distances(GIVEN.rows, labels),
        lambda labels: mining.ClassTree.from_embeddings(GIVEN.rows, labels),
    ],
)
def test_mining_non_integer_labels_raise_by_name(call, labels, got):
    message = f"labels must be integers [N], a tensor or a sequence, got {got}"
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        call(labels)


@pytest.mark.parametrize(
    ("labels", "error", "words"),
    [
        (GIVEN.labels.to("meta"), ValueError, "a tensor with values, got a tensor on the meta device"),
        (FakeTensorMode().from_tensor(GIVEN.labels), ValueError, "a tensor with values, got a FakeTensor"),
        (GIVEN.labels.to_sparse(), TypeError, "a dense tensor, got layout torch.sparse_coo"),
        (
            torch.nested.nested_tensor([torch.tensor([1]), torch.tensor([1, 2])]),
            TypeError,
            "a dense tensor, got nested tensor of layout torch.strided",
        ),
    ],
)
def test_sampler_labels_without_values_raise(labels, error, words):
    with pytest.raises(error, match=f"^labels must be {words}$"):
        mining.ClassBalancedSampler(labels, 1)


@pytest.mark.parametrize("name", ["lists", "sq_dist", "labels"])
@pytest.mark.parametrize("convert", [np.asarray, torch.Tensor.tolist, torch.Tensor.to_sparse])
def test_smart_triplets_non_dense_tensor_raises_by_name(name, convert):
    argument = {"lists": "neighbor_lists", "sq_dist": "distances"}.get(name, name)
    arguments = {"neighbor_lists": GIVEN.lists, "distances": GIVEN.sq_dist, "labels": GIVEN.labels}
    arguments[argument] = convert(arguments[argument])
    with pytest.raises(TypeError, match=f"^{argument} must be a "):
        mining.smart_triplets(**arguments, kappa=1.0)


class Items(list):
    """A data set of the given items."""


IMAGE = torch.zeros(3)


@pytest.mark.parametrize(
    ("item", "got"),
    [
        ({"image": IMAGE, "label": 1}, "dict with the keys ['image', 'label']"),
        (({"image": IMAGE}, 1), "dict with the keys ['image']"),
        ("image.png", "str"),
        (("image.png", 1), "str"),
        (None, "NoneType"),
        ((), "tuple"),
    ],
)
@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.subprocess)])
def test_embed_all_items_that_are_not_images_raise(item, got, workers):
    message = f"images must have items that are tensors or arrays, or tuples that begin with one, got {got}"
    with pytest.raises(TypeError, match=re.escape(message)):
        embed_all(no_model, Items([item] * 3), num_workers=workers)


@pytest.mark.parametrize("images", [iter([IMAGE]), {"image": IMAGE}, {0: IMAGE}, "folder", 3, None])
def test_embed_all_images_that_are_not_a_data_set_raise(images):
    for call in (lambda x: embed_all(no_model, x), lambda x: mining.SmartMiner(no_model, x, GIVEN.labels)):
        with pytest.raises(TypeError, match=r"^images must be a tensor \[N, \.\.\.\] or a map-style data set"):
            call(images)


@pytest.mark.parametrize("images", [IMAGE[0], Items()])
def test_embed_all_no_images_raises(images):
    with pytest.raises(ValueError, match=r"^images must (be|have) "):
        embed_all(no_model, images)


def test_embed_all_ignores_other_contents_of_items():
    """Text and objects besides the images, which no collation supports, are ignored."""
    rows = GIVEN.rows
    items = Items([(row.numpy(), {"name": "a"}, object()) for row in rows])
    assert torch.equal(embed_all(torch.nn.Identity(), items, chunk=7), rows)
