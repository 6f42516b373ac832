"""Training on mined triplets beside random ones: the comparison itself, and the command line end to end."""

import csv
import dataclasses
import functools
import json
import os
import signal
import subprocess
import sys

import pytest
import torch

import hardmine
from hardmine import curves, train_smart
from hardmine.__main__ import main
from hardmine.datasets import RetrievalSplit

for needed in ("sklearn", "matplotlib", "tqdm"):
    pytest.importorskip(needed)

QUICK = dataclasses.replace(
    train_smart.PRESETS["digits"], epochs=4, batch_size=8, batches_per_epoch=5, neighbors=20, verify_every=2
)


@pytest.fixture(scope="module")
def split() -> RetrievalSplit:
    """Eight classes of 12 images: a bright square at a place of its own, and noise."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(8).repeat_interleave(12)
    images = 0.6 * torch.rand(96, 1, 8, 8, generator=generator)
    for image, label in zip(images, labels.tolist(), strict=True):
        row, column = divmod(label, 4)
        image[0, 4 * row : 4 * row + 3, 2 * column : 2 * column + 2] += 0.4
    return RetrievalSplit(images[:60], labels[:60], images[60:], labels[60:], "squares")


def compare(split: RetrievalSplit, **changes) -> train_smart.SmartComparison:
    return train_smart.SmartComparison(split, dataclasses.replace(QUICK, **changes), progress=False)


def untimed(pairs) -> list[dict]:
    """The rows of all results, without what no two runs share."""
    rows = [result.row() for pair in pairs for result in pair]
    return [{name: value for name, value in row.items() if not name.endswith(("seconds", "g_share"))} for row in rows]


def test_both_runs_start_alike_and_part_when_mining_starts(split):
    pairs = list(compare(split).epochs())
    assert [(smart.run, random.run) for smart, random in pairs] == [("smart", "random")] * 4
    for epoch, (smart, random) in enumerate(pairs, 1):
        assert smart.record.epoch == random.record.epoch == epoch
        assert (random.record.mined_share, random.record.kappa, random.record.method) == (0, None, None)
        assert (smart.loss == random.loss) == (epoch <= 2)
        assert smart.record.error == random.record.error or epoch > 2
        assert (smart.record.mined_share > 0) == (smart.record.kappa is not None) == (epoch > 2)
        assert smart.record.method == ("exact" if epoch > 2 else None)


def test_a_seed_fixes_everything(split):
    torch.manual_seed(1)
    first = untimed(compare(split).epochs())
    torch.manual_seed(2)
    assert str(untimed(compare(split).epochs())) == str(first)
    assert str(untimed(compare(split, seed=1).epochs())) != str(first)


def test_the_callers_random_numbers_stay(split):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    list(compare(split).epochs())
    assert torch.equal(torch.rand(3), expected)


def test_training_teaches(split):
    comparison = compare(split, epochs=6, batches_per_epoch=20)
    pairs = list(comparison.epochs())
    assert pairs[-1][1].record.error < pairs[0][1].record.error
    assert pairs[-1][1].loss < pairs[0][1].loss
    assert min(result.recall for result in pairs[-1]) > comparison.recall_before


def test_mined_triplets_keep_the_error_up(split):
    pairs = list(compare(split, epochs=8, batches_per_epoch=20).epochs())
    smart, random = ([pair[which].record.error for pair in pairs[2:]] for which in (0, 1))
    assert sum(smart) > sum(random) + 0.05 * len(smart)


def test_losses_and_mining_are_verified(split):
    comparison = compare(split)
    list(comparison.epochs())
    checks = {name: (op.checks, op.calls) for name, op in comparison.report.ops.items()}
    assert checks["indexed_triplet_loss"] == checks["global_loss"] == (20, 40)
    assert checks["knn"] == (1, 2)
    assert comparison.report.largest_deviation < 1e-4
    unverified = compare(split, verify_every=0, epochs=1)
    list(unverified.epochs())
    assert unverified.report is None


def test_lists_of_many_images_are_not_verified(split, monkeypatch):
    monkeypatch.setattr(train_smart, "VERIFIED_LISTS", 59)
    comparison = compare(split)
    list(comparison.epochs())
    assert set(comparison.report.ops) == {"indexed_triplet_loss", "global_loss"}


def test_the_learning_rate_is_halved(split):
    comparison = compare(split, epochs=5, lr=0.08, lr_halved_every=2)
    rates = []
    for _ in comparison.epochs():
        rates.append([run._optimizer.param_groups[0]["lr"] for run in comparison._runs.values()])
    assert rates == [[0.08] * 2, [0.08] * 2, [0.04] * 2, [0.04] * 2, [0.02] * 2]


def test_images_are_turned_anew_each_epoch(split):
    comparison = compare(split, max_turn_deg=90.0, epochs=3)
    seen = []
    for _ in comparison.epochs():
        smart, random = (comparison._runs[name].miner.images for name in ("smart", "random"))
        assert torch.equal(smart, random)
        seen.append(smart.clone())
    assert not torch.equal(seen[0], split.train_images)
    assert not torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[1], seen[2])


def test_divergence_stops_with_the_epoch(split):
    with pytest.raises(FloatingPointError, match=r"training has diverged|lr 1e\+30 may be too large"):
        list(compare(split, lr=1e30).epochs())


# The command line

WORDS = ["--method", "smart", "--epochs", "4", "--batches-per-epoch", "4", "--verify-every", "3"]
FILES = {"smart_epochs.csv", "smart_results.json", "smart_mining.png"}


def run_main(*words: object, capsys) -> tuple[int, str, str]:
    status = main(["train", *map(str, words)])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def refused(*words: object, capsys) -> str:
    with pytest.raises(SystemExit) as stop:
        main(["train", *map(str, words)])
    assert stop.value.code == 2
    return capsys.readouterr().err


def epoch_lines(out: str) -> list[list[str]]:
    return [line.split() for line in out.splitlines() if line.split() and line.split()[0].isdecimal()]


def test_end_to_end(tmp_path):
    output = tmp_path / "made" / "here"
    command = [sys.executable, "-m", "hardmine", "train", *WORDS, "--output", output]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "batch/s" in done.stderr, "no progress bar"
    lines = [line for line in epoch_lines(done.stdout) if len(line) == 9]
    assert [line[0] for line in lines] == ["1", "2", "3", "4"]
    assert [line[2] == "-" for line in lines] == [True, True, False, False]
    assert {path.name for path in output.iterdir()} == FILES

    with (output / "smart_epochs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    saved = json.loads((output / "smart_results.json").read_text())
    assert [row["run"] for row in rows] == [row["run"] for row in saved["epochs"]] == ["smart", "random"] * 4
    assert saved["settings"]["epochs"] == 4
    assert 0 < saved["recall_before"] < 1
    for line, smart, random in zip(lines, rows[::2], rows[1::2], strict=True):
        assert line[0] == smart["epoch"] == random["epoch"]
        assert line[1] == f"{float(smart['training_error']):.1%}"
        assert line[2] == (f"{float(smart['kappa']):.2f}" if smart["kappa"] else "-")
        assert line[3] == f"{float(smart['mined_share']):.0%}"
        assert line[4:6] == [f"{float(smart['embedding_share']):.1%}", f"{float(smart['mining_share']):.2%}"]
        assert line[6:] == [
            f"{float(smart['recall_at_1']):.3f}",
            f"{float(random['training_error']):.1%}",
            f"{float(random['recall_at_1']):.3f}",
        ]
    assert "indexed_triplet_loss: 11 of 32 calls checked" in done.stdout
    assert (output / "smart_mining.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("finished", [0, 2])
def test_interrupt_keeps_the_finished_epochs(tmp_path, capsys, monkeypatch, finished):
    epoch = train_smart.SmartComparison._epoch

    def interrupted(comparison, name):
        if name == "random" and len(comparison._runs["random"].miner.history) == finished:
            raise KeyboardInterrupt
        return epoch(comparison, name)

    monkeypatch.setattr(train_smart.SmartComparison, "_epoch", interrupted)
    status, out, err = run_main(*WORDS, "--output", tmp_path, capsys=capsys)
    assert status == 130
    assert f"interrupted: {finished} of 4 epochs are finished and kept" in err
    assert len([line for line in epoch_lines(out) if len(line) == 9]) == finished
    assert {path.name for path in tmp_path.iterdir()} == (FILES if finished else set())


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT to send to one process")
def test_ctrl_c_while_training(tmp_path):
    command = [sys.executable, "-m", "hardmine", "train", *WORDS, "--epochs", "100000", "--output", tmp_path]
    # A job that a script started in the background passes on to its children that SIGINT is ignored.
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.PIPE, "bufsize": 0}
    with subprocess.Popen(command, preexec_fn=heed, **pipes) as process:
        seen = b""
        while b"smart  3" not in seen:  # the first epoch with mined triplets
            seen += process.stderr.read(256)
            assert process.poll() is None, seen.decode()
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"of 100000 epochs are finished and kept" in rest
    assert b"Traceback" not in rest
    assert {path.name for path in tmp_path.iterdir()} == FILES


def test_results_are_there_before_the_last_epoch(tmp_path, capsys, monkeypatch):
    epoch, kept = train_smart.SmartComparison._epoch, []

    def watched(comparison, name):
        if name == "smart" and (tmp_path / "smart_epochs.csv").exists():
            kept.append((tmp_path / "smart_epochs.csv").read_text().count("\n") - 1)
        return epoch(comparison, name)

    monkeypatch.setattr(train_smart.SmartComparison, "_epoch", watched)
    assert run_main(*WORDS, "--output", tmp_path, capsys=capsys)[0] == 0
    assert kept == [2, 4, 6]


@pytest.mark.parametrize(
    "error", [hardmine.VerificationError("global_loss disagrees with its reference"), FloatingPointError("the loss is")]
)
def test_a_failure_keeps_the_finished_epochs(tmp_path, capsys, monkeypatch, error):
    epoch = train_smart.SmartComparison._epoch

    def failing(comparison, name):
        if len(comparison._runs["smart"].miner.history) == 1 and name == "smart":
            raise error
        return epoch(comparison, name)

    monkeypatch.setattr(train_smart.SmartComparison, "_epoch", failing)
    status, _, err = run_main(*WORDS, "--verify-every", 0, "--output", tmp_path, capsys=capsys)
    assert status == 1
    assert f"hardmine train: {error}" in err
    assert (tmp_path / "smart_epochs.csv").read_text().count("\n") == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "smart", "--methods", "HN"], "argument --methods: not with --method smart"),
        (["--method", "smart", "--steps", "5"], "argument --steps: not with --method smart"),
        (["--method", "smart", "--images-per-class", "2"], "argument --images-per-class: not with --method smart"),
        (["--epochs", "5"], "argument --epochs: only with --method smart"),
        (["--methods", "HN", "--lists", "exact"], "argument --lists: only with --method smart"),
        (["--method", "SCT"], "argument --method: invalid choice: 'SCT'"),
        (["--method", "smart", "--epochs", "0"], "argument --epochs: must be a whole number from 1"),
        (["--method", "smart", "--mined-share", "0"], "argument --mined-share: must be a number above 0 and up to 1"),
        (["--method", "smart", "--target-error", "1"], "argument --target-error: must be a number between 0 and 1"),
        (["--method", "smart", "--lists", "hnsw"], "argument --lists: must be one of auto, exact, fanng, got 'hnsw'"),
        (["--method", "smart", "--neighbors", "2000"], "neighbors must be from 1 to 1024, got 2000"),
    ],
)
def test_bad_arguments_are_named(tmp_path, capsys, words, message):
    assert message in refused("--output", tmp_path, *words, capsys=capsys)
    assert not list(tmp_path.iterdir())


def test_lists_can_be_those_of_a_graph(tmp_path, capsys):
    assert run_main(*WORDS, "--lists", "fanng", "--output", tmp_path, capsys=capsys)[0] == 0
    rows = json.loads((tmp_path / "smart_results.json").read_text())["epochs"]
    assert [row["lists"] for row in rows if row["run"] == "smart"] == [None, None, "fanng", "fanng"]


def test_curves_are_refused_without_epochs(tmp_path):
    with pytest.raises(ValueError, match="results must hold at least one epoch, got none"):
        curves.plot_smart_mining([], 0.5, tmp_path / "curves.png")
    with pytest.raises(ValueError, match=r"path must end in \.png"):
        curves.plot_smart_mining([], 0.5, tmp_path / "curves.svg")
