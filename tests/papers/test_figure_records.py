"""Writing the tables of figures: the file's contents, regardless of what ended the process."""

import csv
import math
import os
import signal
import subprocess
import sys
import warnings

import pytest
import torch

from hardmine import ops
from papers.figures import (
    DIAGRAMS,
    EPOCHS,
    GROUPS,
    Records,
    diagram_rows,
    read_diagrams,
    read_histories,
    similarities,
)
from papers.figures.formats import Table

HEADER = "epoch,step,recall_at_1,hard_share,loss,run\n"


def epoch_row(step, run="SCT", **measured):
    return {"epoch": step // 10, "step": step, "run": run, **measured}


def lines(path):
    return path.read_bytes().decode().splitlines(keepends=True)


def steps(path):
    with path.open(newline="") as file:
        return [int(row["step"]) for row in csv.DictReader(file)]


def test_records_write_gives_header_and_rows(tmp_path):
    path = tmp_path / "epochs.csv"
    with Records(path, EPOCHS) as records:
        assert path.read_text() == HEADER, "there from the beginning"
        records.write([epoch_row(0, recall_at_1=0.25), epoch_row(10, loss=torch.tensor(1.5), hard_share=math.nan)])
        assert len(lines(path)) == 3, "written when write returns"
        records.write([epoch_row(20, run='a, "b"', recall_at_1=None, hard_share=1, loss=-1e-12)])
        records.write([])
    assert lines(path) == [HEADER, "0,0,0.25,,,SCT\n", "1,10,,,1.5,SCT\n", '2,20,,1,-1e-12,"a, ""b"""\n']
    histories = read_histories(path)
    assert list(histories) == ["SCT", 'a, "b"']
    assert histories['a, "b"'].loss.tolist() == [-1e-12]


def test_records_float32_round_trip(tmp_path):
    values = torch.rand(200, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with Records(tmp_path / "diagrams.csv", DIAGRAMS) as records:
        records.write(diagram_rows(0, "after", values, -values))
    found = read_diagrams(tmp_path / "diagrams.csv").moments[0, "train", "after"]
    assert torch.equal(found.s_ap.float(), values)
    assert torch.equal(found.s_an.float(), -values)


def test_records_reopened_appends(tmp_path):
    path = tmp_path / "epochs.csv"
    for step in (0, 10, 20):
        with Records(path, EPOCHS) as records:
            records.write([epoch_row(step)])
    assert steps(path) == [0, 10, 20]
    assert lines(path).count(HEADER) == 1


def test_records_truncated_anywhere_keeps_complete_rows(tmp_path):
    path = tmp_path / "epochs.csv"
    with Records(path, EPOCHS) as records:
        records.write([epoch_row(0, loss=0.125), epoch_row(10, loss=0.25)])
    content = path.read_bytes()
    for end in range(len(content) + 1):
        path.write_bytes(content[:end])
        with Records(path, EPOCHS) as records:
            records.write([epoch_row(99, loss=0.5)])
        whole = max(content.count(b"\n", 0, end) - 1, 0)
        assert steps(path) == [*[0, 10][:whole], 99], end
        assert lines(path)[0] == HEADER


def test_records_keep_drops_later_rows(tmp_path):
    path = tmp_path / "epochs.csv"
    with Records(path, EPOCHS) as records:
        records.write([epoch_row(step, run, loss=step / 3) for run in ("HN", "SCT") for step in (0, 10, 20, 30)])
    before = lines(path)
    path.write_bytes(path.read_bytes() + b"4,40,0.")
    with Records(path, EPOCHS, keep=lambda row: row["run"] == "HN" or row["step"] <= 10) as records:
        assert lines(path) == before[:7], "rows that stay, stay as they were"
        records.write([epoch_row(20, "SCT")])
    assert steps(path) == [0, 10, 20, 30, 0, 10, 20]
    with Records(path, EPOCHS, keep=lambda row: False):
        assert path.read_text() == HEADER
    with Records(path, EPOCHS, keep=lambda row: False):
        assert path.read_text() == HEADER, "nothing to drop is fine, too"
    assert [file.name for file in tmp_path.iterdir()] == ["epochs.csv"]


@pytest.mark.subprocess
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_records_killed_leaves_complete_rows(tmp_path):
    path = tmp_path / "diagrams.csv"
    script = """
import sys, torch
from papers.figures import DIAGRAMS, Records, diagram_rows
records = Records(sys.argv[1], DIAGRAMS)
s = torch.rand(500)
for step in range(10**9):
    records.write(diagram_rows(step, "before", s, s) + diagram_rows(step, "after", s, s))
    if step == 2:
        print("under way", flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"under way\n"
        process.send_signal(signal.SIGKILL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the process may have been killed during a write
        moments = read_diagrams(path).moments
    assert len(moments) >= 6
    assert all(len(triplets.anchor) == 500 for triplets in moments.values())
    with Records(path, DIAGRAMS, keep=lambda row: row["iteration"] < 2):
        pass
    assert list(read_diagrams(path).steps()) == [0, 1]
    assert len(lines(path)) == 1 + 2 * 2 * 500


def test_records_failed_write_leaves_file_unchanged(tmp_path):
    resource = pytest.importorskip("resource", reason="Windows has no limit on the size of files")
    path = tmp_path / "epochs.csv"
    with Records(path, EPOCHS) as records:
        records.write([epoch_row(0)])
        before = path.read_bytes()
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 40, limits[1]))  # a full disk with room for some rows
        try:
            with pytest.raises(OSError):
                records.write([epoch_row(step) for step in range(10, 1000, 10)])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert path.read_bytes() == before
        records.write([epoch_row(10)])
    assert steps(path) == [0, 10]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, OSError])
def test_records_interrupted_partial_write_is_atomic(tmp_path, interruption):
    class Slow:
        """Writes three bytes per call; call number `failing` raises."""

        def __init__(self, file, failing):
            self.file, self.failing, self.calls = file, failing, 0
            self.fileno, self.close, self.closed = file.fileno, file.close, False

        def write(self, content):
            self.calls += 1
            if self.calls == self.failing:
                raise interruption
            return self.file.write(content[:3])

    path = tmp_path / "epochs.csv"
    records = Records(path, EPOCHS)
    records._file = Slow(records._file, failing=None)
    records.write([epoch_row(0, loss=0.5)])
    assert lines(path) == [HEADER, "0,0,,,0.5,SCT\n"]
    records._file.failing = records._file.calls + 3
    with pytest.raises(interruption):
        records.write([epoch_row(10)])
    assert lines(path) == [HEADER, "0,0,,,0.5,SCT\n"]
    records.close()


@pytest.mark.parametrize(
    ("table", "row", "message"),
    [
        (EPOCHS, epoch_row(0, recall=0.5), r"t\.csv: columns must be epoch,step,.*, got 'recall'"),
        (EPOCHS, epoch_row(-1), "column epoch: must be an integer from 0, got -1"),
        (EPOCHS, epoch_row(0) | {"step": 1.5}, "column step: must be an integer from 0, got 1.5"),
        (EPOCHS, epoch_row(0) | {"step": True}, "column step: must be an integer from 0, got True"),
        (
            EPOCHS,
            epoch_row(0) | {"step": 10**18},
            "column step: must be an integer from 0, got 1000000000000000000",
        ),
        (EPOCHS, {"epoch": 0, "run": "SCT"}, "column step: must be an integer from 0, got None"),
        (EPOCHS, epoch_row(0, recall_at_1=1.5), "column recall_at_1: must be a number from 0 to 1 or empty, got 1.5"),
        (EPOCHS, epoch_row(0, loss=math.inf), "column loss: must be a number or empty, got inf"),
        (EPOCHS, epoch_row(0, loss=torch.zeros(2)), "column loss: must be a number or empty, got tensor"),
        (EPOCHS, epoch_row(0, ""), "column run: must be a name, got ''"),
        (EPOCHS, epoch_row(0, "a\nb"), r"column run: must be a name, got 'a\\nb'"),
        (EPOCHS, epoch_row(0, " a"), "column run: must be a name, got ' a'"),
        (GROUPS, {"method": "EP", "images_per_class": 1, "seed": 0, "recall_at_1": 0.5}, "images_per_class: must be a"),
        (
            GROUPS,
            {"method": "EP", "images_per_class": 2, "seed": 0},
            "recall_at_1: must be a number from 0 to 1, got None",
        ),
        (
            DIAGRAMS,
            diagram_rows(0, "later", torch.zeros(1), torch.zeros(1))[0],
            "moment: must be before or after, got 'l",
        ),
        (
            DIAGRAMS,
            diagram_rows(0, "after", torch.ones(1) * 1.1, torch.zeros(1))[0],
            "s_ap: must be a number from -1 to",
        ),
        (
            DIAGRAMS,
            diagram_rows(0, "after", torch.ones(1), torch.ones(1), split="val")[0],
            "split: must be train or test, got 'val'",
        ),
    ],
)
def test_records_invalid_row_writes_nothing(tmp_path, table: Table, row, message):
    path = tmp_path / "t.csv"
    good = {
        EPOCHS.file: epoch_row(0),
        GROUPS.file: {"method": "EP", "images_per_class": 2, "seed": 0, "recall_at_1": 0.5},
        DIAGRAMS.file: {"iteration": 0, "split": "test", "moment": "after", "anchor": 0},
    }[table.file]
    with Records(path, table) as records:
        before = path.read_bytes()
        with pytest.raises(ValueError, match=message) as raised:
            records.write([good, row])
        assert str(path) in str(raised.value)
        assert path.read_bytes() == before
        records.write([good])
    assert len(lines(path)) == 2


@pytest.mark.parametrize("content", [b"epoch,step\n1,2\n", b"something else", b"\xff\xfe\n", HEADER.encode() + b"x\n"])
def test_records_other_file_raises_and_stays_unchanged(tmp_path, content):
    path = tmp_path / "epochs.csv"
    path.write_bytes(content)
    line, keep = (1, None) if not content.startswith(b"epoch,step,r") else (2, lambda row: True)
    with pytest.raises(ValueError, match=rf"epochs\.csv, line {line}"):
        Records(path, EPOCHS, keep=keep)
    assert path.read_bytes() == content
    assert [file.name for file in tmp_path.iterdir()] == ["epochs.csv"]


def test_records_other_header_raises(tmp_path):
    (tmp_path / "epochs.csv").write_text("epoch,step\n1,2\n")
    with pytest.raises(ValueError, match=f"must be {HEADER.strip()}, got 'epoch,step'"):
        Records(tmp_path / "epochs.csv", EPOCHS)


def test_records_missing_folder_raises_oserror(tmp_path):
    with pytest.raises(FileNotFoundError):
        Records(tmp_path / "none" / "epochs.csv", EPOCHS)
    with pytest.raises(IsADirectoryError):
        Records(tmp_path, EPOCHS)


def test_records_closed_raises(tmp_path):
    records = Records(tmp_path / "epochs.csv", EPOCHS)
    records.close()
    records.close()
    with pytest.raises(ValueError, match=r"epochs\.csv is closed"):
        records.write([epoch_row(0)])


def test_similarities_follow_given_selection():
    embeddings = torch.tensor([[1.0, 0], [3, 4], [0, 2], [5, 0]])
    labels = torch.tensor([0, 0, 1, 2])
    selection = ops.select_triplets(embeddings, labels)
    s_ap, s_an = similarities(embeddings, selection)
    assert s_ap[:2].tolist() == pytest.approx([0.6, 0.6])
    assert s_ap[2:].isnan().all()
    assert s_an.tolist() == pytest.approx([1.0, 0.8, 0.8, 1.0])
    moved = embeddings.clone()
    moved[3] = torch.tensor([0.0, 1.0])  # a new selection would select sample 1 for anchor 0
    s_ap, s_an = similarities(moved, selection)
    assert s_an.tolist() == pytest.approx([0.0, 0.8, 0.8, 0.0])
    assert similarities(moved.double(), selection)[0].dtype == torch.float64
    assert similarities(moved.half(), selection)[0].dtype == torch.float32
    with pytest.raises(ValueError, match="selection must index the 3 embeddings, got a selection of 4 anchors"):
        similarities(embeddings[:3], selection)
    gallery = ops.select_triplets(embeddings[:2], labels[:2], embeddings, labels)
    with pytest.raises(ValueError, match="selection must index the 2 embeddings"):
        similarities(embeddings[:2], gallery)


def test_diagram_rows_one_row_per_anchor():
    s_ap, s_an = torch.tensor([0.5, math.nan]), torch.tensor([0.25, -1.0])
    first, second = diagram_rows(3, "before", s_ap, s_an, split="test", anchors=torch.tensor([7, 5]))
    assert first == {"iteration": 3, "split": "test", "moment": "before", "anchor": 7, "s_ap": 0.5, "s_an": 0.25}
    assert (second["anchor"], second["s_an"]) == (5, -1.0)
    assert [row["anchor"] for row in diagram_rows(3, "before", s_ap, s_an)] == [0, 1]
    with pytest.raises(ValueError, match=r"s_an must be \[B\] = \[2\], got \[1\]"):
        diagram_rows(3, "before", s_ap, s_an[:1])
    with pytest.raises(ValueError, match=r"anchors must be \[B\] = \[2\], got \[2, 1\]"):
        diagram_rows(3, "before", s_ap, s_an, anchors=torch.zeros(2, 1))
