"""hardmine.verify of the ops on all pairs, all triplets, given triplets and neighbors: right results pass."""

import math

import pytest
import torch

import hardmine
from hardmine import ops
from support.inputs import Inputs, exact_inputs, random_inputs, seeded
from support.ops import FLOAT_DTYPES, POSITIVES, REDUCTIONS, SIMILARITIES, each_of
from support.runs import leaves_of, run
from triplets import CASES, case_id, random_batch, run_given

PAIR_OPS = ("tuplet_loss", "batch_all_triplet_loss", "knn")

# Right results (test_verification.py covers every dtype and the edges)


@pytest.mark.thinned(17)
@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
@pytest.mark.parametrize("positive", POSITIVES)
@pytest.mark.parametrize("temperature", [0.01, 0.1, 1.0])
def test_verify_correct_tuplet_losses_pass(dtype, positive, temperature, verify):
    with verify() as report:
        for refs in (None, 30):
            for similarity in SIMILARITIES:
                for reduction in REDUCTIONS:
                    for inputs in (
                        random_inputs(refs=refs, dtype=dtype),
                        exact_inputs(similarity, refs=refs, dtype=dtype),
                    ):
                        run(
                            ops.tuplet_loss,
                            inputs,
                            positive=positive,
                            temperature=temperature,
                            similarity=similarity,
                            reduction=reduction,
                            duplicate_threshold=0.5,
                        )
    assert report.checks == 2 * 3 * 3 * 2


@pytest.mark.thinned(29)
@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
@pytest.mark.parametrize("squared", [True, False])
def test_verify_correct_batch_all_triplet_losses_pass(dtype, squared, verify):
    """Many triplets at the kink, and sizes at which values are far above the margin, pass too."""
    table = torch.rand(6, 6, generator=seeded(0)) - 0.3
    numbered = random_inputs(60, dtype=dtype)
    numbered = numbered._replace(labels=(numbered.labels + 4) // 3)
    with verify() as report:
        for similarity in ("cosine", "euclidean"):
            for reduction in ("mean", "mean_active", "sum"):
                options = {"squared": squared, "similarity": similarity, "reduction": reduction}
                run(ops.batch_all_triplet_loss, numbered, margin=table, **options)
                run(ops.batch_all_triplet_loss, exact_inputs(similarity, dtype=dtype), margin=0.0, **options)
                for margin in (-0.3, 0.2, 1e3):
                    run(ops.batch_all_triplet_loss, random_inputs(60, dtype=dtype), margin=margin, **options)
                large = numbered._replace(embeddings=numbered.embeddings * 100)
                run(ops.batch_all_triplet_loss, large, margin=0.2, **options)
                refs = random_inputs(40, refs=70, dtype=dtype)
                labels, ref_labels = ((y + 4) // 3 for y in (refs.labels, refs.ref_labels))
                for margin in (table, 0.2):
                    run(
                        ops.batch_all_triplet_loss,
                        refs._replace(labels=labels, ref_labels=ref_labels),
                        margin=margin,
                        **options,
                    )
    assert report.checks == 2 * 3 * 8


@pytest.mark.thinned(7)
@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_verify_correct_neighbors_pass(dtype, similarity, verify):
    with verify() as report:
        for refs in (None, 30):
            for inputs in (random_inputs(refs=refs, dtype=dtype), exact_inputs(similarity, refs=refs, dtype=dtype)):
                for k in (1, 5, 100):
                    run(ops.knn, inputs, k=k, similarity=similarity)
                    run(ops.knn, inputs, k=k, similarity=similarity, exclude_self=False)
    assert report.checks == 2 * 2 * 3 * 2


@pytest.mark.thinned(5)
@pytest.mark.parametrize("dtype", FLOAT_DTYPES, ids=str)
@pytest.mark.parametrize(("name", "options"), CASES, ids=case_id)
def test_verify_correct_losses_of_given_triplets_pass(name, options, dtype, verify):
    with verify() as report:
        for spread in (0.1, 0.7, 3.0):
            run_given(getattr(ops, name), random_batch(spread=spread, dtype=dtype), **options)
        run_given(getattr(ops, name), random_batch(3, count=0, dtype=dtype), **options)
        equal = random_batch(dtype=dtype)
        run_given(getattr(ops, name), equal._replace(embeddings=equal.embeddings[:1].expand(40, 8)), **options)
        close = equal.embeddings[:1] + 1e-3 * equal.embeddings
        run_given(getattr(ops, name), equal._replace(embeddings=close), **options)
        broken = random_batch(dtype=dtype)
        broken.embeddings[0, 0] = math.nan
        run_given(getattr(ops, name), broken, **options)
    assert report.checks == 7


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("term", ["ratio", "nca", "sct", "hinge", "soft_margin"])
def test_verify_correct_reductions_of_given_triplets_pass(term, reduction, verify):
    with verify() as report:
        run_given(ops.indexed_triplet_loss, random_batch(), term=term, reduction=reduction)
    assert report.checks == 1


# Results that depend on rounding


def test_verify_equally_similar_neighbors_are_ties(verify, monkeypatch):
    """An op that takes the last of equal candidates: this op sees the refs in reverse order."""
    inputs = exact_inputs("dot", refs=30)
    right = torch.ops.hardmine.knn

    def last_of_ties(queries, refs, *options):
        similarity, index = right(queries, refs.flip(0), *options)
        return similarity, 29 - index

    first = ops.knn(inputs.embeddings, inputs.ref_embeddings, k=6, similarity="dot").index
    monkeypatch.setattr(torch.ops.hardmine, "knn", last_of_ties)
    with verify() as report:
        last = ops.knn(inputs.embeddings, inputs.ref_embeddings, k=6, similarity="dot").index
    ties = int((first != last).sum())
    assert ties > 20
    assert (report.ops["knn"].ties, report.ops["knn"].choices) == (ties, 61 * 6)


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("refs", [None, 40], ids=["self", "refs"])
def test_verify_batch_all_triplets_at_kink_may_be_active_or_not(squared, refs, verify, monkeypatch):
    """An op whose margin is slightly larger than requested: all triplets at the kink are active, and have gradients."""
    inputs = exact_inputs("euclidean", 40, 4, 3, refs, dtype=torch.float64)
    right = torch.ops.hardmine.batch_all_triplet_loss

    def generous(*arguments):
        return right(*arguments[:11], arguments[11] + 1e-12, *arguments[12:])

    options = {"similarity": "euclidean", "margin": 0.0, "squared": squared}
    exact = run(ops.batch_all_triplet_loss, inputs, **options)
    monkeypatch.setattr(torch.ops.hardmine, "batch_all_triplet_loss", generous)
    with verify() as report:
        result = run(ops.batch_all_triplet_loss, inputs, **options)
    more = int(result.selection[0] - exact.selection[0])
    assert more > 100
    assert (result.grad - exact.grad).abs().max() > 1e-4, "the gradients differ far beyond rounding"
    assert report.ops["batch_all_triplet_loss"].ties == more
    assert f"active triplets that differ by a tie: {more} of {int(exact.selection[1])}" in report.summary()


def test_verify_given_triplets_at_kink_or_jump_may_be_on_either_side(verify, monkeypatch):
    """The op treats triplets with s_ap = s_an as hard: sct jumps there, and the hinge has a kink."""
    x = torch.eye(4, dtype=torch.float64)
    triplets = torch.tensor([[0, 1, 2], [1, 2, 3], [3, 0, 1]])
    right = torch.ops.hardmine.indexed_triplet_loss

    def nudged(embeddings, *options):
        nudge = torch.zeros(4, 4, dtype=torch.float64)
        nudge[0, 2] = nudge[1, 3] = nudge[3, 1] = 1e-14
        return right(embeddings + nudge, *options)

    for term in ({"term": "sct", "lam": 0.7}, {"term": "hinge", "margin": 0.0}):
        options = {**term, "similarity": "dot"}
        exact = run_given(ops.indexed_triplet_loss, random_batch()._replace(embeddings=x, triplets=triplets), **options)
        with monkeypatch.context() as context:
            context.setattr(torch.ops.hardmine, "indexed_triplet_loss", nudged)
            batch = random_batch()._replace(embeddings=x, triplets=triplets)
            other = run_given(ops.indexed_triplet_loss, batch, **options)
            assert (other.grad - exact.grad).abs().max() > 0.1
            with verify() as report:
                run_given(ops.indexed_triplet_loss, batch, **options)
        assert report.checks == 1


def test_verify_tuplet_positives_at_threshold_may_count_or_not(verify, monkeypatch):
    """With "all", the loss of such anchors jumps, so it is not compared. The report counts such anchors as ties."""
    inputs = exact_inputs("dot", 30, 4)
    with verify() as report:
        ops.tuplet_loss(*inputs, positive="all", similarity="dot", duplicate_threshold=2.0)
    assert report.ops["tuplet_loss"].ties > 0
    assert "gradient" not in report.ops["tuplet_loss"].deviation
    with verify() as report:
        ops.tuplet_loss(*inputs, positive="all", similarity="dot", duplicate_threshold=2.5)
    assert report.ops["tuplet_loss"].ties == 0
    assert "gradient" in report.ops["tuplet_loss"].deviation


@pytest.mark.slow
@each_of(PAIR_OPS)
def test_verify_collapsed_embeddings_pass(name, verify):
    """Trainings can end like this: cosines of 1, distances of nearly 0, half of all triplets near the kink."""
    for noise in (0.0, 1e-8, 1e-6, 1e-4, 1e-2):
        for dtype in FLOAT_DTYPES:
            x, labels, _, _ = random_inputs(40, 16, 5)
            inputs = Inputs((x[:1] + noise * x).to(dtype), labels)
            options = [{"positive": positive} for positive in POSITIVES] if name == "tuplet_loss" else [{}]
            if name == "batch_all_triplet_loss":
                options = [{"squared": s, "margin": m} for s in (True, False) for m in (0.0, 0.2)]
            for given in options:
                for similarity in ("cosine", "euclidean"):
                    with verify() as report:
                        run(getattr(ops, name), inputs, similarity=similarity, **given)
                    assert report.checks == 1


def test_verify_leaves_have_no_gradient():
    """Verify's copies never reach the caller's tensors, including a table of margins."""
    inputs = random_inputs()
    inputs = inputs._replace(labels=(inputs.labels + 4) // 3)
    leaves_of(inputs)
    table = torch.rand(6, 6, requires_grad=True)
    with hardmine.verify(every=1):
        ops.batch_all_triplet_loss(*inputs[:2], margin=table)
    assert table.grad is None
    assert inputs.embeddings.grad is None
