"""The training of docs/distributed.md runs under torchrun, with the same losses for any number of processes."""

import re
from pathlib import Path

import pytest

from support.processes import output_of, run_python

PAGE = Path(__file__).parents[2] / "docs/distributed.md"
# torch's DDP on gloo sometimes aborts when Python tears it down on a busy machine ("terminate called without an active
# exception"), with or without hardmine. The processes therefore end without that.
EXIT = "import os, sys; sys.stdout.flush(); os._exit(0)"
LINE = re.compile(r"step (\d+): (\d+) of 32 images, loss (\d\.\d{4})")


def losses_of(script, processes):
    """The loss of every step, each on equally many images per rank."""
    run = ("-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node")
    steps = LINE.findall(output_of(run_python(*run, str(processes), str(script), GLOO_SOCKET_IFNAME="lo")))
    assert [int(step) for step, _, _ in steps] == list(range(12))
    assert {int(images) for _, images, _ in steps} == {32 // processes}
    return [float(loss) for _, _, loss in steps]


@pytest.mark.subprocess
def test_docs_training_has_losses_of_one_process(tmp_path):
    script = tmp_path / "train.py"
    example = re.search(r'^```py title="train.py"\n(.*?)^```$', PAGE.read_text(), re.DOTALL | re.MULTILINE)[1]
    script.write_text(example + EXIT)
    one, two = losses_of(script, 1), losses_of(script, 2)
    assert one[-1] < 0.9 * one[0]
    assert two == pytest.approx(one, abs=2e-4)
