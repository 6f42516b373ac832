"""The table of docs/losses.md that says what each loss equals: every loss has a row, and every row a test."""

import re
from pathlib import Path

from hardmine import losses, ops

ROOT = Path(__file__).parents[2]
TABLE = (ROOT / "docs/losses.md").read_text().partition("## What each loss equals")[2].partition("\n## ")[0]
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in TABLE.splitlines() if line.startswith("|")][
    2:
]


def test_table_of_losses_has_every_loss():
    named = {name for row in ROWS for name in re.findall(r"`(\w+)", row[0])}
    assert named == set(losses.__all__) - {"CrossBatchMemory"}  # which takes any of them
    used = {name for row in ROWS for name in re.findall(r"`(\w+)`", row[2])}
    assert used == {name for name in ops.__all__ if name.endswith("_loss")}


def test_table_of_losses_names_tests_that_exist():
    assert len(ROWS) > 20
    for row in ROWS:
        path, function = row[4].strip("`").split("::")
        assert f"\ndef {function}(" in (ROOT / "tests" / path).read_text(), row
