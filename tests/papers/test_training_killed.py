"""`python -m papers train RECIPE` as a process: killed in mid-epoch, and resumed."""

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from image_trees import require_torchvision, write_image
from papers.__main__ import main
from papers.training import read_result
from papers.training.checkpoint import load_checkpoint
from training_cases import (
    equal_states,
    final_state,
)

pytestmark = pytest.mark.slow

for needed in ("matplotlib", "sklearn", "tqdm"):
    pytest.importorskip(needed)
if sys.version_info < (3, 11):
    pytest.importorskip("tomli")

LONG = ["sampler.batches_per_epoch=40", "sampler.images_per_class=5", "schedule.epochs=3"]
LONG += ["loss={name='Triplet', positive='random'}"]


def command(folder, *words):
    return ["train", "tiny.toml", *LONG, "--output", folder, "--threads", "1", *words]


def start(folder, *words):
    return start_process(folder, command(*words))


def start_process(folder, words, **options):
    environment = Path(__file__).parents[1] / "environment"
    return subprocess.Popen(
        [sys.executable, "-m", "papers", *words],
        cwd=folder,
        **options,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(environment), *sys.path])},
    )


def wait_for_step(path, process, step, tries=60_000):
    """Wait until a checkpoint has this step or a later one."""
    for _ in range(tries):
        assert process.poll() is None, process.communicate()
        if path.exists() and load_checkpoint(path)["step"] >= step:
            return
        # No event signals that another process has written a file. The tests assert on the step, never on the time.
        time.sleep(0.01)
    raise AssertionError(f"{path} is not of step {step} or a later one after {tries} looks, 0.01 s apart")


@pytest.mark.subprocess
def test_train_killed_within_epoch_resumes_bit_for_bit(folder):
    killed = start(folder, "killed", "--checkpoint-steps", "1")
    wait_for_step(folder / "killed/checkpoint.pt", killed, 45)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    step = load_checkpoint(folder / "killed/checkpoint.pt")["step"]
    assert 45 <= step < 80, "the test must kill it within the second epoch"
    assert not (folder / "killed/result.json").exists()
    assert main(command("killed", "--resume")) == 0
    assert main(command("whole")) == 0
    assert equal_states(final_state(folder / "whole"), final_state(folder / "killed"))
    assert (folder / "whole/epochs.csv").read_bytes() == (folder / "killed/epochs.csv").read_bytes()
    first, second = (read_result(folder / name) for name in ("whole", "killed"))
    assert first["verified"] == second["verified"]


IMAGES = """\
data = { name = "folder", size = 16, padding = 2 }
network = { backbone = "resnet18", weights = "random", embedding_dim = 4 }
sampler = { kind = "class_balanced", batch_size = 4, images_per_class = 2, batches_per_epoch = 3 }
loss.name = "SCT"
optimizer.lr = 0.1
schedule.epochs = 1000
"""


@pytest.mark.subprocess
@pytest.mark.parametrize(("number", "delay"), [(signal.SIGTERM, 0), (signal.SIGTERM, 0.2), (signal.SIGINT, 0.1)])
def test_train_signal_to_group_with_workers_writes_checkpoint(folder, number, delay):
    require_torchvision()
    for part, name, image in itertools.product(("train", "test"), "ab", range(3)):
        write_image(folder / f"images/{part}/{name}/{image}.png", (60 * image, 100 if name == "a" else 0, 0))
    (folder / "images.toml").write_text(IMAGES)
    words = ["train", "images.toml", "--data", "images", "--output", "run", "--threads", "1", "--workers", "2"]
    process = start_process(folder, words, start_new_session=True)
    wait_for_step(folder / "run/checkpoint.pt", process, 3)
    time.sleep(delay)  # a different part of an epoch: training, evaluation, or the start of workers
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130, errors
    lines = [line for line in errors.splitlines() if "train:" not in line]
    assert [line.partition(":")[0] for line in lines[-2:]] == ["interrupted", "resume with"]
    assert "Traceback" not in errors
    assert "a checkpoint of epoch" in errors


@pytest.mark.subprocess
def test_train_sigterm_before_training_ends_with_one_line(folder, capsys, monkeypatch):
    monkeypatch.setattr("papers.training.load_data", lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    assert main(command("run")) == 130
    assert capsys.readouterr().err == "interrupted\n"
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.subprocess
def test_train_ctrl_c_prints_resume_command(folder):
    process = start(folder, "run", "--checkpoint-steps", "1")
    wait_for_step(folder / "run/checkpoint.pt", process, 10)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130
    step = load_checkpoint(folder / "run/checkpoint.pt")["step"]
    assert f"interrupted: a checkpoint of epoch 1, step {step} is in run/checkpoint.pt" in errors
    line = next(line for line in errors.splitlines() if line.startswith("resume with: "))
    assert line.startswith("resume with: python -m papers train tiny.toml ")
    assert line.endswith("--output run --threads 1 --checkpoint-steps 1 --resume")
