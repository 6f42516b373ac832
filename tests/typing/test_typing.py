"""What a type checker reports about the library itself, right user code and wrong user code."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.subprocess]

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def errors_in(*paths: Path) -> list[str]:
    """The errors that mypy reports: path:line: error: message.

    By default it checks the files named in pyproject.toml.
    """
    command = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", "--no-pretty", "--no-error-summary"]
    done = subprocess.run([*command, *map(str, paths)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return [line for line in done.stdout.splitlines() if ": error: " in line]


def test_mypy_library_and_user_code_pass():
    assert errors_in() == []


def test_mypy_each_marked_line_is_rejected():
    path = HERE / "rejected.py"
    lines = path.read_text().splitlines()
    expected = {number for number, line in enumerate(lines, 1) if line.endswith("# rejected")}
    assert len(expected) >= 20
    errors = errors_in(path)
    assert {int(re.search(r":(\d+): error", line)[1]) for line in errors} == expected, "\n".join(errors)
