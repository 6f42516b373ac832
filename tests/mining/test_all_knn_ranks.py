"""all_knn on several ranks: the bits of one process, even shares, any number of ranks after an interrupt."""

import math

import pytest
import torch
import torch.distributed as dist

from hardmine import ops
from hardmine.mining import _block_pairs, all_knn
from hardmine.mining.all_knn import part_of_pairs
from support.ranks import COUNTS, run_ranks
from whole_sets import BLOCK, N, assert_same_lists, interrupt_after, small_integers

pytest.importorskip("safetensors.torch")


@COUNTS
def test_all_knn_with_group_gives_bits_of_one_process(tmp_path, count):
    rows, ids = small_integers(), torch.arange(N) % 90
    folders = iter(tmp_path / f"lists-{n}" for n in range(10))
    cases = [(next(folders), {"similarity": s, "block_rows": b}) for s in ("cosine", "euclidean") for b in (BLOCK, 192)]
    cases.append((next(folders), {}))
    cases.append((next(folders), {"refs": small_integers(400, seed=1), "ref_ids": torch.arange(400) % 90}))

    def work(rank):
        return [
            tuple(all_knn(rows, folder, 20, ids=ids, group=dist.group.WORLD, **options)[:]) for folder, options in cases
        ]

    for found in run_ranks(count, work):
        for lists, (_, options) in zip(found, cases, strict=True):
            given = {name: value for name, value in options.items() if name != "block_rows"}
            refs = given.pop("refs", None)
            assert_same_lists(lists, ops.knn(rows, refs, 20, ids=ids, **given))


@pytest.mark.parametrize(("blocks", "ranks"), [(4, 2), (8, 4), (32, 16), (5, 1), (3, 7)])
def test_part_of_pairs_is_even_and_touches_few_blocks(blocks, ranks):
    pairs = [_block_pairs.Pair(row, column) for row in range(blocks) for column in range(row, blocks)]

    def weight(pair):
        return 0.5 if pair.row == pair.column else 1.0

    parts = [part_of_pairs(pairs, weight, rank, ranks) for rank in range(ranks)]
    assert sorted(pair for part in parts for pair in part) == pairs
    if ranks == 1:
        assert parts == [pairs], "in the order in which blocks are done first"
    even = blocks**2 / 2 / ranks
    assert all(abs(sum(map(weight, part)) - even) <= 1 for part in parts)
    touched = [len({block for pair in part for block in pair}) for part in parts]
    assert max(touched) <= min(blocks, 3 * math.sqrt(len(pairs) / ranks) + 4)


def test_all_knn_interrupted_ranks_go_on_with_any_number(tmp_path, monkeypatch, counted_pairs):
    rows, folder = small_integers(), tmp_path / "lists"

    def interrupted(rank):
        restore = interrupt_after(monkeypatch, 5 + rank, RuntimeError)
        try:
            all_knn(rows, folder, 20, block_rows=BLOCK, group=dist.group.WORLD)
        except RuntimeError as error:
            return str(error)
        finally:
            restore()

    errors = run_ranks(2, interrupted)
    assert errors[0] == errors[1]
    assert errors[0].startswith("on rank 0:")
    assert len(list(folder.glob("progress-*.rank-1.safetensors"))) > 1
    assert_same_lists(all_knn(rows, folder, 20)[:], ops.knn(rows, k=20))
    assert len(counted_pairs) == 36 - 5 - 6


def test_all_knn_different_options_or_rows_on_ranks_raise_everywhere(tmp_path):
    def error(rank, options, rows=None):
        try:
            all_knn(rows or small_integers(), tmp_path / "lists", group=dist.group.WORLD, **options)
        except (TypeError, ValueError, RuntimeError) as error:
            return str(error)

    def work(rank):
        return [
            error(rank, {"k": 3 + rank}),
            error(rank, {"k": 3 if rank else 5000}),
            error(rank, {"k": 3}, [str(rank)][:rank]),
        ]

    first, second = run_ranks(2, work)
    assert first == second
    assert first[0] == "k must be the same on every rank, got 3 on rank 0 and 4 on rank 1"
    assert first[1] == "on rank 0: k must be from 1 to 1024, got 5000"
    assert "rows[0], '1', must be an existing file" in first[2]
