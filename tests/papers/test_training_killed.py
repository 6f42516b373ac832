"""`python -m papers train RECIPE` as a process: killed in mid-epoch, and resumed."""

import os
import signal
import subprocess
import sys
import time

import pytest

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
    return subprocess.Popen(
        [sys.executable, "-m", "papers", *command(*words)],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
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


@pytest.mark.subprocess
def test_train_ctrl_c_prints_resume_command(folder):
    process = start(folder, "run", "--checkpoint-steps", "1")
    wait_for_step(folder / "run/checkpoint.pt", process, 10)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    step = load_checkpoint(folder / "run/checkpoint.pt")["step"]
    assert f"interrupted: a checkpoint of epoch 1, step {step} is in run/checkpoint.pt" in errors
    line = next(line for line in errors.splitlines() if line.startswith("resume with: "))
    assert line.startswith("resume with: python -m papers train tiny.toml ")
    assert line.endswith("--output run --threads 1 --checkpoint-steps 1 --resume")
