"""CMC and mAP of person re-identification, against the protocol of Market-1501 in plain loops."""

import pytest
import torch

from hardmine import metrics
from support.inputs import seeded

CAMERAS = 3
JUNK = -1  # the identity of detections that are no person


def market_1501(queries, gallery, person, camera, of_gallery, ref_camera, ranks):
    """The protocol of Zheng et al., ICCV 2015, as evaluation toolboxes have it, query by query."""
    queries, gallery = (torch.nn.functional.normalize(rows) for rows in (queries, gallery))
    hits, precisions = [], []
    for i, query in enumerate(queries):
        order = (gallery @ query).argsort(descending=True, stable=True)
        junk = of_gallery[order] == JUNK
        same_view = (of_gallery[order] == person[i]) & (ref_camera[order] == camera[i])
        match = (of_gallery[order] == person[i])[~(junk | same_view)]
        if not match.any():
            continue  # this query has no image from another camera
        hits.append([bool(match[:rank].any()) for rank in ranks])
        position = match.nonzero().squeeze(1) + 1
        precisions.append((torch.arange(1, len(position) + 1) / position.double()).mean())
    return torch.tensor(hits).double().mean(0), torch.stack(precisions).mean(), len(hits)


@pytest.fixture
def sets():
    """Queries and a gallery with junk, distractors (identity 0) and images from the query's own camera."""
    centers = torch.randn(20, 8, generator=seeded(0), dtype=torch.float64)
    found = []
    for count, low, seed in ((60, 1, 1), (400, JUNK, 2)):
        person = torch.randint(low, 20, (count,), generator=seeded(seed))
        rows = centers[person.clamp(min=0)] + torch.randn(count, 8, generator=seeded(seed + 10), dtype=torch.float64)
        found.append((rows, person, torch.randint(CAMERAS, (count,), generator=seeded(seed + 20))))
    (queries, person, camera), (gallery, of_gallery, ref_camera) = found
    of_gallery[of_gallery == 7] = 8  # queries of identity 7 have no match
    same = (of_gallery == 9) & (ref_camera != 1)
    ref_camera[same] = 1  # identity 9 was seen by one camera only, and some queries are from it
    return queries, gallery, person, camera, of_gallery, ref_camera


def test_retrieval_with_ids_of_views_is_protocol_of_market_1501(sets):
    queries, gallery, person, camera, of_gallery, ref_camera = sets
    expected, mean_precision, count = market_1501(*sets, ranks=(1, 5, 10))
    found = metrics.retrieval(
        queries,
        person,
        gallery,
        of_gallery,
        ids=person * CAMERAS + camera,
        ref_ids=torch.where(of_gallery >= 0, of_gallery * CAMERAS + ref_camera, -1),
        ignore_index=JUNK,
        metrics=("cmc@1", "cmc@5", "cmc@10", "map", "mrr"),
        per_query=True,
    )
    has_match = found["mrr"] > 0
    assert has_match.sum() == count < len(queries)
    for name, value in zip(("cmc@1", "cmc@5", "cmc@10", "map"), [*expected, mean_precision], strict=True):
        torch.testing.assert_close(found[name][has_match].mean(), value, rtol=1e-12, atol=0)


@pytest.mark.parametrize("leave_out", ["ids", "ignore_index"])
def test_retrieval_without_ids_or_junk_is_another_number(sets, leave_out):
    queries, gallery, person, camera, of_gallery, ref_camera = sets
    given = {"ids": person * CAMERAS + camera, "ref_ids": of_gallery * CAMERAS + ref_camera, "ignore_index": JUNK}
    given["ref_ids"] = torch.where(of_gallery >= 0, given["ref_ids"], -1)
    all_given = metrics.retrieval(queries, person, gallery, of_gallery, **given, metrics="map")
    del given[leave_out]
    if leave_out == "ids":
        del given["ref_ids"]
    assert metrics.retrieval(queries, person, gallery, of_gallery, **given, metrics="map") != all_given
