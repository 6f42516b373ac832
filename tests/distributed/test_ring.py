"""Blocks of refs that travel around a ring: results and gradients are those of one process with all refs."""

import gc
import math
import re

import pytest
import torch
import torch.distributed as dist

from hardmine import ops
from hardmine.distributed import all_reduce_loss, ring_select_triplets, ring_tuplet_loss
from support.comparisons import assert_bitwise_equal
from support.inputs import Inputs, exact_inputs, random_inputs, seeded
from support.ranks import COMPILING_SECONDS, COUNTS, run_ranks

# Numbers of anchors and of refs per rank.
LAYOUTS = [([7, 12, 0, 5, 9], [11, 17, 0, 6, 13]), ([0, 19, 4, 0, 3], [18, 0, 5, 9, 0])]
DTYPES = [torch.float32, torch.float64, torch.bfloat16]


def scaled_copies(rows, refs=None, dtype=torch.float32, seed=0):
    """Rows in one direction: rounding puts their cosine similarities on both sides of 1."""
    generator = seeded(seed)
    direction = torch.randn(1, 12, generator=generator, dtype=torch.float64)

    def draw(count):
        x = direction * (0.5 + torch.rand(count, 1, generator=generator, dtype=torch.float64))
        return x.to(dtype), torch.randint(0, 3, (count,), generator=generator)

    return Inputs(*draw(rows), *(draw(refs) if refs else ()))


def split(tensor, sizes, rank):
    return None if tensor is None else tensor.split(sizes)[rank]


class Batch:
    """Anchors and refs of all ranks, with ids, and the parts of each rank."""

    def __init__(self, count, make, *, refs=True, with_ids=False, layout=0, **options):
        self.anchors, self.refs = (sizes[:count] for sizes in LAYOUTS[layout])
        self.inputs = make(rows=sum(self.anchors), refs=sum(self.refs) if refs else None, **options)
        x, y, ref_x, ref_y = self.inputs
        ids = torch.arange(len(x)) % 9 - 1 if with_ids else None
        ref_ids = torch.randint(-1, 9, (len(ref_x),), generator=seeded(5)) if with_ids and refs else None
        self.arguments = (x, y, ref_x, ref_y, ids, ref_ids)

    def leaves(self, rank=None):
        """The arguments of a rank, or of one process; embeddings and refs require gradients."""
        sizes = (self.anchors, self.anchors, self.refs, self.refs, self.anchors, self.refs)
        given = self.arguments
        if rank is not None:
            given = [split(tensor, size, rank) for tensor, size in zip(given, sizes, strict=True)]
        given = [t.clone().requires_grad_() if t is not None and t.is_floating_point() else t for t in given]
        x, y, ref_x, ref_y, ids, ref_ids = given
        ids_given = {name: value for name, value in (("ids", ids), ("ref_ids", ref_ids)) if value is not None}
        return (x, y, ref_x, ref_y), ids_given


def gradients(arguments):
    return [None if t is None else t.grad for t in (arguments[0], arguments[2])]


def joined(found):
    """Results of all ranks, concatenated per field; None where all ranks have none."""
    return [None if parts[0] is None else torch.cat(parts) for parts in zip(*found, strict=True)]


RULES = [
    {},
    {"positive": "hardest", "negative": "easiest"},
    {"negative": "semihard"},
    {"positive": "hardest", "negative": "semihard", "semihard_fallback": "hardest", "tie": "include"},
    {"negative": "semihard", "semihard_fallback": "easiest", "semihard_margin": 0.25},
    {"duplicate_threshold": 0.5, "negative": "semihard"},
]


@COUNTS
@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
@pytest.mark.parametrize("refs", [True, False])
def test_ring_selection_is_bitwise_that_of_one_process(refs, similarity, count):
    """Reals, and small integers, whose similarities tie between blocks."""

    def options():
        for turn, rule in enumerate(RULES):
            for make in (random_inputs, exact_inputs):
                kind = {"similarity": similarity} if make is exact_inputs else {}
                dtype = DTYPES[turn % 3]
                yield (
                    rule,
                    Batch(
                        count, make, refs=refs, with_ids=turn % 3 == 1, layout=turn % 2, dtype=dtype, seed=turn, **kind
                    ),
                )

    cases = list(options())

    def select(rank):
        found = []
        for rule, batch in cases:
            arguments, ids = batch.leaves(rank)
            found.append([p.detach() for p in ring_select_triplets(*arguments, **ids, similarity=similarity, **rule)])
        return found

    ranks = run_ranks(count, select)
    seen = 0
    for case, (rule, batch) in enumerate(cases):
        arguments, ids = batch.leaves()
        expected = ops.select_triplets(*arguments, **ids, similarity=similarity, **rule)
        seen += int(expected.count())
        for got, wanted in zip(joined([found[case] for found in ranks]), expected, strict=True):
            assert_bitwise_equal(got, wanted)
    assert seen > 50


@COUNTS
@pytest.mark.parametrize("refs", [True, False])
@pytest.mark.parametrize("negative", ["hardest", "semihard"])
def test_ring_selection_gradients_are_those_of_one_process(negative, refs, count):
    layout = int(negative == "semihard")
    batch = Batch(count, random_inputs, refs=refs, with_ids=True, layout=layout, dtype=torch.float64)

    def compute(rank):
        arguments, ids = batch.leaves(rank)
        selection = ring_select_triplets(*arguments, **ids, negative=negative)
        violation = (selection.negative_similarity - selection.positive_similarity + 0.3)[selection.valid].relu()
        loss = all_reduce_loss(violation.sum(), selection.count(), gradient_reduction="sum")
        loss.backward()
        return loss.detach()[None], *gradients(arguments)

    arguments, ids = batch.leaves()
    options = {"negative": negative, "term": "hinge", "margin": 0.3}
    loss = ops.triplet_loss(*arguments, **ids, **options)
    loss.backward()
    assert loss > 0
    losses, *found = joined(run_ranks(count, compute))
    torch.testing.assert_close(losses, loss.detach().expand(count), rtol=1e-12, atol=0)
    for got, wanted in zip(found, gradients(arguments), strict=True):
        if wanted is not None:
            torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-12)


@COUNTS
@pytest.mark.parametrize("refs", [True, False])
@pytest.mark.parametrize("positive", ["easiest", "hardest", "all"])
def test_ring_tuplet_loss_and_gradients_are_those_of_one_process(positive, refs, count):
    cases = []
    kinds = [("cosine", 0.1), ("cosine", 0.02), ("dot", 0.3), ("euclidean", 1.0)]
    for turn, (similarity, temperature) in enumerate(kinds):
        options = {"similarity": similarity, "temperature": temperature, "positive": positive}
        options |= {"reduction": ("mean", "sum")[turn % 2]} | ({"duplicate_threshold": 0.8} if turn == 0 else {})
        cases.append(
            (
                options,
                Batch(count, random_inputs, refs=refs, with_ids=turn % 2 == 0, layout=turn // 2, dtype=torch.float64),
            )
        )

    def compute(rank):
        results = []
        for options, batch in cases:
            arguments, ids = batch.leaves(rank)
            loss = ring_tuplet_loss(*arguments, **ids, **options)
            loss.backward()
            terms = ring_tuplet_loss(*arguments, **ids, **options | {"reduction": "none"})
            results.append((loss.detach()[None], terms.detach(), *gradients(arguments)))
        return results

    ranks = run_ranks(count, compute)
    for case, (options, batch) in enumerate(cases):
        arguments, ids = batch.leaves()
        loss = ops.tuplet_loss(*arguments, **ids, **options)
        (loss * count).backward()  # averaged over the ranks, the gradient is that of one process
        assert loss > 0
        losses, terms, *found = joined([rank[case] for rank in ranks])
        torch.testing.assert_close(losses, loss.detach().expand(count), rtol=1e-11, atol=0)
        wanted_terms = ops.tuplet_loss(*arguments, **ids, **options | {"reduction": "none"}).detach()
        torch.testing.assert_close(terms, wanted_terms, rtol=1e-10, atol=1e-12)
        for got, wanted in zip(found, gradients(arguments), strict=True):
            if wanted is not None:
                torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-11)


@COUNTS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ring_tuplet_loss_in_low_precision_is_as_one_process(dtype, count):
    batch = Batch(count, random_inputs, dtype=dtype)

    def compute(rank):
        arguments, _ = batch.leaves(rank)
        loss = ring_tuplet_loss(*arguments, gradient_reduction="sum")
        loss.backward()
        return loss.detach()[None], *gradients(arguments)

    arguments, _ = batch.leaves()
    loss = ops.tuplet_loss(*arguments)
    loss.backward()
    losses, *found = joined(run_ranks(count, compute))
    torch.testing.assert_close(losses, loss.detach().expand(count), rtol=1e-5, atol=0)
    for got, wanted in zip(found, gradients(arguments), strict=True):
        assert got.dtype == dtype
        bound = torch.finfo(dtype).eps * wanted.abs().max().item()
        torch.testing.assert_close(got.double(), wanted.double(), rtol=0, atol=16 * bound)


@COUNTS
def test_ring_without_rows_anywhere_is_empty(count):
    def compute(rank):
        x, y = torch.zeros(0, 3, requires_grad=True), torch.zeros(0, dtype=torch.int64)
        selection = ring_select_triplets(x, y, x, y)
        loss = ring_tuplet_loss(x, y)
        (loss + selection.positive_similarity.sum()).backward()
        return selection.positive_index.shape, float(loss), x.grad.shape

    assert run_ranks(count, compute) == [((0,), 0.0, (0, 3))] * count


def test_ring_nonfinite_ref_makes_loss_and_gradients_nan():
    def compute(rank):
        x = torch.eye(4).requires_grad_()
        refs = torch.randn(4, 4, generator=seeded(0))
        if rank == 1:
            refs[0, 0] = math.inf
        refs.requires_grad_()
        loss = ring_tuplet_loss(x, torch.arange(4) % 2, refs, torch.arange(4) % 2)
        loss.backward()
        return bool(loss.isnan() & x.grad.isnan().all() & refs.grad.isnan().all())

    assert run_ranks(2, compute) == [True, True]


@COUNTS
@pytest.mark.parametrize("rule", [{}, {"positive": "hardest", "negative": "semihard", "tie": "include"}])
def test_ring_selection_among_similarities_near_one_is_bitwise_that_of_one_process(rule, count):
    """Clamped similarities tie where unclamped ones do not."""
    batch = Batch(count, scaled_copies)

    def select(rank):
        arguments, _ = batch.leaves(rank)
        return [part.detach() for part in ring_select_triplets(*arguments, **rule)]

    (x, labels, refs, ref_labels), _ = batch.leaves()
    expected = ops.select_triplets(x, labels, refs, ref_labels, **rule)
    for got, wanted in zip(joined(run_ranks(count, select)), expected, strict=True):
        assert_bitwise_equal(got, wanted)
    above = ops.select_triplets(x, labels, refs, ref_labels).positive_index
    lowest = (labels[:, None] == ref_labels).int().argmax(1)
    assert (above != lowest).any(), "the lowest index of the class does not always win, although all similarities are 1"
    assert (expected.positive_similarity == 1).any()


# Memory


def blocks_alive(bytes_per_block):
    """The size of all tensors of at least a block that Python holds, in blocks."""
    gc.collect()
    tensors = [t for t in gc.get_objects() if type(t) is torch.Tensor and t.layout is torch.strided and t.numel()]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(size for size in storages.values() if size >= bytes_per_block) / bytes_per_block


def test_ring_holds_two_blocks_besides_its_own(monkeypatch):
    """With 4 ranks; the backward pass of the loss also holds three gradients of blocks."""

    def most_alive(rank):
        before = blocks_alive(64 * 32 * 4)  # what earlier tests of this process left
        refs = torch.randn(64, 32, generator=seeded(rank), requires_grad=True)
        ref_labels, anchors = torch.arange(64) % 4, torch.eye(2, 32, requires_grad=True)
        alive = []
        for name in ("select_triplets_block", "tuplet_logsumexp", "tuplet_loss_backward", "select_triplets_backward"):
            packet = getattr(torch.ops.hardmine, name)

            def count(*given, packet=packet, name=name):
                result = packet(*given)
                alive.append((name, blocks_alive(64 * 32 * 4) - before))
                return result

            monkeypatch.setattr(torch.ops.hardmine, name, count)
        selection = ring_select_triplets(anchors, torch.arange(2), refs, ref_labels)
        selection.negative_similarity.sum().backward()
        refs.grad = None
        ring_tuplet_loss(anchors, torch.arange(2), refs, ref_labels).backward()
        return {name: max(size for other, size in alive if other == name) for name, _ in alive}

    expected = {
        "select_triplets_block": 3.0,
        "tuplet_logsumexp": 3.0,
        "tuplet_loss_backward": 6.0,
        "select_triplets_backward": 1.0,
    }
    assert run_ranks(4, most_alive) == [expected] * 4


# Errors

ROWS, LABELS = torch.eye(3), torch.arange(3) % 2
GOOD = {"embeddings": ROWS, "labels": LABELS, "ref_embeddings": ROWS, "ref_labels": LABELS}
INVALID = [
    ({"embeddings": None}, TypeError, "embeddings must be a torch.Tensor, got NoneType"),
    ({"labels": LABELS[:2]}, ValueError, "labels must be [B] = [3], got [2]"),
    ({"ref_labels": None}, ValueError, "ref_labels must be given together with ref_embeddings, got None"),
    ({"ref_labels": LABELS.float()}, TypeError, "ref_labels must have an integer dtype, got torch.float32"),
    ({"ids": LABELS}, ValueError, "ref_ids must be given together with ids, got None"),
    ({"positive": "nearest"}, ValueError, "positive must be one of "),
    ({"duplicate_threshold": "0"}, TypeError, "duplicate_threshold must be a number, got str"),
]
DIFFERENT = [
    (
        {"embeddings": ROWS.double(), "ref_embeddings": ROWS.double()},
        "embeddings must have the same dtype on every rank",
    ),
    ({"ref_embeddings": None, "ref_labels": None}, "ref_embeddings must be given on every rank or on none"),
    ({"ids": LABELS, "ref_ids": LABELS}, "ids must be given on every rank or on none"),
    ({"positive": "hardest"}, "positive must be the same on every rank, got easiest on rank 0 and hardest on rank 1"),
    ({"duplicate_threshold": 0.5}, "duplicate_threshold must be the same on every rank, got inf on rank 0 and 0.5 on "),
    (
        {"embeddings": ROWS.clone().requires_grad_()},
        "embeddings must require gradients, outside torch.no_grad, on every",
    ),
]


@COUNTS
@pytest.mark.parametrize("op", [ring_select_triplets, ring_tuplet_loss])
def test_ring_invalid_on_one_rank_raises_on_every_rank(op, count):
    """Valid calls between the errors: no rank is left behind in a transfer."""

    def raise_all(rank):
        for number, (changes, error, message) in enumerate(INVALID):
            invalid = number % count
            with pytest.raises(error, match=f"^{re.escape(f'on rank {invalid}: {message}')}"):
                op(**GOOD | (changes if rank == invalid else {}))
            op(**GOOD)
        for changes, message in DIFFERENT:
            with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
                op(**GOOD | (changes if rank == 1 else {}))
            op(**GOOD)

    run_ranks(count, raise_all)


def test_ring_random_rule_or_idle_option_raises():
    def raise_all(rank):
        for rule in ("positive", "negative"):
            with pytest.raises(ValueError, match=rf"^on rank 0: {rule} must not be 'random' with a ring, "):
                ring_select_triplets(ROWS, LABELS, **{rule: "random"})
        with pytest.raises(ValueError, match=r"^on rank 0: tie must be None with negative='hardest'"):
            ring_select_triplets(ROWS, LABELS, tie="include")
        with pytest.raises(
            ValueError, match=r"^on rank 0: gradient_reduction must be None with reduction='none', got "
        ):
            ring_tuplet_loss(ROWS, LABELS, reduction="none", gradient_reduction="mean")
        reduction = None if rank else "sum"
        with pytest.raises(ValueError, match=r"^gradient_reduction must be the same on every rank, got sum on rank 0"):
            ring_tuplet_loss(ROWS, LABELS, gradient_reduction=reduction)
        return ring_select_triplets(ROWS, LABELS).positive_index.tolist()

    assert run_ranks(2, raise_all) == [[3, 4, 5], [0, 1, 2]]


@pytest.mark.slow
def test_ring_of_subgroup_has_its_blocks_only():
    """Ranks 2 and 0 of three."""

    def select(rank):
        group = dist.new_group([0, 2])
        if rank == 1:
            return None
        x = torch.full((1 + rank, 2), 1.0 + rank, requires_grad=True)
        selection = ring_select_triplets(x, torch.arange(1 + rank), group=group, similarity="dot")
        selection.positive_similarity.nansum().backward()
        loss = ring_tuplet_loss(x, torch.arange(1 + rank), group=group)
        loss.backward()
        return selection.positive_index.tolist(), x.grad.isfinite().all().item()

    assert run_ranks(3, select) == [([1], True), None, ([0, -1, -1], True)]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_ring_compiles_to_one_graph(backend):
    def step(embeddings, labels, refs, ref_labels):
        selection = ring_select_triplets(embeddings * 2, labels, refs, ref_labels, negative="semihard")
        return ring_tuplet_loss(embeddings, labels, refs, ref_labels, positive="all"), selection.positive_similarity

    def compare(rank):
        compiled = torch.compile(step, backend=backend, fullgraph=True)
        for extra in (1, 4) if backend == "aot_eager" else (1,):  # inductor takes long per size
            results = []
            for function in (step, compiled):
                rows = torch.randn(24, 5, generator=seeded(rank))
                own, refs = rows[: 3 + extra].clone().requires_grad_(), rows[8 : 15 + extra].clone().requires_grad_()
                loss, similarity = function(own, torch.arange(len(own)) % 3, refs, torch.arange(len(refs)) % 3)
                (loss + similarity.sum()).backward()
                results.append((loss.detach(), similarity.detach(), own.grad, refs.grad))
            for eager, other in zip(*results, strict=True):
                assert_bitwise_equal(other, eager)

    run_ranks(2, compare, seconds=COMPILING_SECONDS)
