"""Recall@K: by hand, against a ranking one query at a time, in one call and in chunks, and its errors."""

import math
import re
import sys
import weakref
from typing import ClassVar

import numpy
import pytest
import torch

import hardmine
from hardmine import ops
from hardmine.metrics import _search, recall_at_1, recall_at_k
from hardmine.ops._losses_with_gradients import has_cpu_op
from support.inputs import Inputs, random_inputs, seeded


def naive_recall(inputs: Inputs, sizes: tuple[int, ...]) -> dict[int, float]:
    """Rank the gallery per query: by similarity, then by index."""
    x, labels, refs, ref_labels = inputs
    alone = refs is None
    refs, ref_labels = (x, labels) if alone else (refs, ref_labels)
    x, refs = (torch.nn.functional.normalize(rows.double()) for rows in (x, refs))
    hits = dict.fromkeys(sizes, 0)
    for query in range(len(x)):
        s = (refs @ x[query]).tolist()
        ranking = sorted((r for r in range(len(refs)) if not (alone and r == query)), key=lambda r: (-s[r], r))
        for size in sizes:
            hits[size] += any(ref_labels[r] == labels[query] for r in ranking[:size])
    return {size: count / len(x) for size, count in hits.items()}


@pytest.fixture
def calls(monkeypatch):
    """The calls of knn from here on, which finds neighbors on GPUs: (number of queries, number of refs, k)."""
    monkeypatch.setattr(sys.modules["hardmine.metrics.recall"], "_COUNTS", False)
    made = []
    right = ops.knn

    def record(queries, refs=None, k=10, **options):
        made.append((len(queries), None if refs is None else len(refs), k))
        return right(queries, refs, k, **options)

    monkeypatch.setattr(ops, "knn", record)
    return made


@pytest.fixture
def search_in_chunks(monkeypatch):
    """Make every search long, so it runs in chunks of the given number of queries, or in pairs of blocks if listed.

    Neighbors are searched as on GPUs, and on CPUs for many neighbors.
    """

    def of(rows: int, listed: bool = False) -> None:
        monkeypatch.setattr(sys.modules["hardmine.metrics.recall"], "_COUNTS", False)
        monkeypatch.setattr(_search, "CHUNK_WORK", 1)
        monkeypatch.setattr(_search, "MIN_CHUNK_ROWS", rows)
        if not listed:
            monkeypatch.setattr(_search, "MAX_LISTED", 0)

    return of


def on_a_circle(*angles_deg: float) -> torch.Tensor:
    """Unit vectors at these angles."""
    angles = torch.tensor(angles_deg, dtype=torch.float64).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], 1)


# By hand


def test_recall_at_k_hand_worked_angles_match():
    """The order of the others by angle, and the classes met:

    0 (0 deg, a): 1 b, 2 a, 3 c, 4 b -> found from K = 2 on         3 (40, c): 4 b, 2 a, 1 b, 0 a -> none of its class
    1 (10, b): 0 a (10), 2 a (12), 3 c, 4 b -> from K = 4 on          4 (70, b): 3 c, 2 a, 1 b, 0 a -> from K = 3 on
    2 (22, a): 1 b (12), 3 c (18), 0 a (22), 4 b -> from K = 3 on
    """
    embeddings, labels = on_a_circle(0, 10, 22, 40, 70), torch.tensor([0, 1, 0, 2, 1])
    expected = {1: 0.0, 2: 1 / 5, 3: 3 / 5, 4: 4 / 5, 100: 4 / 5}
    assert recall_at_k(embeddings, labels, k=(1, 2, 3, 4, 100)) == pytest.approx(expected)
    assert list(recall_at_k(embeddings, labels, k=(4, 1))) == [4, 1], "in the order given"
    assert recall_at_k(embeddings, labels, k=3) == {3: pytest.approx(3 / 5)}


def test_recall_at_k_hand_worked_gallery_matches():
    """The gallery has, by its angle from the query at 0, classes 1 1 0, and from the one at 50, classes 0 1 1.

    The first, of class 0, is found from K = 3 on, the second, of class 1, from K = 2 on.
    """
    gallery, classes = on_a_circle(1, 20, 45), torch.tensor([1, 1, 0])
    recall = recall_at_k(on_a_circle(0, 50), torch.tensor([0, 1]), gallery, classes, k=[1, 2, 3, 4])
    assert recall == {1: 0.0, 2: 0.5, 3: 1.0, 4: 1.0}


def test_recall_at_k_default_sizes_are_1_2_4_8():
    assert list(recall_at_k(*random_inputs()[:2])) == [1, 2, 4, 8]


def test_recall_at_k_unnormalized_rows_uses_cosine():
    embeddings = torch.tensor([[1.0, 0.0], [0.1, 0.01], [9.0, 10.0], [0.0, 1.0]])
    assert recall_at_k(embeddings, torch.tensor([0, 0, 1, 1]), k=1) == {1: 1.0}


def test_recall_at_k_ties_go_to_lowest_index():
    query, label = torch.tensor([[1.0, 0.0]]), torch.tensor([0])
    gallery = torch.ones(5, 2)
    for position in range(5):
        classes = torch.ones(5, dtype=torch.int64)
        classes[position] = 0
        recall = recall_at_k(query, label, gallery, classes, k=range(1, 6))
        assert recall == {size: float(size > position) for size in range(1, 6)}


def test_recall_at_k_queries_without_positives_are_misses():
    embeddings, labels = on_a_circle(0, 1, 2, 3), torch.tensor([0, 0, 7, 8])
    assert recall_at_k(embeddings, labels, k=100) == {100: 0.5}


# Against a ranking of one query at a time


@pytest.mark.thinned(5)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16], ids=str)
@pytest.mark.parametrize("refs", [None, 90], ids=["self", "gallery"])
@pytest.mark.parametrize("rows", [None, 1, 7, 50], ids=["one call", "chunks of 1", "chunks of 7", "chunks of 50"])
def test_recall_at_k_chunks_match_naive_ranking(dtype, refs, rows, search_in_chunks, calls):
    inputs = random_inputs(120, 16, 30, refs, spread=1.5, dtype=dtype)
    sizes = (1, 2, 5, 10, 89, 200)
    expected = naive_recall(inputs, sizes)
    assert 0.05 < expected[1] < expected[5] < 0.95
    if rows:
        search_in_chunks(rows)
    assert recall_at_k(*inputs, k=sizes) == pytest.approx(expected, abs=1e-12)
    if rows:
        chunks = [rows] * (120 // rows) + [120 % rows] * (120 % rows > 0)
        assert calls == [(chunk, refs or 120, 201 if refs is None else 200) for chunk in chunks]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_recall_at_k_in_pairs_of_blocks_matches_one_call(dtype, search_in_chunks, calls, bars):
    """Blocks of 96 rows; the last one has 20."""
    inputs = random_inputs(500, 8, 60, spread=1.5, dtype=dtype)[:2]
    sizes = (1, 3, 40, 499)
    ids = torch.arange(500) % 7
    expected = recall_at_k(*inputs, k=sizes), recall_at_k(*inputs, k=sizes, ids=ids)
    assert expected[0] != expected[1]
    calls.clear()
    search_in_chunks(70, listed=True)
    assert (recall_at_k(*inputs, k=sizes), recall_at_k(*inputs, k=sizes, ids=ids)) == expected
    assert calls == []
    assert [(bar.options["total"], bar.done) for bar in bars] == [(500, 500)] * 2


@pytest.mark.parametrize("rows", [None, 1, 3, 10])
def test_recall_at_k_many_duplicates_match_naive_ranking(rows, search_in_chunks):
    """Copies of a query with lower indices precede the query, so it is not among its k + 1 nearest."""
    x = on_a_circle(0, 30, 200)[torch.randperm(60, generator=seeded(0)) % 3].float()
    labels = torch.randint(8, (60,), generator=seeded(1))
    sizes = (1, 2, 3, 15, 30, 59)
    expected = naive_recall(Inputs(x, labels), sizes)
    if rows:
        search_in_chunks(rows)
    assert recall_at_k(x, labels, k=sizes) == pytest.approx(expected)
    assert expected[1] < expected[3] < expected[15]


@pytest.mark.parametrize("refs", [None, 80], ids=["self", "gallery"])
def test_recall_at_k_of_one_equals_recall_at_1(refs):
    for seed in range(5):
        inputs = random_inputs(150, 8, 40, refs, spread=1.0, seed=seed)
        assert recall_at_k(*inputs, k=1)[1] == recall_at_1(*inputs)
    collapsed = Inputs(*(t if t is None or t.dim() == 1 else torch.ones_like(t) for t in inputs))
    assert recall_at_k(*collapsed, k=1)[1] == recall_at_1(*collapsed)


@pytest.mark.slow
def test_recall_at_k_max_k_without_gallery_takes_one_call(search_in_chunks, calls):
    """1025 neighbors, one more for the query itself, exceed knn's limit, so all queries go in one call."""
    inputs = random_inputs(1200, 4, 600, seed=3)
    expected = naive_recall(inputs, (1024,))
    assert expected[1024] < 1
    search_in_chunks(100)
    assert recall_at_k(*inputs, k=1024) == pytest.approx(expected)
    assert calls == [(1200, None, 1024)]


def test_recall_at_k_small_set_takes_one_call(calls):
    """Without a gallery, the call visits each pair once."""
    inputs = random_inputs(200, refs=300)
    recall_at_k(*inputs[:2], k=(1, 9))
    recall_at_k(*inputs, k=(1, 9))
    assert calls == [(200, None, 9), (200, 300, 9)]
    assert 2**30 < _search.CHUNK_WORK < 2**40, "a second, not an hour"


# Divergence


@pytest.mark.parametrize("value", [math.nan, math.inf, 3e38])
def test_recall_at_k_nonfinite_embedding_gives_nan(value):
    """A row whose norm overflows counts as divergence too."""
    embeddings, labels = torch.eye(4), torch.tensor([0, 0, 1, 1])
    embeddings[2, 1] = value
    for recall in (recall_at_k(embeddings, labels), recall_at_k(torch.eye(4), labels, embeddings, labels)):
        assert list(recall) == [1, 2, 4, 8]
        assert all(math.isnan(share) for share in recall.values())
    assert math.isnan(recall_at_1(embeddings, labels))


def test_recall_at_k_returns_floats_without_gradient():
    x, labels, _, _ = random_inputs()
    assert all(type(share) is float for share in recall_at_k(x.requires_grad_(), labels).values())


# Long work


class Bar:
    """Stands in for tqdm."""

    made: ClassVar[list] = []

    def __init__(self, **options):
        self.options, self.done, self.closed = options, 0, False
        Bar.made.append(self)

    def update(self, count):
        self.done += count

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.closed = True


@pytest.fixture
def bars(monkeypatch):
    """The progress bars that are created, on stand-ins for tqdm."""
    monkeypatch.setattr(Bar, "made", [])
    monkeypatch.setattr(_search, "require", lambda name: type("module", (), {"tqdm": Bar}))
    return Bar.made


@pytest.mark.parametrize(
    ("rows", "progress", "shown"),
    [(None, None, 0), (None, True, 1), (None, False, 0), (40, None, 0), (40, True, 1), (10, None, 1), (10, False, 0)],
)
def test_recall_at_k_progress_shows_bar_for_long_work(rows, progress, shown, bars, search_in_chunks):
    """By default it is shown for work of five chunks or more."""
    if rows:
        search_in_chunks(rows)
    recall_at_k(*random_inputs(100)[:2], progress=progress)
    assert len(bars) == shown
    for bar in bars:
        assert (bar.options["total"], bar.done, bar.closed) == (100, 100, True)


def test_recall_at_k_progress_true_shows_tqdm_bar(search_in_chunks, capsys):
    pytest.importorskip("tqdm")
    search_in_chunks(10)
    recall_at_k(*random_inputs(100)[:2], progress=True)
    assert "100/100" in capsys.readouterr().err


def test_recall_at_k_progress_without_tqdm_raises_if_asked(monkeypatch, search_in_chunks):
    """A requested bar without tqdm is an error that names the install command. A default bar is omitted."""
    monkeypatch.setitem(sys.modules, "tqdm", None)
    search_in_chunks(10)
    x, labels, _, _ = random_inputs(100)
    recall_at_k(x, labels)
    recall_at_k(x, labels, progress=False)
    with pytest.raises(ModuleNotFoundError, match=re.escape("tqdm is not installed and is needed here: pip install")):
        recall_at_k(x, labels, progress=True)


def test_recall_at_k_interrupt_between_chunks_closes_bar(bars, search_in_chunks, calls, monkeypatch):
    """The third chunk is never searched, and the bar is closed."""
    search_in_chunks(10)
    search = ops.knn

    def interrupted(*given, **options):
        if len(calls) == 2:
            raise KeyboardInterrupt
        return search(*given, **options)

    monkeypatch.setattr(ops, "knn", interrupted)
    with pytest.raises(KeyboardInterrupt):
        recall_at_k(*random_inputs(100)[:2])
    assert len(calls) == 2
    (bar,) = bars
    assert (bar.done, bar.closed) == (20, True)


def test_recall_at_k_keeps_at_most_two_chunks(search_in_chunks, monkeypatch):
    """At most two lists of neighbors are alive: the last one and the one being made."""
    search_in_chunks(10)
    search, alive = ops.knn, weakref.WeakSet()
    max_alive = 0

    def watched(*given, **options):
        nonlocal max_alive
        neighbors = search(*given, **options)
        alive.add(neighbors.index)
        max_alive = max(max_alive, len(alive))
        return neighbors

    monkeypatch.setattr(ops, "knn", watched)
    recall_at_k(*random_inputs(200)[:2])
    assert max_alive <= 2


counts = pytest.mark.skipif(not has_cpu_op("best_positive_ranks"), reason="a GPU searches neighbors")


@counts
@pytest.mark.parametrize("with_refs", [False, True])
@pytest.mark.parametrize("with_ids", [False, True])
@pytest.mark.parametrize("kind", ["random", "integers", "equal"])
def test_recall_at_k_counted_candidates_equal_neighbors(with_refs, with_ids, kind, monkeypatch, bars):
    """In one pass and in parts, with ties."""
    module = sys.modules["hardmine.metrics.recall"]
    for count in (2, 97, 300):
        x, labels, refs, ref_labels = random_inputs(count, 3, count // 4 + 1, refs=210 if with_refs else None)
        if kind != "random":
            x, refs = (None if rows is None else (rows * (kind == "integers")).round() + 1 for rows in (x, refs))
        ids = {"ids": torch.arange(count) // 5} if with_ids else {}
        if with_ids and with_refs:
            ids["ref_ids"] = torch.arange(210) // 3 - 1
        inputs = (x, labels, refs, ref_labels) if with_refs else (x, labels)
        monkeypatch.setattr(module, "_COUNTS", False)
        try:
            expected = recall_at_k(*inputs, k=(1, 2, 5, 64), **ids)
        except ValueError as error:
            monkeypatch.setattr(module, "_COUNTS", True)
            with pytest.raises(ValueError, match=re.escape(str(error))):
                recall_at_k(*inputs, k=(1, 2, 5, 64), **ids)
            continue
        monkeypatch.setattr(module, "_COUNTS", True)
        assert recall_at_k(*inputs, k=(1, 2, 5, 64), **ids) == expected
        with monkeypatch.context() as long:
            long.setattr(_search, "CHUNK_WORK", 1)
            assert recall_at_k(*inputs, k=(1, 2, 5, 64), progress=True, **ids) == expected
    assert (bars[-1].options["total"], bars[-1].done, bars[-1].closed) == (300, 300, True)


@counts
def test_recall_at_k_counts_in_one_pass_without_a_bar(monkeypatch, bars):
    made, right = [], torch.ops.hardmine.best_positive_ranks
    monkeypatch.setattr(torch.ops.hardmine, "best_positive_ranks", lambda *a: made.append(a[-3:]) or right(*a))
    monkeypatch.setattr(_search, "CHUNK_WORK", 10_000)
    x, labels, _, _ = random_inputs(100)
    for progress, parts in ((False, 1), (None, 1), (True, 100 * 50 * x.shape[1] // 40_000)):
        made.clear()
        recall_at_k(x, labels, k=(3, 8), progress=progress)
        assert made == [(8, part, max(parts, 1)) for part in range(max(parts, 1))]
    made.clear()
    recall_at_k(x, labels, k=65)
    assert not made
    assert len(bars) == 1


@counts
def test_best_positive_ranks_wrong_arguments_raise():
    x, labels = torch.ones(4, 3), torch.tensor([0, 0, 1, 1])
    good = [x, labels, None, None, None, None, 8, 0, 1]
    assert torch.ops.hardmine.best_positive_ranks(*good).tolist() == [0, 0, 2, 2]
    alone = torch.ops.hardmine.best_positive_ranks(x, torch.arange(4), *good[2:])
    assert alone.tolist() == [8, 8, 8, 8]
    for place, value in [(0, x[0]), (1, labels[:3]), (2, x), (6, 0), (6, 65), (7, -1), (7, 1), (8, 0)]:
        with pytest.raises((ValueError, RuntimeError), match="must"):
            torch.ops.hardmine.best_positive_ranks(*good[:place], value, *good[place + 1 :])


def test_recall_at_k_under_verify_checks_knn(tmp_path):
    """Up to K = 64, candidates are counted on a CPU, by an op that is no part of the library's interface."""
    with hardmine.verify(every=1, save_dir=tmp_path) as report:
        recall_at_k(*random_inputs(100)[:2], k=65)
    assert report.ops["knn"].checks == 1


# Errors


X, Y = random_inputs(6)[:2]
WRONG = [
    ({"k": ()}, ValueError, "k must be one or more integers from 1 to 1024, got []"),
    ({"k": 0}, ValueError, "k must be one or more integers from 1 to 1024, got [0]"),
    ({"k": (1, -2)}, ValueError, "k must be one or more integers from 1 to 1024, got [1, -2]"),
    ({"k": [4, 1025]}, ValueError, "k must be one or more integers from 1 to 1024, got [4, 1025]"),
    ({"k": 1.0}, TypeError, "k must be an integer or several integers, got 1.0"),
    ({"k": (1, "2")}, TypeError, "k must be an integer or several integers, got '2'"),
    ({"k": True}, TypeError, "k must be an integer or several integers, got True"),
    ({"k": None}, TypeError, "k must be an integer or several integers, got None"),
    ({"k": torch.tensor([1, 2])}, TypeError, "k must be an integer or several integers, got tensor([1, 2])"),
    ({"progress": "yes"}, TypeError, "progress must be None, True or False, got 'yes'"),
    ({"labels": Y[:3]}, ValueError, "labels must be [B] = [6], got [3]"),
    ({"embeddings": X.tolist()}, TypeError, "embeddings must be a torch.Tensor, got list"),
    ({"ref_embeddings": X}, ValueError, "ref_labels must be given together with ref_embeddings, got None"),
    (
        {"labels": torch.arange(6)},
        ValueError,
        "labels must give at least one query a positive in the gallery, got none for 6 queries",
    ),
    (
        {"ref_embeddings": X[:0], "ref_labels": Y[:0]},
        ValueError,
        "labels must give at least one query a positive in the gallery, got none for 6 queries",
    ),
    (
        {"embeddings": X[:0], "labels": Y[:0]},
        ValueError,
        "labels must give at least one query a positive in the gallery, got none for 0 queries",
    ),
]


@pytest.mark.parametrize(("changes", "error", "message"), WRONG, ids=[wrong[2] for wrong in WRONG])
def test_recall_at_k_invalid_argument_raises(changes, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        recall_at_k(**{"embeddings": X, "labels": Y, **changes})


def test_recall_at_k_numpy_integers_and_generators_are_sizes():
    assert recall_at_k(X, Y, k=numpy.int64(2)) == recall_at_k(X, Y, k=2)
    assert recall_at_k(X, Y, k=(size for size in (2, 1))) == recall_at_k(X, Y, k=(2, 1))
    assert recall_at_k(X, Y, k=numpy.array([1, 2])) == recall_at_k(X, Y, k=(1, 2))
    assert all(type(size) is int for size in recall_at_k(X, Y, k=numpy.array([1, 2])))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.uint64], ids=str)
def test_recall_at_k_any_integer_label_dtype_is_equal(dtype):
    labels = Y - Y.min()
    assert recall_at_k(X, labels.to(dtype)) == recall_at_k(X, labels)
    assert recall_at_k(X, labels.to(dtype), X, labels.to(torch.int16)) == recall_at_k(X, labels, X, labels)
