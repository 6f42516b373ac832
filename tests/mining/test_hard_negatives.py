"""hard_negatives: compared with a mask and a sort of all similarities; and results that are read during a refresh."""

import multiprocessing
import time

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from hardmine import ops
from hardmine.mining import HardNegatives, _block_pairs, hard_negatives, newest_negatives
from support.comparisons import assert_bitwise_equal
from support.inputs import seeded
from support.ranks import run_ranks

pytest.importorskip("safetensors")
N, M, D = 90, 130, 6


def set_of(rows, seed, dtype=torch.float64):
    return torch.randn(rows, D, generator=seeded(seed), dtype=dtype)


def integers(rows, classes, seed, lowest=-1):
    return torch.randint(lowest, classes, (rows,), generator=seeded(seed))


ROWS, REFS = set_of(N, 0), set_of(M, 1)
PAIRS = torch.stack([integers(60, N, 2, 0), integers(60, M, 3, 0)], 1)  # some anchors twice, many never


def similarities(a, b, similarity):
    if similarity == "euclidean":
        return -(a[:, None] - b).square().sum(2).sqrt()
    return a @ b.T if similarity == "dot" else F.normalize(a) @ F.normalize(b).T


def by_sorting(rows, refs, k, *, labels=None, ids=None, relations=None, ranks=(0, 100), similarity="cosine", **rules):
    """What hard_negatives returns, entry by entry: ``labels`` and ``ids`` are pairs of tensors."""
    scores = similarities(rows, rows if refs is None else refs, similarity)
    out = torch.zeros_like(scores, dtype=torch.bool)
    if refs is None:
        out.fill_diagonal_(True)
    if labels is not None:
        out |= labels[0][:, None] == labels[1]
    if ids is not None:
        out |= (ids[0][:, None] == ids[1]) & (ids[0][:, None] >= 0)
    entries = [(a, -1) for a in range(len(rows))] if relations is None else relations.tolist()
    for anchor, positive in entries:
        if positive >= 0:
            out[anchor, positive] = True
    negatives, values = torch.full((len(entries), k), -1), torch.full((len(entries), k), torch.nan, dtype=rows.dtype)
    for entry, (anchor, positive) in enumerate(entries):
        order = scores[anchor].argsort(descending=True, stable=True)
        order = [c for c in order.tolist() if not out[anchor, c]][ranks[0] : ranks[1]]
        p = None if positive < 0 else scores[anchor, positive]
        taken = [
            c
            for c in order
            if (rules.get("min_similarity") is None or scores[anchor, c] >= rules["min_similarity"])
            and (rules.get("max_similarity") is None or scores[anchor, c] <= rules["max_similarity"])
            and (rules.get("margin") is None or scores[anchor, c] <= p - rules["margin"])
            and (rules.get("relative_margin") is None or scores[anchor, c] <= p - rules["relative_margin"] * abs(p))
        ][:k]
        negatives[entry, : len(taken)] = torch.tensor(taken)
        values[entry, : len(taken)] = scores[anchor, taken]
    return negatives, values


def check(rows, refs, k, labels=None, ids=None, **options):
    names = {"labels": labels, "ids": ids}
    given = {name: pair[0] for name, pair in names.items() if pair is not None}
    given |= {f"ref_{name}": pair[1] for name, pair in names.items() if pair is not None and refs is not None}
    found = hard_negatives(rows, k, refs=refs, **given, **options)
    negatives, values = by_sorting(rows, refs, k, labels=labels, ids=ids, **options)
    assert torch.equal(found.negatives, negatives)
    torch.testing.assert_close(found.similarity, values, rtol=1e-12, atol=1e-14, equal_nan=True)
    return found


RULES = {
    "none": {},
    "band": {"min_similarity": 0.65, "max_similarity": 0.75},
    "margin": {"margin": 0.1},
    "relative margin": {"relative_margin": 0.05},
    "ranks": {"ranks": (3, 20)},
    "all": {"min_similarity": 0.1, "max_similarity": 0.9, "margin": 0.01, "relative_margin": 0.02, "ranks": (1, 60)},
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
def test_hard_negatives_of_relations_are_those_by_sorting(similarity, rule):
    shift = -2.5 if similarity == "euclidean" else 0.0
    rules = {name: value + shift * ("similarity" in name) for name, value in RULES[rule].items() if name != "ranks"}
    ranks = RULES[rule].get("ranks", (0, 100))
    found = check(ROWS, REFS, 7, relations=PAIRS, similarity=similarity, ranks=ranks, **rules)
    assert torch.equal(torch.stack([found.anchor, found.positive], 1), PAIRS)
    expected = similarities(ROWS, REFS, similarity)[PAIRS[:, 0], PAIRS[:, 1]]
    torch.testing.assert_close(found.positive_similarity, expected)
    assert (found.negatives >= 0).any()
    if rule in ("band", "all"):
        assert (found.negatives < 0).any()


@pytest.mark.parametrize("rule", ["none", "band", "ranks"])
@pytest.mark.parametrize("with_refs", [False, True])
def test_hard_negatives_of_labels_are_those_by_sorting(with_refs, rule):
    """Negative labels are classes, too."""
    own = integers(N, 6, 4, lowest=-3)
    labels = (own, integers(M, 6, 5, lowest=-3) if with_refs else own)
    found = check(ROWS, REFS if with_refs else None, 9, labels=labels, **RULES[rule])
    assert torch.equal(found.anchor, torch.arange(N))
    assert (found.positive == -1).all()
    assert found.positive_similarity.isnan().all()


@pytest.mark.parametrize("with_labels", [False, True])
def test_hard_negatives_leaves_out_equal_ids(with_labels):
    ids = integers(N, 30, 6), integers(M, 30, 7)
    ids[0][::2] = ids[1][::2] = -1
    labels = (integers(N, 5, 4), integers(M, 5, 5)) if with_labels else None
    check(ROWS, REFS, 9, labels=labels, ids=ids, relations=PAIRS, margin=0.0, ranks=(0, 9))


def test_hard_negatives_without_refs_and_with_relations_gives_triplets():
    relations = PAIRS % N
    relations = relations[relations[:, 0] != relations[:, 1]]
    found = check(ROWS, None, 3, relations=relations, relative_margin=0.05)
    triplets = found.triplets()
    assert len(triplets) == (found.negatives >= 0).sum()
    known = {tuple(pair) for pair in relations.tolist()}
    assert all((a, p) in known and (a, n) not in known and n != a for a, p, n in triplets.tolist())
    ops.indexed_triplet_loss(ROWS, triplets)  # checks the rows


def test_hard_negatives_fewer_candidates_than_k_pads():
    found = check(ROWS[:4], None, 5, labels=(torch.tensor([0, 0, 1, 1]),) * 2)
    assert found.negatives[:, 2:].eq(-1).all()
    assert found.negatives[:, :2].ge(0).all()
    found = check(ROWS[:4], None, 5, labels=(torch.zeros(4, dtype=torch.int64),) * 2)
    assert found.negatives.eq(-1).all()


def test_hard_negatives_no_relations_gives_no_entries():
    found = hard_negatives(ROWS, 2, refs=REFS, relations=torch.empty(0, 2, dtype=torch.int64), margin=0.1)
    assert [list(value.shape) for value in found[:5]] == [[0], [0], [0, 2], [0, 2], [0]]
    assert found.triplets().shape == (0, 3)


def test_hard_negatives_float32_similarities_are_those_of_knn():
    found = hard_negatives(ROWS.float(), 4, labels=torch.arange(N))
    expected = ops.knn(ROWS.float(), k=4)
    assert_bitwise_equal(found.similarity, expected.similarity)
    assert_bitwise_equal(found.negatives, expected.index)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"k": 0}, ValueError, "k must be from 1 to 1024, got 0"),
        ({"k": 9, "ranks": (3, 10)}, ValueError, "k must be at most 7, the number of ranks, got 9"),
        ({"ranks": (3, 3)}, ValueError, r"ranks\[1\] must be from 4 to 1024, got 3"),
        ({"ranks": 5}, TypeError, "ranks must be two integers"),
        ({"margin": 0.1}, ValueError, "margin must be None without relations"),
        ({"relative_margin": 0.1}, ValueError, "relative_margin must be None without relations"),
        (
            {"min_similarity": 0.5, "max_similarity": 0.4},
            ValueError,
            "min_similarity must be at most max_similarity = 0.4",
        ),
        ({"max_similarity": "0"}, TypeError, "max_similarity must be a number, got str"),
        ({"relations": PAIRS.float()}, TypeError, "relations must have an integer dtype"),
        ({"relations": PAIRS[:, 0]}, ValueError, r"relations must be \[E, 2\], got \[60\]"),
        ({"relations": torch.tensor([[0, 0], [5, M]])}, ValueError, rf"relations\[:, 1\] .* got {M} at \[1, 1\]"),
        ({"relations": PAIRS, "margin": float("nan")}, ValueError, "margin must be a .*number, got nan"),
        ({"labels": torch.ones(N).long()}, ValueError, "ref_labels must be given together with labels, got None"),
        ({"refs": None, "ref_ids": torch.ones(N).long()}, ValueError, "ref_ids must be None without refs"),
        ({"group": 3}, TypeError, "group must be a torch.distributed.ProcessGroup"),
        ({"similarity": "l2"}, ValueError, "similarity must be one of"),
        ({"relations": PAIRS, "folder": 5}, TypeError, "folder must be a str"),
        ({}, ValueError, "labels, relations or ids must be given"),
        ({"relations": PAIRS, "relative_margin": 5}, ValueError, "relative_margin must be a share from 0 to 1, got 5"),
        ({"labels": torch.ones(N).long(), "method": "fanng"}, ValueError, "labels must be None with method='fanng'"),
    ],
)
def test_hard_negatives_bad_argument_raises(options, error, message):
    with pytest.raises(error, match=message):
        hard_negatives(**{"anchors": ROWS, "refs": REFS, **options})


def test_hard_negatives_too_many_positives_raise():
    relations = torch.stack([torch.zeros(1000, dtype=torch.int64), torch.arange(1000)], 1)
    with pytest.raises(
        ValueError, match=r"ranks\[1\] = 100, plus the 1000 positives and copies .* at most 1024, got 1100"
    ):
        hard_negatives(ROWS, refs=set_of(2000, 1), relations=relations)


# Refreshing


def test_hard_negatives_in_folder_are_read_back_and_counted(tmp_path):
    folder = tmp_path / "negatives"
    with pytest.raises(FileNotFoundError, match="folder must hold a complete result"):
        newest_negatives(folder.parent)
    for generation in (1, 2, 3):
        found = hard_negatives(ROWS * generation - generation, 3, refs=REFS, relations=PAIRS, folder=folder)
        newest = newest_negatives(folder)
        assert found.generation == newest.generation == generation
        for a, b in zip(newest[:5], found[:5], strict=True):
            assert_bitwise_equal(a, b)
    assert sorted(path.name for path in folder.iterdir()) == ["lock", "negatives.safetensors"]
    (folder / "negatives.safetensors").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"negatives.safetensors is truncated, damaged"):
        newest_negatives(folder)


def _refresh(folder, ended):
    torch.set_num_threads(1)
    try:
        for generation in range(1, 26):
            hard_negatives(
                torch.full((N, D), float(generation)).addcmul(ROWS, ROWS),
                3,
                ids=torch.arange(N),
                similarity="dot",
                folder=folder,
            )
    finally:
        ended.set()


def test_newest_negatives_during_refresh_reads_whole_results(tmp_path):
    """The dot products of a generation tell whether all parts are of it."""
    context = multiprocessing.get_context("fork")
    ended = context.Event()
    process = context.Process(target=_refresh, args=(tmp_path, ended))
    process.start()
    seen, last, deadline = set(), False, time.monotonic() + 60
    while not last and time.monotonic() < deadline:
        last = ended.is_set()
        try:
            newest = newest_negatives(tmp_path)
        except FileNotFoundError:
            continue
        rows = torch.full((N, D), float(newest.generation)).addcmul(ROWS, ROWS)
        expected = (rows[:, None] * rows[newest.negatives]).sum(2)
        torch.testing.assert_close(newest.similarity, expected)
        seen.add(newest.generation)
    process.join(30)
    assert process.exitcode == 0
    assert len(seen) > 2
    assert max(seen) == 25


def test_hard_negatives_interrupted_call_goes_on_and_old_result_stays(tmp_path, monkeypatch):
    old = hard_negatives(ROWS, 3, refs=REFS, relations=PAIRS, folder=tmp_path)
    compare = _block_pairs.BlockPairs._compare

    def interrupted(self, *arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(_block_pairs.BlockPairs, "_compare", interrupted)
    with pytest.raises(KeyboardInterrupt):
        hard_negatives(ROWS + 1, 3, refs=REFS, relations=PAIRS, folder=tmp_path)
    assert_bitwise_equal(newest_negatives(tmp_path).negatives, old.negatives)
    assert len(list(tmp_path.glob("lists-*"))) == 1
    monkeypatch.setattr(_block_pairs.BlockPairs, "_compare", compare)
    found = hard_negatives(ROWS + 1, 3, refs=REFS, relations=PAIRS, folder=tmp_path)
    assert found.generation == 2
    assert not list(tmp_path.glob("lists-*"))


def test_hard_negatives_with_group_are_those_of_one_process(tmp_path):
    expected = hard_negatives(ROWS, 5, refs=REFS, relations=PAIRS, margin=0.1)

    def work(rank):
        group = dist.group.WORLD
        found = hard_negatives(ROWS, 5, refs=REFS, relations=PAIRS, margin=0.1, folder=tmp_path / "all", group=group)
        errors = []
        for options in ({"folder": None}, {"folder": tmp_path / "all", "k": 5 if rank else 0}):
            try:
                hard_negatives(ROWS, refs=REFS, group=group, **options)
            except ValueError as error:
                errors.append(str(error))
        return tuple(found), errors

    for found, errors in run_ranks(2, work):
        for a, b in zip(HardNegatives(*found)[:5], expected[:5], strict=True):
            assert_bitwise_equal(a, b)
        assert errors == [
            "on rank 0: folder must be given with group, got None",
            "on rank 0: k must be from 1 to 1024, got 0",
        ]


def test_hard_negatives_other_files_in_folder_stay(tmp_path):
    (tmp_path / "lists-of-images").mkdir()
    (tmp_path / "lists-0123456789abcdef").mkdir()
    for name in ("lists-2.txt", "progress-mine.safetensors", "lists-of-images/a.jpg"):
        (tmp_path / name).write_text("mine")
    kept = sorted(tmp_path.rglob("*"))
    hard_negatives(ROWS, 3, refs=REFS, relations=PAIRS, folder=tmp_path)
    assert set(kept) <= set(tmp_path.rglob("*"))
    assert not [path for path in tmp_path.glob("lists-*") if path not in kept]
