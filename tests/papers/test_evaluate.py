"""`python -m papers evaluate RUN`: the scores of a trained network."""

import json

import pytest

import papers
from hardmine.metrics import retrieval
from hardmine.mining.embedding import embed_all
from papers.__main__ import main
from papers.training import load_data
from training_cases import usage_error

pytestmark = pytest.mark.slow

for needed in ("matplotlib", "safetensors", "scipy", "sklearn", "tqdm"):
    pytest.importorskip(needed)


def test_evaluate_scores_last_checkpoint(folder, capsys):
    assert main(["train", "tiny.toml", "evaluation.nmi=true", "--output", "run", "--threads", "1"]) == 0
    last = json.loads((folder / "run/result.json").read_text())["last"]
    capsys.readouterr()
    assert main(["evaluate", "run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    content = json.loads((folder / "run/evaluation.json").read_text())
    assert (content["epoch"], content["data"], content["recipe"]["seed"]) == (3, "digits", 3)
    scores = content["scores"]
    assert list(scores) == [
        *(f"recall_at_{k}" for k in (1, 2, 4, 8)), "nmi", "map_at_r", "r_precision", "map", "mrr"
    ]  # fmt: skip
    assert {name: scores[name] for name in list(scores)[:5]} == {name: last[name] for name in list(scores)[:5]}
    network, _, recipe, _ = papers.load("run")
    data = load_data(recipe, None, folder, progress=False)
    expected = retrieval(embed_all(network, data.query.images), data.query.labels, metrics=list(scores)[5:])
    assert {name: scores[name] for name in expected} == expected
    assert 0.2 < scores["map_at_r"] < scores["r_precision"] < 1
    assert lines[0] == "SHN on digits, epoch 3:"
    assert f"      map_at_r {scores['map_at_r']:.4f}" in lines
    assert lines[-1] == "saved evaluation.json in run"


def test_evaluate_embeddings_equal_those_of_training(folder, capsys):
    """The training wrote the file at its end, from the same network."""
    assert main(["train", "tiny.toml", "evaluation.embeddings=true", "--output", "run", "--threads", "1"]) == 0
    path = folder / "run/embeddings.safetensors"
    expected = path.read_bytes()
    path.unlink()
    assert main(["evaluate", "run"]) == 0
    assert not path.exists()
    assert main(["evaluate", "run", "--embeddings"]) == 0
    assert path.read_bytes() == expected
    assert capsys.readouterr().out.endswith("saved embeddings.safetensors and evaluation.json in run\n")


def test_evaluate_without_run_or_checkpoint_fails_with_one_line(folder, capsys):
    assert "arguments are required: RUN" in usage_error(capsys, "evaluate")
    assert main(["evaluate", "nowhere"]) == 1
    message = "papers evaluate: run must be the folder of a run, with checkpoint.pt, got 'nowhere'\n"
    assert capsys.readouterr().err == message
    assert not (folder / "nowhere").exists()
