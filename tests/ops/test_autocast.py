"""Under torch.autocast, ops take rows and refs of different dtypes, such as a bfloat16 batch and a float32 memory."""

import pytest
import torch

import hardmine
from hardmine import metrics, ops
from support.comparisons import assert_bitwise_equal
from support.inputs import random_inputs

CALLS = {
    "select_triplets": {},
    "triplet_loss": {"negative": "semihard"},
    "sct_loss": {},
    "tuplet_loss": {"positive": "all"},
    "batch_all_triplet_loss": {},
    "logsumexp": {},
    "supcon_loss": {},
    "circle_loss": {},
    "knn": {"k": 3},
}


def run(name, rows, refs, how="positional", **inputs):
    """The similarities that an op selects, or its loss."""
    labels, ref_labels = inputs["labels"], inputs["ref_labels"]
    if name == "knn":
        found = ops.knn(rows, refs, **CALLS[name]) if how == "positional" else ops.knn(queries=rows, refs=refs, k=3)
        return found.similarity.sum()
    if how == "positional":
        result = getattr(ops, name)(rows, labels, refs, ref_labels, **CALLS[name])
    else:
        named = {"ref_labels": ref_labels, "ref_embeddings": refs, "labels": labels}
        result = getattr(ops, name)(rows, **named, **CALLS[name])
    return result.negative_similarity.sum() if name == "select_triplets" else result.sum()


@pytest.mark.parametrize("how", ["positional", "keywords"])
@pytest.mark.parametrize("dtypes", [(torch.bfloat16, torch.float32), (torch.float32, torch.float16)], ids=str)
@pytest.mark.parametrize("name", CALLS)
def test_op_under_autocast_compares_in_the_dtype_that_holds_both(name, dtypes, how):
    inputs = random_inputs(40, 8, 5, refs=60)
    leaves = [tensor.to(dtype).requires_grad_() for tensor, dtype in zip((inputs[0], inputs[2]), dtypes, strict=True)]
    labels = {"labels": inputs.labels, "ref_labels": inputs.ref_labels}
    with torch.autocast("cpu", torch.bfloat16):
        loss = run(name, *leaves, how, **labels)
    loss.backward()
    wide = [leaf.detach().float().requires_grad_() for leaf in leaves]
    expected = run(name, *wide, **labels)
    expected.backward()
    assert loss.dtype == torch.float32
    assert_bitwise_equal(loss, expected)
    for leaf, other in zip(leaves, wide, strict=True):
        assert_bitwise_equal(leaf.grad, other.grad.to(leaf.dtype))


@pytest.mark.parametrize("name", CALLS)
def test_op_without_autocast_refuses_refs_of_another_dtype(name):
    inputs = random_inputs(40, 8, 5, refs=60)
    labels = {"labels": inputs.labels, "ref_labels": inputs.ref_labels}
    with pytest.raises(
        TypeError, match=r"must have the dtype of (embeddings|queries), torch.bfloat16, got torch.float"
    ):
        run(name, inputs[0].bfloat16(), inputs[2], **labels)
    with torch.autocast("cpu", enabled=False), pytest.raises(TypeError, match="must have the dtype of"):
        run(name, inputs[0].bfloat16(), inputs[2], **labels)
    with torch.autocast("cpu"), pytest.raises(TypeError, match=r"must be float32, float64, float16 or bfloat16"):
        run(name, inputs[0], inputs[2].long(), **labels)


METRICS = {
    "recall_at_1": {},
    "recall_at_1 ": {"ignore_index": 2},
    "recall_at_k": {"k": (1, 4)},
    "retrieval": {"metrics": ("map", "recall@1")},
    "hard_triplet_share": {},
}


@pytest.mark.parametrize("how", ["positional", "keywords"])
@pytest.mark.parametrize("name", METRICS)
def test_metric_under_autocast_compares_in_the_dtype_that_holds_both(name, how):
    inputs, metric = random_inputs(40, 8, 5, refs=60), getattr(metrics, name.strip())

    def measure(rows):
        given = {"embeddings": rows, **inputs._replace(embeddings=rows)._asdict()}
        return metric(*given.values(), **METRICS[name]) if how == "positional" else metric(**given, **METRICS[name])

    rows = inputs.embeddings.bfloat16()
    with torch.autocast("cpu"):
        found = measure(rows)
    assert found == measure(rows.float())
    with pytest.raises(TypeError, match="ref_embeddings must have the dtype of embeddings"):
        measure(rows)


def test_metrics_of_other_arguments_under_autocast_take_different_dtypes():
    rows, refs = random_inputs(40, 8, 5)[0].bfloat16(), random_inputs(60, 8, 5, seed=1)[0]
    instance, chain, ref_instance, ref_chain = (torch.arange(n) // k for n in (40, 60) for k in (4, 8))

    def measure(rows):
        recall = metrics.hotel_recall(rows, instance, chain, refs, ref_instance, ref_chain, instance_k=1)
        similarities = metrics.nearest_train_similarities(test_embeddings=rows, train_embeddings=refs)
        return recall, similarities.counts.tolist(), similarities.mean

    with torch.autocast("cpu"):
        found = measure(rows)
    assert found == measure(rows.float())
    with pytest.raises(TypeError, match="train_embeddings must have the dtype of test_embeddings"):
        metrics.nearest_train_similarities(rows, refs)


def test_verify_under_autocast_checks_the_wider_dtype():
    inputs = random_inputs(40, 8, 5, refs=60)
    labels = {"labels": inputs.labels, "ref_labels": inputs.ref_labels}
    with torch.autocast("cpu"), hardmine.verify(every=1) as report:
        run("sct_loss", inputs[0].bfloat16().requires_grad_(), inputs[2], **labels)
    assert report.ops["sct_loss"].checks == 1


@pytest.mark.slow
def test_op_under_autocast_compiles_to_one_graph():
    inputs = random_inputs(40, 8, 5, refs=60)
    rows, refs = inputs[0].bfloat16(), inputs[2]

    def step(rows, refs):
        with torch.autocast("cpu"):
            return ops.sct_loss(rows, inputs.labels, refs, inputs.ref_labels)

    compiled = torch.compile(step, backend="aot_eager", fullgraph=True)
    assert_bitwise_equal(compiled(rows, refs), step(rows, refs))
