"""The main job: the comparison itself, and the command line end to end."""

import csv
import dataclasses
import functools
import json
import math
import os
import signal
import subprocess
import sys

import pytest
import torch

import hardmine
from hardmine import train
from hardmine.__main__ import main
from hardmine.datasets import RetrievalSplit

for needed in ("sklearn", "matplotlib", "tqdm", "PIL"):
    pytest.importorskip(needed)

QUICK = dataclasses.replace(train.PRESETS["digits"], steps=30, verify_every=10)


@pytest.fixture(scope="module")
def split() -> RetrievalSplit:
    """Eight classes of 12 images: a bright square at a place of its own, and noise."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(8).repeat_interleave(12)
    images = 0.3 * torch.rand(96, 1, 8, 8, generator=generator)
    for image, label in zip(images, labels.tolist(), strict=True):
        row, column = divmod(label, 4)
        image[0, 4 * row : 4 * row + 3, 2 * column : 2 * column + 2] += 0.7
    return RetrievalSplit(images[:60], labels[:60], images[60:], labels[60:], "squares")


def compare(split: RetrievalSplit, **changes) -> train.Comparison:
    return train.Comparison(split, dataclasses.replace(QUICK, **changes), progress=False)


def test_training_separates_the_training_classes(split):
    result = compare(split, steps=200, max_turn_deg=0.0, embedding_dim=8).run("SCT")
    s_ap, s_an = result.triplets_before
    assert result.s_ap - result.s_an > (s_ap.mean() - s_an.mean()).item() + 0.3
    assert result.hard_share < 0.1
    assert result.recall_after > 0.5


def test_methods_start_alike_and_repeat_exactly(split):
    comparison = compare(split)
    first, other, again = comparison.run("SCT"), comparison.run("HN"), comparison.run("SCT")
    assert first.recall_before == other.recall_before
    assert torch.equal(first.triplets_before[0], other.triplets_before[0])
    assert not torch.equal(first.triplets_after[0], other.triplets_after[0])
    assert torch.equal(first.triplets_after[0], again.triplets_after[0])
    assert torch.equal(first.triplets_after[1], again.triplets_after[1])


def test_seeds_differ(split):
    first, other = compare(split, seed=0).run("SCT"), compare(split, seed=1).run("SCT")
    assert not torch.equal(first.triplets_before[0], other.triplets_before[0])


def test_a_seed_fixes_everything(split):
    torch.manual_seed(1)
    first = compare(split).run("SCT")
    torch.manual_seed(2)
    again = compare(split).run("SCT")
    assert torch.equal(first.triplets_before[0], again.triplets_before[0])
    assert torch.equal(first.triplets_after[0], again.triplets_after[0])
    assert first.recall_after == again.recall_after


def test_the_optimizer_is_sgd_without_momentum(split, monkeypatch):
    seen = []

    class Constant(torch.nn.Module):
        """Embeds every image as one parameter."""

        def __init__(self, image_size, embedding_dim, mean, std):
            super().__init__()
            self.embedding = torch.nn.Parameter(torch.ones(embedding_dim))

        def forward(self, images):
            return self.embedding.expand(len(images), -1)

    class Slope(torch.nn.Module):
        """A loss whose gradient is 1 in the first dimension, whatever the embeddings are."""

        def forward(self, embeddings, labels):
            seen.append(embeddings[0, 0].item())
            return embeddings[:, 0].mean()

    monkeypatch.setattr(train, "EmbeddingNet", Constant)
    monkeypatch.setitem(train.METHODS, "SCT", Slope)
    compare(split, steps=4, verify_every=0, lr=0.25).run("SCT")
    assert seen == pytest.approx([1, 0.75, 0.5, 0.25])


def test_the_losses_are_verified(split):
    result = compare(split, steps=40, verify_every=10).run("SHN")
    assert result.verified_calls == 4
    assert 0 <= result.largest_deviation < 1e-4
    unverified = compare(split, verify_every=0).run("SHN")
    assert unverified.verified_calls == 0
    assert unverified.largest_deviation is None


def test_measurements_are_of_the_probe(split):
    result = compare(split).run("SCT")
    s_ap, s_an = result.triplets_after
    assert len(s_ap) == train.PROBE_ANCHORS
    assert result.s_ap == s_ap.mean().item()
    assert result.s_an == s_an.mean().item()
    assert result.hard_share == (s_an > s_ap).double().mean().item()


def test_the_callers_random_numbers_stay(split):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    compare(split).run("HN")
    assert torch.equal(torch.rand(3), expected)


def test_divergence_stops_with_the_step(split, monkeypatch):
    class Diverging(torch.nn.Module):
        def forward(self, embeddings, labels):
            return embeddings.sum() * math.nan

    monkeypatch.setitem(train.METHODS, "SCT", Diverging)
    with pytest.raises(FloatingPointError, match=r"SCT: the loss is nan at step 1; lr 0\.1 may be too large"):
        compare(split, verify_every=0).run("SCT")


@pytest.mark.parametrize(("batch_size", "images_per_class"), [(9, 2), (2, 2), (4, 1), (12, 2)])
def test_impossible_batches_are_refused(split, batch_size, images_per_class):
    with pytest.raises(ValueError, match=r"batch_size must be a multiple|classes_per_batch must be at most 5"):
        compare(split, batch_size=batch_size, images_per_class=images_per_class)


def test_unknown_method_is_refused(split):
    with pytest.raises(ValueError, match="method must be one of HN, SHN, SCT, got 'XYZ'"):
        compare(split).run("XYZ")


def test_turn_is_about_the_center():
    images = torch.zeros(64, 1, 9, 9)
    images[:, :, 4, 7] = 1
    turned = train.turn(images, 180.0, torch.Generator().manual_seed(0))
    assert train.turn(images, 0.0, torch.Generator()) is images
    rows, columns = torch.meshgrid(torch.arange(9.0) - 4, torch.arange(9.0) - 4, indexing="ij")
    mass = turned.sum((1, 2, 3))
    center_row = (turned[:, 0] * rows).sum((1, 2)) / mass
    center_column = (turned[:, 0] * columns).sum((1, 2)) / mass
    assert torch.allclose(torch.hypot(center_row, center_column), torch.tensor(3.0), atol=0.2)
    assert center_column.min() < -2
    assert center_column.max() > 2


# The command line


def run_main(*words: object, capsys) -> tuple[int, str, str]:
    status = main(["train", *map(str, words)])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def refused(*words: object, capsys) -> str:
    with pytest.raises(SystemExit) as stop:
        main(["train", *map(str, words)])
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_end_to_end(tmp_path):
    output = tmp_path / "made" / "here"
    words = ["--steps", "30", "--verify-every", "10", "--output", output]
    command = [sys.executable, "-m", "hardmine", "train", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "step/s" in done.stderr, "no progress bar"
    table = done.stdout.splitlines()
    assert [line.split()[0] for line in table if line.startswith(("HN", "SHN", "SCT"))] == ["HN", "SHN", "SCT"]

    with (output / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    saved = json.loads((output / "results.json").read_text())
    assert [row["method"] for row in rows] == [row["method"] for row in saved["results"]] == ["HN", "SHN", "SCT"]
    assert saved["settings"]["steps"] == 30
    for row, line in zip(rows, (line for line in table if line.startswith(("HN", "SHN", "SCT"))), strict=True):
        assert line.split()[1:3] == [f"{float(row[name]):.3f}" for name in ("recall_before", "recall_after")]
        assert int(row["verified_calls"]) == 3
        assert 0 <= float(row["largest_deviation"]) < 1e-4
    assert (output / "triplet_diagram.png").read_bytes().startswith(b"\x89PNG")
    assert not list(output.glob("*.part"))


@pytest.mark.parametrize("finished", [0, 1])
def test_interrupt_keeps_the_finished_methods(tmp_path, capsys, monkeypatch, finished):
    run = train.Comparison.run

    def interrupted(comparison, method):
        if method == ["HN", "SCT"][finished]:
            raise KeyboardInterrupt
        return run(comparison, method)

    monkeypatch.setattr(train.Comparison, "run", interrupted)
    words = ("--methods", "HN,SCT", "--steps", 5, "--output", tmp_path)
    status, out, err = run_main(*words, capsys=capsys)
    assert status == 130
    assert f"interrupted: {finished} of 2 methods are finished and kept" in err
    assert ("HN" in out) == (finished == 1)
    files = {path.name for path in tmp_path.iterdir()}
    assert files == ({"results.csv", "results.json", "triplet_diagram.png"} if finished else set())


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT to send to one process")
def test_ctrl_c_while_training(tmp_path):
    words = ["--methods", "SCT", "--steps", "1000000", "--output", tmp_path]
    command = [sys.executable, "-m", "hardmine", "train", *words]
    # A job that a script started in the background passes on to its children that SIGINT is ignored.
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.PIPE, "bufsize": 0}
    with subprocess.Popen(command, preexec_fn=heed, **pipes) as process:
        seen = b""
        while b"step/s" not in seen:  # training is under way
            seen += process.stderr.read(256)
            assert process.poll() is None, seen.decode()
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"interrupted: 0 of 1 methods" in rest
    assert b"Traceback" not in rest


def test_results_are_there_before_the_last_method(tmp_path, capsys, monkeypatch):
    run, kept = train.Comparison.run, []

    def watched(comparison, method):
        if (tmp_path / "results.csv").exists():
            kept.append((tmp_path / "results.csv").read_text().count("\n") - 1)
        return run(comparison, method)

    monkeypatch.setattr(train.Comparison, "run", watched)
    assert run_main("--steps", 5, "--output", tmp_path, capsys=capsys)[0] == 0
    assert kept == [1, 2]


def test_divergence_keeps_the_finished_methods(tmp_path, capsys, monkeypatch):
    class Diverging(torch.nn.Module):
        def forward(self, embeddings, labels):
            return embeddings.sum() * math.nan

    monkeypatch.setitem(train.METHODS, "SCT", Diverging)
    words = ("--methods", "HN,SCT", "--steps", 5, "--verify-every", 0, "--output", tmp_path)
    status, out, err = run_main(*words, capsys=capsys)
    assert status == 1
    assert "SCT: the loss is nan at step 1" in err
    assert "not verified" in out
    assert (tmp_path / "results.csv").read_text().count("\n") == 2


def test_disagreement_with_the_reference_is_a_failure(tmp_path, capsys, monkeypatch):
    def disagree(comparison, method):
        raise hardmine.VerificationError("sct_loss disagrees with its reference")

    monkeypatch.setattr(train.Comparison, "run", disagree)
    status, out, err = run_main("--output", tmp_path, capsys=capsys)
    assert status == 1
    assert "hardmine train: sct_loss disagrees with its reference" in err
    assert not out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--steps", "0"], "argument --steps: must be a whole number from 1 to 2147483647, got '0'"),
        (["--steps", "many"], "argument --steps: must be a whole number from 1 to 2147483647, got 'many'"),
        (["--lr", "-1"], "argument --lr: must be a positive number, got '-1'"),
        (["--lr", "nan"], "argument --lr: must be a positive number, got 'nan'"),
        (["--seed", "1.5"], "argument --seed: must be a whole number from 0"),
        (["--verify-every", "-1"], "argument --verify-every: must be a whole number from 0"),
        (["--embedding-dim", "0"], "argument --embedding-dim: must be a whole number from 1"),
        (["--images-per-class", "1"], "argument --images-per-class: must be a whole number from 2"),
        (["--methods", "HN,XYZ"], "argument --methods: must be some of HN,SHN,SCT, each once, got 'HN,XYZ'"),
        (["--methods", "HN,HN"], "each once, got 'HN,HN'"),
        (["--methods", ""], "each once, got ''"),
        (["--data", "mnist"], "argument --data: invalid choice: 'mnist'"),
        (["--batch-size", "20"], "argument --batch-size: 20 images with --images-per-class 2 do not suit digits"),
        (["--batch-size", "9"], "argument --batch-size: 9 images with --images-per-class 2"),
        (["--root", "somewhere"], "argument --root: digits come with scikit-learn and need no folder"),
    ],
)
def test_bad_arguments_are_named(tmp_path, capsys, words, message):
    assert message in refused("--output", tmp_path, *words, capsys=capsys)
    assert not list(tmp_path.iterdir())


def test_output_that_cannot_be_written_is_said_before_training(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert "argument --output: cannot write into" in refused("--output", tmp_path / "file", capsys=capsys)
    assert "argument --output: cannot write into" in refused("--output", tmp_path / "file" / "in", capsys=capsys)


def test_omniglot_root(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("HARDMINE_DATA", raising=False)
    words = ("--data", "omniglot", "--output", tmp_path / "out")
    assert "argument --root: needed for --data omniglot" in refused(*words, capsys=capsys)
    assert "nowhere does not exist" in refused(*words, "--root", tmp_path / "nowhere", capsys=capsys)
    monkeypatch.setenv("HARDMINE_DATA", str(tmp_path / "elsewhere"))
    assert "elsewhere does not exist" in refused(*words, capsys=capsys)
    assert "nowhere does not exist" in refused(*words, "--root", tmp_path / "nowhere", capsys=capsys)


def test_omniglot_end_to_end(tmp_path, capsys):
    from PIL import Image

    generator = torch.Generator().manual_seed(0)
    for half, characters in {"images_background": 4, "images_evaluation": 3}.items():
        for character in range(characters):
            stroke = torch.rand(105, 105, generator=generator) > 0.9
            for drawing in range(4):
                path = tmp_path / half / "Letters" / f"character{character:02d}" / f"{drawing}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                paper = ~stroke.roll(drawing, 0)
                Image.fromarray((paper * 255).to(torch.uint8).numpy()).save(path)
    words = ("--data", "omniglot", "--root", tmp_path, "--batch-size", 8, "--steps", 3, "--output", tmp_path / "out")
    status, out, err = run_main(*words, "--methods", "SCT", capsys=capsys)
    assert status == 0
    assert "omniglot: 4 classes train, 3 others are retrieved; 3 steps of 8 images" in out
    assert "images_background" in err, "no progress bar while loading"


def test_a_missing_extra_is_named(monkeypatch):
    from hardmine._extras import require

    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.raises(ModuleNotFoundError, match=r"tqdm is not installed.*pip install 'hardmine\[train\]'"):
        require("tqdm")
