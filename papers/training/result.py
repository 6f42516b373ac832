"""The result of a run, `result.json`: the settings, the scores, and the largest deviations of the ops."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import hardmine
from papers._files import save_json
from papers.recipes import Recipe
from papers.training.data import TrainingData

FILE = "result.json"


def make_result(
    recipe: Recipe,
    data: TrainingData,
    rows: list[dict[str, Any]],
    report: hardmine.Report | None,
    verify_every: int,
) -> dict[str, Any]:
    """The result of a finished run.

    Returns:
        `recipe` (name and all settings), `data`, `versions`, `epochs` (one row per epoch, the first from before
        training), `best` and `last` (the rows of the highest Recall@1 and of the end), and `verified`. `verified` has
        calls, checks and largest deviations by op and quantity, and the largest of all (`largest_deviation`, None if
        nothing was verified).
    """
    scored = [row for row in rows if "recall_at_1" in row]
    verified: dict[str, Any] = {"every": verify_every, "largest_deviation": None, "ops": {}}
    if report is not None and report.checks:
        verified["largest_deviation"] = report.largest_deviation
        verified["ops"] = {name: dict(vars(op)) for name, op in report.ops.items()}
    return {
        "name": recipe.name,
        "title": recipe.title,
        "seed": recipe.seed,
        "recipe": recipe.as_dict(),
        "data": {
            "name": data.name,
            "fingerprint": data.fingerprint,
            "train": _sizes(data.train.labels),
            "query": _sizes(data.query.labels),
            "gallery": _sizes(data.gallery.labels),
            "notes": list(data.notes),
        },
        "versions": {"hardmine": hardmine.__version__, "commit": _commit(), "torch": torch.__version__},
        "threads": torch.get_num_threads(),
        "epochs": rows,
        "best": max(scored, key=lambda row: row["recall_at_1"]),
        "last": rows[-1],
        "verified": verified,
    }


def save_result(folder: Path, content: Mapping[str, Any]) -> None:
    """Write `result.json` atomically."""
    save_json(folder / FILE, content)


def read_result(folder: Path, name: str = FILE) -> dict[str, Any] | None:
    """The result in a folder; None if it has no finished run.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file is damaged, or not a result.
    """
    path = folder / name
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}; delete it to repeat the run") from error
    if not isinstance(content, dict) or "recipe" not in content:
        raise ValueError(f"{path} must be the result of a run, got other content; delete it to repeat the run")
    return content


def _sizes(labels: torch.Tensor) -> dict[str, int]:
    return {"images": len(labels), "classes": len(labels.unique())}


def _commit() -> str | None:
    """The commit of a checkout; None for an installed package."""
    folder = Path(__file__).parent
    if not (folder.parent / ".git").exists():
        return None
    done = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=folder, capture_output=True, text=True)
    return done.stdout.strip() or None
