"""Tensors that no op can compute with: another layout, a wrapper, a stand-in.

Errors name the argument and the layout.
"""

import re

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.masked import masked_tensor

from hardmine import metrics, ops
from support.inputs import seeded

ROWS = torch.randn(6, 4, generator=seeded(0))
LABELS = torch.arange(6) // 2
TRIPLETS = torch.tensor([[0, 1, 2], [2, 3, 4]])

# Every tensor argument of the ops, and a call that takes it
CALLS = {
    "select_triplets.embeddings": (ROWS, lambda t: ops.select_triplets(t, LABELS)),
    "sct_loss.embeddings": (ROWS, lambda t: ops.sct_loss(t, LABELS)),
    "sct_loss.labels": (LABELS, lambda t: ops.sct_loss(ROWS, t)),
    "sct_loss.ref_embeddings": (ROWS, lambda t: ops.sct_loss(ROWS, LABELS, t, LABELS)),
    "sct_loss.ref_labels": (LABELS, lambda t: ops.sct_loss(ROWS, LABELS, ROWS, t)),
    "triplet_loss.labels": (LABELS, lambda t: ops.triplet_loss(ROWS, t)),
    "tuplet_loss.labels": (LABELS, lambda t: ops.tuplet_loss(ROWS, t)),
    "batch_all_triplet_loss.labels": (LABELS, lambda t: ops.batch_all_triplet_loss(ROWS, t)),
    "sct_loss.ids": (LABELS, lambda t: ops.sct_loss(ROWS, LABELS, ids=t)),
    "tuplet_loss.ref_ids": (LABELS, lambda t: ops.tuplet_loss(ROWS, LABELS, ROWS, LABELS, ids=LABELS, ref_ids=t)),
    "batch_all_triplet_loss.ids": (LABELS, lambda t: ops.batch_all_triplet_loss(ROWS, LABELS, ids=t)),
    "knn.ids": (LABELS, lambda t: ops.knn(ROWS, k=2, ids=t)),
    "batch_all_triplet_loss.margin": (
        torch.ones(3, 3),
        lambda t: ops.batch_all_triplet_loss(ROWS, LABELS, margin=t),
    ),
    "batch_all_triplet_loss.margin_labels": (
        torch.arange(3),
        lambda t: ops.batch_all_triplet_loss(ROWS, LABELS, margin=torch.ones(3, 3), margin_labels=t),
    ),
    "indexed_triplet_loss.triplets": (TRIPLETS, lambda t: ops.indexed_triplet_loss(ROWS, t)),
    "indexed_triplet_loss.labels": (LABELS, lambda t: ops.indexed_triplet_loss(ROWS, TRIPLETS, labels=t)),
    "global_loss.triplets": (TRIPLETS, lambda t: ops.global_loss(ROWS, t)),
    "knn.queries": (ROWS, lambda t: ops.knn(t, k=2)),
    "knn.refs": (ROWS, lambda t: ops.knn(ROWS, t, k=2)),
    "recall_at_k.labels": (LABELS, lambda t: metrics.recall_at_k(ROWS, t, k=1)),
}
KINDS = {
    "layout torch.sparse_coo": lambda t: t.to_sparse(),
    "layout torch.sparse_csr": lambda t: t[None].expand(2, -1).to_sparse_csr() if t.dim() == 1 else t.to_sparse_csr(),
    "nested tensor of layout torch.strided": lambda t: torch.nested.nested_tensor(list(t) if t.dim() == 2 else [t]),
    "nested tensor of layout torch.jagged": lambda t: torch.nested.nested_tensor(
        list(t) if t.dim() == 2 else [t], layout=torch.jagged
    ),
    "a MaskedTensor": lambda t: masked_tensor(t, torch.ones_like(t, dtype=torch.bool)),
}
each_argument = pytest.mark.parametrize("name", CALLS)


@each_argument
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore")
def test_op_non_dense_layout_raises_by_name(name, kind):
    tensor, call = CALLS[name]
    argument = name.partition(".")[2]
    with pytest.raises(TypeError, match=rf"^{argument} must be a (dense|plain) tensor, got {re.escape(kind)}$"):
        call(KINDS[kind](tensor))


@pytest.mark.parametrize("name", [name for name in CALLS if name.partition(".")[2] not in ("embeddings", "queries")])
def test_op_fake_tensor_among_real_raises_by_name(name):
    tensor, call = CALLS[name]
    argument = name.partition(".")[2]
    with pytest.raises(TypeError, match=f"^{argument} must be a real tensor, as the embeddings are, got a FakeTensor$"):
        call(FakeTensorMode().from_tensor(tensor))


def test_op_real_labels_with_fake_embeddings_raise():
    with pytest.raises(TypeError, match=r"^labels must be a FakeTensor, as the embeddings are, got a real tensor$"):
        ops.sct_loss(FakeTensorMode().from_tensor(ROWS), LABELS)


@each_argument
def test_op_meta_tensor_among_others_raises_by_name(name):
    tensor, call = CALLS[name]
    argument = name.partition(".")[2]
    if name == "knn.queries":  # it is the only tensor, so only shapes are checked
        assert call(tensor.to("meta")).index.shape == (6, 2)
        return
    pattern = r"labels must be on the device of the embeddings, meta, got cpu"
    if argument != "embeddings":
        pattern = rf"{argument} must be on the device of (the )?(embeddings|queries), cpu, got meta"
    with pytest.raises(ValueError, match=f"^{pattern}$"):
        call(tensor.to("meta"))


@pytest.mark.thinned(5)
@each_argument
@pytest.mark.parametrize("value", [None, [1, 2], ["a", "b"], ("x",), {"a": 1}, "text"], ids=repr)
def test_op_non_tensor_raises_by_name(name, value):
    argument = name.partition(".")[2]
    if (argument, value) in (("refs", None), ("margin_labels", None), ("ids", None)) or (name, value) == (
        "indexed_triplet_loss.labels",
        None,
    ):
        CALLS[name][1](value)  # the call does not fail, so the value is valid
        return
    with pytest.raises((TypeError, ValueError), match=rf"^{argument} must be "):
        CALLS[name][1](value)


def test_op_text_labels_raise():
    with pytest.raises(TypeError, match=r"^labels must be a torch.Tensor, got list of str$"):
        ops.sct_loss(ROWS, ["cat", "cat", "dog", "dog", "cow", "cow"])


LARGEST = torch.tensor([2**64 - 1] * 6, dtype=torch.uint64)


def test_op_uint64_labels_beside_negative_ones_raise():
    words = "must be below 2^63 unless both are uint64, got 18446744073709551615"
    with pytest.raises(ValueError, match=f"^labels {re.escape(words)}$"):
        ops.select_triplets(ROWS, LARGEST, ROWS, torch.full((6,), -1))
    with pytest.raises(ValueError, match=f"^ref_labels {re.escape(words)}$"):
        metrics.recall_at_k(ROWS, torch.full((6,), -1), ROWS, LARGEST, k=1)


def test_op_small_uint64_labels_equal_other_dtypes():
    small = ops.select_triplets(ROWS, LABELS.to(torch.uint64), ROWS, LABELS.to(torch.int8))
    assert torch.equal(small.negative_index, ops.select_triplets(ROWS, LABELS, ROWS, LABELS).negative_index)


def test_op_meta_uint64_labels_beside_others_raise():
    rows = ROWS.to("meta")
    with pytest.raises(
        TypeError, match=r"^ref_labels must be uint64 only if labels is, got torch.int64 and torch.uint64"
    ):
        ops.select_triplets(rows, LARGEST.to("meta"), rows, LABELS.to("meta"))


def test_op_uint64_labels_among_themselves_are_classes():
    labels = LARGEST.clone()
    labels[3:] = 5
    selection = ops.select_triplets(ROWS, labels, ROWS, labels)
    expected = ops.select_triplets(ROWS, torch.arange(6) // 3, ROWS, torch.arange(6) // 3)
    assert torch.equal(selection.negative_index, expected.negative_index)


def test_op_uint64_labels_beside_int64_margin_labels_raise():
    with pytest.raises(ValueError, match=r"^labels must be below 2\^63 unless both are uint64"):
        ops.batch_all_triplet_loss(ROWS, LARGEST, margin=torch.ones(2, 2), margin_labels=torch.tensor([-1, 3]))


def test_op_meta_uint64_labels_beside_margin_labels_raise():
    rows, labels, table = ROWS.to("meta"), LARGEST.to("meta"), torch.eye(3, device="meta")
    with pytest.raises(TypeError, match=r"^margin_labels must be uint64 only if labels is, got torch.int64 and torch"):
        ops.batch_all_triplet_loss(rows, labels, margin=table, margin_labels=torch.arange(3, device="meta"))


@pytest.mark.parametrize(
    ("op", "given"),
    [
        (ops.batch_all_triplet_loss, {"labels": LABELS, "margin": torch.ones(3, 3), "margin_labels": torch.arange(3)}),
        (ops.global_loss, {"triplets": TRIPLETS[:1], "labels": torch.tensor([0, 0, 1, 0, 1, 1])}),
        (ops.indexed_triplet_loss, {"triplets": TRIPLETS[:1], "labels": torch.tensor([0, 0, 1, 0, 1, 1])}),
    ],
    ids=["batch_all_triplet_loss", "global_loss", "indexed_triplet_loss"],
)
def test_op_with_checked_values_in_vmap_equals_each_call(op, given):
    expected = op(ROWS, **given).expand(2)
    for name in given:
        batched = torch.vmap(lambda one, name=name: op(ROWS, **{**given, name: one}))
        assert torch.equal(batched(torch.stack([given[name]] * 2)), expected)
