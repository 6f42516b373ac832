"""The example of rings and the tables of the model in docs/distributed.md are what their programs print."""

import re
import sys
from pathlib import Path

import pytest

from support.processes import output_of, run_python

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/distributed.md").read_text()
EXIT = "import os, sys; sys.stdout.flush(); os._exit(0)"  # see test_docs_example.py


@pytest.mark.subprocess
def test_docs_ring_has_same_loss_on_every_rank(tmp_path):
    script = tmp_path / "ring.py"
    example = re.search(r'^```py title="ring.py"\n(.*?)^```$', PAGE, re.DOTALL | re.MULTILINE)[1]
    script.write_text(example + EXIT)
    run = ("-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", "2")
    output = output_of(run_python(*run, str(script), GLOO_SOCKET_IFNAME="lo"))
    found = sorted(re.findall(r"rank (\d): loss (\d\.\d{4}), negatives among rows 0 to 199", output))
    assert [rank for rank, _ in found] == ["0", "1"]
    assert found[0][1] == found[1][1]


def test_docs_has_tables_of_the_model(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    import ranks_model

    assert len(ranks_model.tables()) == 4
    for table in ranks_model.tables():
        assert f"\n{table}\n" in PAGE
    machine = ranks_model.Machine()
    assert f"{ranks_model.anchors_to_hide(machine.network, machine) / 2:,.0f} anchors hide it" in PAGE
    del sys.modules["ranks_model"]
