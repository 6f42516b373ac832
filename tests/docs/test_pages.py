"""The code of README.md and of every page of the site runs as shown, each page from top to bottom."""

import ast
import re
from pathlib import Path

import pytest
import torch

from hardmine import losses

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LIBRARIES = {
    "coming-from-pml.md": ["pytorch_metric_learning"],
    "coming-from-sentence-transformers.md": ["sentence_transformers", "datasets", "open_clip"],
}
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]


@pytest.mark.parametrize("page", [page for page in PAGES if BLOCK.search(page.read_text())], ids=lambda page: page.name)
def test_pages_code_runs(page, tmp_path, monkeypatch):
    for library in LIBRARIES.get(page.name, ()):
        pytest.importorskip(library)
    monkeypatch.chdir(tmp_path)  # some pages save files
    torch.manual_seed(0)
    text, names = page.read_text(), {"__name__": "__main__"}
    for block in BLOCK.finditer(text):
        line = text.count("\n", 0, block.start(1))  # tracebacks then show the line of the page
        tree = ast.increment_lineno(ast.parse(block[1]), line)
        exec(compile(tree, str(page), "exec"), names)


def test_pages_with_code_are_found():
    with_code = {page.name for page in PAGES if BLOCK.search(page.read_text())}
    assert {"README.md", "index.md", "quickstart.md", "losses.md", "mining.md", "graph-index.md"} <= with_code


def test_readme_is_short_and_names_commands():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 120
    assert {"make demo", "make test"} <= {line.split("  ")[0] for line in lines}


@pytest.mark.parametrize("name", losses.__all__)
def test_reference_has_call_of_every_loss(name):
    """The reference leaves out private base classes unless a page names them."""
    owner = next(base for base in getattr(losses, name).__mro__ if "forward" in vars(base))
    page = (ROOT / "docs/api/losses.md").read_text()
    assert owner.__name__ in losses.__all__ or f"::: {owner.__module__}.{owner.__qualname__}.forward\n" in page
    assert re.search(rf"\b{name}\b", page)
