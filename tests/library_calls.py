"""A call of everything public in the library, for tests of what must not affect results."""

from __future__ import annotations

import dataclasses
import inspect
import pickle
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import hardmine
from hardmine import losses, metrics, mining, ops, reference
from hardmine.fanng import Index
from support.inputs import seeded

SUBPACKAGES = ("fanng", "losses", "metrics", "mining", "ops", "reference")


class Given(NamedTuple):
    """Tensors to call with: rows of 6 classes of 5, other rows, and triplets, pairs and neighbor lists of the rows."""

    rows: Tensor
    labels: Tensor
    refs: Tensor
    ref_labels: Tensor
    triplets: Tensor
    pairs: Tensor
    same: Tensor
    lists: Tensor
    sq_dist: Tensor
    margins: Tensor


def given() -> Given:
    """Overlapping clusters, for which every loss, list and threshold has an effect."""
    generator = seeded(1)
    centers = torch.randn(6, 8, generator=generator)
    labels = torch.arange(6).repeat_interleave(5)
    rows = centers[labels] + torch.randn(30, 8, generator=generator)
    refs = centers[labels] + torch.randn(30, 8, generator=generator)
    triplets = torch.stack([torch.arange(30), torch.arange(30) // 5 * 5 + (torch.arange(30) + 1) % 5], 1)
    triplets = torch.cat([triplets, (triplets[:, :1] + 7) % 30], 1)
    pairs = torch.randint(30, (40, 2), generator=generator)
    sq_dist, lists = torch.cdist(rows.double(), rows.double()).square().topk(12, largest=False)
    margins = torch.rand(6, 6, generator=generator)
    same = labels[pairs[:, 0]] == labels[pairs[:, 1]]
    return Given(rows, labels, refs, labels.flip(0), triplets, pairs, same, lists, sq_dist, margins)


class Images(torch.utils.data.Dataset):
    """Rows as a data set of arrays, each with a label."""

    def __init__(self, rows: Tensor, labels: Tensor) -> None:
        self.rows, self.labels = rows.numpy(), labels.tolist()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, item: int) -> tuple[Any, str]:
        return self.rows[item], f"class {self.labels[item]}"


def _with_gradient(op: Callable[..., Any], rows: Tensor, *args: Any, **options: Any) -> Any:
    """An op's result, and the gradient of the sum of its floating-point results if one is recorded."""
    leaf = rows.detach().clone().requires_grad_()
    result = op(leaf, *args, **options)
    parts = [part for part in (result if isinstance(result, tuple) else (result,)) if torch.is_tensor(part)]
    total = sum(part.nan_to_num().sum() for part in parts if part.requires_grad)
    return result, torch.autograd.grad(total, leaf) if torch.is_tensor(total) else None


def _op_calls(library: Any) -> dict[str, Callable[[Given], Any]]:
    """Every op and its reference, with the options that have separate code."""

    def call(name: str, *fields: str, **options: Any) -> Callable[[Given], Any]:
        def run(g: Given) -> Any:
            seed = {"generator": seeded(3)} if "random" in options.values() else {}
            tensors = {key: getattr(g, value) for key, value in given_by_name.items() if key in options}
            return _with_gradient(
                getattr(library, name), g.rows, *(getattr(g, f) for f in fields), **options | tensors | seed
            )

        return run

    given_by_name = {"margin": "margins", "ids": "labels"}
    among, refs = ("labels",), ("labels", "refs", "ref_labels")
    return {
        "knn": call("knn", k=4),
        "knn with ids": call("knn", k=4, ids=None),
        "knn of refs": call("knn", "refs", k=40, similarity="euclidean"),
        "select_triplets": call("select_triplets", *among, negative="semihard", semihard_fallback="hardest"),
        "select_triplets at random": call("select_triplets", *refs, positive="random", negative="random"),
        "triplet_loss": call("triplet_loss", *among),
        "triplet_loss of each anchor": call("triplet_loss", *refs, negative="hardest", reduction="none"),
        "triplet_loss of all positives": call("triplet_loss", *among, positive="all", negative="semihard"),
        "select_triplets of all positives": call("select_triplets", *refs, positive="all", negative="hardest"),
        "sct_loss": call("sct_loss", *among),
        "sct_loss of 2020": call("sct_loss", *refs, preset="code2020"),
        "tuplet_loss": call("tuplet_loss", *among),
        "tuplet_loss of all": call("tuplet_loss", *refs, positive="all"),
        "batch_all_triplet_loss": call("batch_all_triplet_loss", *among, squared=False, reduction="mean_active"),
        "batch_all_triplet_loss of refs": call("batch_all_triplet_loss", *refs, similarity="euclidean"),
        "batch_all_triplet_loss of a table": call("batch_all_triplet_loss", *among, margin=None),
        "logsumexp": call("logsumexp", *among, pairs="negative"),
        "logsumexp of refs": call("logsumexp", *refs, similarity="euclidean"),
        "supcon_loss": call("supcon_loss", *among),
        "circle_loss": call("circle_loss", *among),
        "multi_similarity_loss": call("multi_similarity_loss", *among),
        "info_nce_loss": call("info_nce_loss", "refs"),
        "sigmoid_loss": call("sigmoid_loss", "refs"),
        "info_nce_loss of both directions": call("info_nce_loss", "refs", symmetric=True),
        "indexed_triplet_loss": call("indexed_triplet_loss", "triplets"),
        "indexed_triplet_loss of each": call("indexed_triplet_loss", "triplets", term="sct", reduction="none"),
        "global_loss": call("global_loss", "triplets"),
    }


def _loss_call(name: str) -> Callable[[Given], Any]:
    def run(g: Given) -> Any:
        loss = getattr(losses, name)()
        names = inspect.signature(loss.forward).parameters
        second = g.triplets if "triplets" in names else g.refs if "query" in names else g.labels
        return _with_gradient(loss, g.rows, second)

    return run


def _memory_loss(g: Given) -> Any:
    memory = losses.CrossBatchMemory(losses.EPHNLoss(), *g.rows.shape, dtype=g.rows.dtype, device=g.rows.device)
    return _with_gradient(memory, g.rows, g.labels), _with_gradient(memory, g.rows, g.labels), memory.state_dict()


def _tree_loss(g: Given) -> Any:
    loss = losses.HierarchicalTripletLoss()
    loss.update(mining.ClassTree.from_embeddings(g.rows, g.labels))
    return _with_gradient(loss, g.rows, g.labels), loss.state_dict()


def _verified(g: Given) -> Any:
    """The reports of hardmine.verify for every op."""
    with hardmine.verify(every=1) as report:
        for run in _op_calls(ops).values():
            run(g)
        mining.smart_triplets(g.lists, g.sq_dist, g.labels, 1.0, generator=seeded(2))
    return report


def _distribution(found: metrics.Distribution) -> Any:
    return found, found.density, found.total


def _tree(g: Given) -> Any:
    trees = [mining.ClassTree.from_embeddings(g.rows, g.labels, linkage=linkage) for linkage in ("single", "average")]
    names = ("distances", "thresholds", "within_sq_dist", "join_levels", "node_counts")
    return [[getattr(tree, name) for name in names] + [tree.margin_table(), tree.join_level(0, 3)] for tree in trees]


def _neighbor_batches(g: Given) -> Any:
    sampler = mining.AnchorNeighborSampler(g.labels, 2, 2, 3)
    first = list(sampler)
    sampler.update(mining.class_distances(g.rows, g.labels))
    return first, list(sampler), sampler.state_dict()


def _kappas(g: Given) -> Any:
    controller = mining.AdaptiveKappa(random_epochs=1)
    return [controller.update(error) for error in g.sq_dist[0, 1:5].sigmoid()], controller.state_dict()


def _mined_epochs(method: str) -> Callable[[Given], Any]:
    def run(g: Given) -> Any:
        data = g.rows if method == "exact" else Images(g.rows, g.labels)
        controller = mining.AdaptiveKappa(random_epochs=1)
        miner = mining.SmartMiner(
            lambda x: x, data, g.labels, batch_size=8, neighbors=9, kappa=controller, method=method
        )
        seen = []
        for _ in range(3):
            with miner.epoch() as epoch:
                for batch in epoch:
                    losses_of_batch = ops.indexed_triplet_loss(g.rows[batch.rows], batch.triplets, reduction="none")
                    epoch.observe(batch, losses_of_batch)
                seen.append((list(epoch), epoch.error, epoch.mined_error, epoch.image_rows, epoch.kappa))
        return seen, controller.state_dict()

    return run


def _lists_of_set(g: Given) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        lists = mining.all_knn(g.rows, Path(folder) / "lists", 4, ids=g.labels, block_rows=96)
        opened = mining.NeighborShards(Path(folder) / "lists")
        return lists[:], list(opened.chunks(7)), mining.plan_all_knn(g.rows, 4)


def _negatives_of_set(g: Given) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        found = mining.hard_negatives(
            g.rows, 3, labels=g.labels, relations=g.triplets[:, :2], relative_margin=0.05, folder=Path(folder) / "new"
        )
        return found, found.triplets(), mining.newest_negatives(Path(folder) / "new")


def _index(g: Given) -> Any:
    index = Index.build(g.rows, init="exact")
    start = g.labels.clone()
    with tempfile.TemporaryDirectory() as folder:
        index.save(Path(folder) / "index")
        loaded = Index.load(Path(folder) / "index")
    copy = pickle.loads(pickle.dumps(index))
    answers = [
        (i.neighbors(4), i.vectors, i.stats(), i.recall(5, 10), i.recall(5, None)) for i in (index, loaded, copy)
    ]
    euclidean = Index.build(g.rows.double(), metric="euclidean", init=index, refinements=1)
    changed = index.add(g.refs[:3]).remove([0, 2])
    answers.append(changed.search(g.refs, 3))
    return answers, euclidean.search(g.refs, 3, start=2), euclidean.search(g.refs, 3, start=start), euclidean.recall()


CALLS: dict[str, Callable[[Given], Any]] = {
    **{f"ops.{name}": call for name, call in _op_calls(ops).items()},
    **{f"reference.{name}": call for name, call in _op_calls(reference).items()},
    "reference.smart_triplets": lambda g: reference.smart_triplets(g.lists, g.sq_dist, g.labels, 1.0, 2, seeded(2)),
    **{f"losses.{name}": _loss_call(name) for name in losses.__all__ if name != "CrossBatchMemory"},
    "losses.CrossBatchMemory": _memory_loss,
    "losses.HierarchicalTripletLoss with a tree": _tree_loss,
    "verify": _verified,
    "metrics.hard_share": lambda g: metrics.hard_share(g.rows[0], g.rows[1]),
    "metrics.hard_triplet_share": lambda g: metrics.hard_triplet_share(g.rows, g.labels),
    "metrics.hotel_recall": lambda g: metrics.hotel_recall(
        g.rows, g.labels, g.labels % 3 - 1, g.refs, g.ref_labels, g.ref_labels % 3 - 1
    ),
    "metrics.nearest_train_similarities": lambda g: _distribution(metrics.nearest_train_similarities(g.rows, g.refs)),
    "metrics.nmi": lambda g: metrics.nmi(g.rows, g.labels),
    "metrics.recall_at_1": lambda g: metrics.recall_at_1(g.rows, g.labels),
    "metrics.recall_at_k": lambda g: metrics.recall_at_k(g.rows, g.labels, g.refs, g.ref_labels),
    "metrics.retrieval": lambda g: metrics.retrieval(g.rows, g.labels, g.refs, g.ref_labels),
    "metrics.verification_accuracy": lambda g: metrics.verification_accuracy(g.rows, g.pairs, g.same),
    "metrics.verification_accuracy of folds": lambda g: metrics.verification_accuracy(
        g.rows, g.pairs, g.same, folds=g.pairs[:, 0] % 3
    ),
    "metrics.within_class_similarities": lambda g: _distribution(metrics.within_class_similarities(g.rows, g.labels)),
    "mining.AdaptiveKappa": _kappas,
    "mining.AnchorNeighborSampler": _neighbor_batches,
    "mining.ClassBalancedSampler": lambda g: list(mining.ClassBalancedSampler(g.labels, 3, 2)),
    "mining.ClassBalancedSampler of a size": lambda g: list(
        mining.ClassBalancedSampler(g.labels, batch_size=7, images_per_class=3)
    ),
    "mining.ClassTree": _tree,
    "mining.MinedEpoch": _mined_epochs("exact"),
    "mining.SmartMiner": _mined_epochs("fanng"),
    "mining.NeighborShards": _lists_of_set,
    "mining.all_knn": _lists_of_set,
    "mining.hard_negatives": _negatives_of_set,
    "mining.newest_negatives": _negatives_of_set,
    "mining.plan_all_knn": _lists_of_set,
    "mining.class_distances": lambda g: mining.class_distances(g.rows, g.labels),
    "mining.random_triplets": lambda g: mining.random_triplets(g.labels, 2, seeded(4)),
    "mining.smart_triplets": lambda g: mining.smart_triplets(g.lists, g.sq_dist, g.labels, 1.0, 2, seeded(4)),
    "fanng.Index": _index,
}


def public_names() -> set[str]:
    """All callables of the subpackages except the types of results."""
    names = set()
    for package in SUBPACKAGES:
        module = getattr(hardmine, package)
        for name in module.__all__:
            value = getattr(module, name)
            is_result = isinstance(value, type) and (issubclass(value, tuple) or dataclasses.is_dataclass(value))
            if callable(value) and not is_result:
                names.add(f"{package}.{name}")
    return names


def leaves(result: Any) -> Iterator[Any]:
    """The tensors, numbers and strings of a result, in order."""
    if dataclasses.is_dataclass(result):
        result = [getattr(result, field.name) for field in dataclasses.fields(result)]
    if isinstance(result, Mapping):
        result = list(result.items())
    if isinstance(result, (list, tuple)):
        for part in result:
            yield from leaves(part)
    else:
        yield result
