"""What the graph benchmark reports about its numbers: verdicts, tables and the lines of its picture."""

import copy

import pytest

from graphs import grids, pages, parts, picture, verdicts
from graphs.contestants import SEEDED, TRAVERSE_ADD, WARM


def point(effort, recall, query_s, family=TRAVERSE_ADD, build_s=1.0, **more):
    facts = {
        "degree_mean": 20.0,
        "degree_max": 30,
        "success_rate": 0.98,
        "traversals_per_row": 50,
        "distances_per_row": 9,
    }
    return {
        "library": "hardmine",
        "family": family,
        "setting": "init = None",
        "effort": effort,
        "recall": recall,
        "build_s": build_s,
        "query_s": query_s,
        "total_s": build_s + query_s,
        "passes": 1,
        "facts": facts if family in (TRAVERSE_ADD, SEEDED, WARM) else {},
        **more,
    }


def test_query_at_interpolates_between_efforts():
    points = [point(300, 0.9, 2.0), point(500, 0.96, 3.0), point(900, 0.99, 5.0)]
    # misses fall from 0.04 to half of that, then to half again
    assert parts.query_at(points, 0.98) == pytest.approx((700, 4.0))
    assert parts.query_at(points, 0.8) == (300, 2.0)
    assert parts.query_at(points, 0.995) is None


def test_exponent_missing_value_is_none():
    assert parts.exponent([10, 100], [1.0, 100.0]) == pytest.approx(2)
    assert parts.exponent([10, 100], [1.0, None]) is None
    assert parts.exponent([10], [1.0]) is None


# --- the picture -----------------------------------------------------------------------------------------------------


def test_frontier_keeps_undominated_points():
    points = [point(1, 0.9, 2.0), point(2, 0.95, 1.5), point(3, 0.99, 3.0), point(4, 0.98, 4.0)]
    assert [each["effort"] for each in picture.frontier(points)] == [2, 3]


def test_spread_out_labels_do_not_overlap():
    assert picture.spread_out([5.0, 5.0, 9.9], [1.0, 1.0, 1.0], 0.0, 10.0) == [5.0, 6.0, 9.5]
    assert picture.spread_out([9.8, 9.9], [1.0, 1.0], 0.0, 10.0) == [8.5, 9.5]
    assert picture.spread_out([0.1, 0.2], [1.0, 1.0], 0.0, 10.0) == [0.5, 1.5]


# --- verdicts --------------------------------------------------------------------------------------------------------


def head_to_head_point(family, seconds, recall=0.985, library=None):
    spread = {"of_medians": seconds, "quartiles": [seconds, seconds]}
    return point(9, recall, seconds - 0.5, family, 0.5, library=library or family, of_first=spread)


def graph(family, build_s, recall, degree=20.0):
    facts = point(1, 0, 0)["facts"] | {"degree_mean": degree}
    return {
        "family": family,
        "setting": "none",
        "build_s": build_s,
        "default_recall": recall,
        "default_query_s": 1.0,
        "effort": 900.0,
        "query_s": 1.0,
        "total_s": build_s + 1,
        "facts": facts,
    }


@pytest.fixture
def results():
    about = {"data": "sift", "title": "SIFT", "source": "files", "n": 10_000, "d": 128, "whole": True}
    head_to_head = [
        head_to_head_point("exact knn", 1.0, 1.0),
        head_to_head_point(TRAVERSE_ADD, 4.0),
        head_to_head_point(SEEDED, 2.0),
        head_to_head_point("hnswlib", 3.0),
        head_to_head_point("faiss HNSW", 2.5),
    ]
    sizes = [
        {"n": n, "exact_s": 1.0, "graphs": [graph(TRAVERSE_ADD, 4, 0.9, 14 + i), graph(SEEDED, 4, 0.9, 20 + i)]}
        for i, n in enumerate(grids.GROWTH_SIZES)
    ]
    return {
        "about": {"commit": "0123456789ab"},
        "command": "python bench/graph_report.py",
        "minutes": 3.0,
        "data": ["sift"],
        "parts": ["curve", "warm", "growth"],
        "complete": True,
        "curve": [{**about, "missing": {}, "points": copy.deepcopy(head_to_head), "head_to_head": head_to_head}],
        "warm": [
            {
                **about,
                "move": "noise",
                "kept": kept,
                "exact_s": 1.0,
                "graphs": [graph(TRAVERSE_ADD, 4.0, 0.99), graph(SEEDED, 2.0, 0.99), graph(WARM, build_s, recall)],
            }
            for kept, build_s, recall in ((0.95, 0.8, 0.991), (0.8, 1.1, 0.986))
        ],
        "growth": {**about, "data": "words", "sizes": sizes, "exponents": parts.exponents_of(sizes)},
    }


def verdict_texts(results):
    judged = verdicts.judge(results)
    return [(verdict.line().split(":")[0].removeprefix("- ").strip("*"), verdict.found) for verdict in judged]


def test_judge_complete_run_gives_all_verdicts(results):
    assert verdict_texts(results) == [
        ("met", "0.80 of the time of faiss HNSW (recall 0.9850 and 0.9850)"),
        ("missed", "1.60 of the time of faiss HNSW (recall 0.9850 and 0.9850)"),
        ("missed", "2.00 of the time of exact knn (recall 0.9850 and 1.0000)"),
        (
            "met",
            "0.20 with 95% of the lists kept (recall 0.9910, fresh 0.9900); "
            "0.28 with 80% of the lists kept (recall 0.9860, fresh 0.9900)",
        ),
        ("missed", "14.0, 15.0, 16.0, 17.0"),
        ("met", "20.0, 21.0, 22.0, 23.0"),
    ]


def test_judge_warm_start_worse_or_slower_is_missed(results):
    results["warm"][1]["graphs"][2]["default_recall"] = 0.98
    assert verdict_texts(results)[3][0] == "missed"
    results["warm"][1]["graphs"][2] = graph(WARM, 1.3, 0.99)
    assert verdict_texts(results)[3][0] == "missed"


def test_judge_large_moves_ignored(results):
    results["warm"][1] |= {"kept": 0.4, "graphs": [graph(family, 5.0, 0.5) for family in (TRAVERSE_ADD, SEEDED, WARM)]}
    assert verdict_texts(results)[3] == ("met", "0.20 with 95% of the lists kept (recall 0.9910, fresh 0.9900)")


def test_judge_unreached_recall_is_missed(results):
    results["curve"][0]["head_to_head"] = [
        each for each in results["curve"][0]["head_to_head"] if each["family"] != TRAVERSE_ADD
    ]
    results["curve"][0]["points"] = [point(9, 0.91, 1.0), point(3, 0.8, 1.0)]
    assert verdict_texts(results)[1] == ("missed", "no setting reaches the recall; the best is 0.9100")


def test_judge_unmeasured_parts_leave_verdicts_open(results):
    results["curve"][0]["missing"] = {"hnswlib": "not installed"}
    results["warm"] = []
    results["growth"]["sizes"].pop()
    assert [word for word, _ in verdict_texts(results)] == ["open", "open", "missed", "open", "open", "open"]
    results["curve"][0]["whole"] = False
    assert verdict_texts(results)[2] == ("open", "not measured")


def test_judge_covers_only_requested_parts(results):
    assert len(verdicts.judge({**results, "parts": ["warm"]})) == 1
    assert len(verdicts.judge({**results, "parts": ["curve"], "data": ["sift", "words"]})) == 6


def test_render_shows_all_parts(results):
    text = pages.render(results, ["- **met**: a target"], "r.png")
    for part in (
        "| exact knn | init = None | 9 | 1.0000 | 1.00 (1.00-1.00) | 50% |",
        "| hardmine, traverse-add alone | init = None | 9 | 0.9850 | 4.00 (4.00-4.00) | 12% |",
        "- **met**: a target",
        "![Recall against time relative to exact search, one panel per data set](r.png)",
        "| sift, N = 10,000 | noise | 95% | traverse-add alone | 20.0, max 30 | 1.00 | 0.9900 | 900 | 5.00 |",
        "| 100,000 | traverse-add alone | 17.0, max 30 | 0.980 after 50 N | 4.0 s | 1.0 s | 0.9000 | 5.0 s |",
    ):
        assert part in text
    assert "interrupted" not in text
    assert "**The run was interrupted." in pages.render({**results, "complete": False}, [], None)


def test_render_curve_without_exact_search_says_so(results):
    results["curve"][0]["points"] = results["curve"][0]["points"][1:]
    assert "The run was interrupted before exact search was timed." in pages.render(results, [], None)
