"""Every example runs from start to end and shows what it promises."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from support.processes import output_of, run_python

EXAMPLES = Path(__file__).parents[2] / "examples"
MAX_LINES = 150
UNTRAINED = 0.315  # Recall@1 of the untrained network on rotated digits

pytestmark = [pytest.mark.slow, pytest.mark.subprocess]


def run(name, folder, *arguments, warnings="error"):
    """The output of an example, run in a separate process from another folder."""
    command = [sys.executable, "-W", warnings, str(EXAMPLES / name), *map(str, arguments)]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def recalls(text):
    return [float(share) for share in re.findall(r"Recall@1 (\d\.\d{3})", text)]


def test_digits_compares_three_losses_and_draws_triplets(tmp_path):
    diagram = tmp_path / "pictures" / "triplets.png"
    text = run("digits.py", tmp_path, "--output", diagram)
    rows = [line.split() for line in text.splitlines() if line.startswith(("HN ", "SHN ", "SCT "))]
    table = {method: [float(cell.removesuffix("%")) for cell in cells] for method, *cells in rows}
    assert list(table) == ["HN", "SHN", "SCT"]
    before, after, s_ap, s_an, hard, deviation = zip(*table.values(), strict=True)
    assert len(set(before)) == 1  # equal weights at the start
    assert 0 < before[0] < min(after)
    assert after[2] > max(after[:2])
    assert s_an[0] == max(s_an)
    assert s_an[0] > 0.8  # HN pulls everything together
    assert s_ap[2] == min(s_ap)  # SCT does not pull the positives of hard triplets
    assert 0 <= min(hard) <= max(hard) <= 100
    assert 0 < min(deviation) <= max(deviation) < 1e-4
    assert "60 of 1500 loss calls were verified against the reference" in text
    assert diagram.read_bytes().startswith(b"\x89PNG")


def test_training_loop_improves_recall_of_unseen_classes(tmp_path):
    before, *after = recalls(run("training_loop.py", tmp_path))
    assert before == pytest.approx(UNTRAINED, abs=0.01)
    assert len(after) == 5
    assert after[-1] > 0.45


def test_memory_bank_trains_with_and_without_memory(tmp_path):
    alone, memory = recalls(run("memory_bank.py", tmp_path))
    assert alone > 0.36
    assert memory > 0.40
    assert memory != alone


def test_smart_mining_beats_random_triplets(tmp_path):
    lines = run("smart_mining.py", tmp_path).splitlines()
    cells = [re.sub(r"[|%]", " ", line).split() for line in lines if re.match(r"\s+\d", line)]
    assert [row[0] for row in cells] == [str(number) for number in range(1, 9)]
    mined_share, kappa, _, recall, random_share, no_kappa, _, random_recall = zip(
        *(row[1:] for row in cells), strict=True
    )
    assert mined_share == ("0", "0", *["100"] * 6)
    assert set(random_share) == {"0"}
    assert kappa[:2] == ("-", "-")
    assert all(float(each) >= 1 for each in kappa[2:])
    assert set(no_kappa) == {"-"} or all(float(each) >= 1 for each in no_kappa[2:])
    assert recall[:2] == random_recall[:2]  # the first two epochs are random, so both runs begin alike

    def late(recalls):
        return sum(map(float, recalls[3:]))

    assert late(recall) > late(random_recall)


def test_hierarchical_improves_recall_and_prints_tree(tmp_path):
    text = run("hierarchical.py", tmp_path)
    before, *after = recalls(text)
    assert before == pytest.approx(UNTRAINED, abs=0.01)
    assert max(after) > 0.38
    margins = [tuple(map(float, pair)) for pair in re.findall(r"margins (-?\d\.\d\d) to (-?\d\.\d\d)", text)]
    assert len(margins) == len(after) == 6
    table = [list(map(int, line.split())) for line in text.splitlines()[-5:]]
    digits, levels = [row[0] for row in table], [row[1:] for row in table]
    assert digits == [0, 2, 4, 6, 8]
    assert levels == [list(row) for row in zip(*levels, strict=True)]  # symmetric
    assert all(levels[k][k] == 0 for k in range(5))


def test_from_pml_prints_the_losses_of_pml(tmp_path):
    pytest.importorskip("pytorch_metric_learning")
    own, pml = (
        [line for line in run("from_pml.py", tmp_path, *flags).splitlines() if line.startswith("epoch")]
        for flags in ((), ("--pml",))
    )
    assert len(own) == 3
    assert own == pml
    accuracy = [float(line.rpartition(" ")[2]) for line in own]
    assert accuracy[-1] > accuracy[0] > UNTRAINED


def test_from_sentence_transformers_prints_the_losses_of_sentence_transformers(tmp_path):
    pytest.importorskip("datasets")
    own, theirs = (
        [line for line in output.splitlines() if "Recall@1" in line]
        for flags in ((), ("--theirs",))
        for output in [run("from_sentence_transformers.py", tmp_path, *flags)]
    )
    assert len(own) == 3
    assert own == theirs
    before, trained, mined = recalls("\n".join(own))
    assert before < 0.05
    assert trained > 0.8
    assert mined > 0.9


def test_lightning_training_improves_recall_of_unseen_classes(tmp_path):
    if importlib.util.find_spec("lightning") is None:
        pytest.skip("lightning is not installed")
    before, *after = recalls(run("lightning_training.py", tmp_path, warnings="default"))
    assert before == pytest.approx(UNTRAINED, abs=0.01)
    assert len(after) == 5
    assert after[-1] > 0.45


def test_accelerate_training_improves_recall_of_unseen_classes(tmp_path):
    pytest.importorskip("accelerate")
    after = recalls(run("accelerate_training.py", tmp_path))
    assert len(after) == 5
    assert after[-1] > 0.45


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_examples_are_short_and_listed(path):
    assert len(path.read_text().splitlines()) <= MAX_LINES
    assert f"`{path.name}`" in (EXAMPLES / "README.md").read_text()
    assert (
        path.stem == "common"
        or f" {path.stem}"
        in re.search(r"^EXAMPLES :=.*$", (EXAMPLES.parent / "Makefile").read_text(), re.MULTILINE).group()
    )


def test_ddp_weights_equal_those_of_one_process(tmp_path):
    weights, texts = [], []
    for processes in (1, 2):
        # torch's DDP on gloo sometimes aborts when Python tears it down, so the processes end without that.
        script = tmp_path / f"ddp{processes}.py"
        script.write_text(
            f"import os, runpy, sys\nsys.path.insert(0, {str(EXAMPLES)!r})\n"
            f"runpy.run_path({str(EXAMPLES / 'ddp.py')!r}, run_name='__main__')\nsys.stdout.flush()\nos._exit(0)\n"
        )
        file = tmp_path / f"{processes}.pt"
        launch = ("-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node")
        command = (*launch, str(processes), str(script), "--double", "--epochs", "1", "--weights", str(file))
        texts.append(output_of(run_python(*command, GLOO_SOCKET_IFNAME="lo")))
        weights.append(torch.load(file))
    one, two = weights
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=0, atol=1e-8)
    assert recalls(texts[1]) == recalls(texts[0])
    assert recalls(texts[0])[0] > 0.45
