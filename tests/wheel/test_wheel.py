"""The wheel that `make wheel` made: its tags, files and symbols, and that it works in a new environment.

`make test-wheel` builds the wheel and runs these tests; HARDMINE_WHEEL names the folder that holds it. HARDMINE_CUDA is
that of the build: on, off, or auto, with which the wheel may hold the CUDA ops or not.
"""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.skipif("HARDMINE_WHEEL" not in os.environ, reason="needs a wheel: make test-wheel")

ROOT = Path(__file__).parents[2]
SMOKE_TEST = Path(__file__).with_name("smoke_test.py")


@pytest.fixture(scope="module")
def wheel() -> Path:
    (path,) = Path(os.environ["HARDMINE_WHEEL"]).glob("*.whl")
    return path


@pytest.fixture(scope="module")
def unpacked(wheel, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def test_wheel_serves_every_python_and_linux(wheel):
    tags = wheel.stem.split("-", 2)[2]
    assert re.fullmatch(r"cp310-abi3-manylinux_2_\d+_\w+(\.manylinux_2_\d+_\w+)*", tags), tags


def test_wheel_holds_package_and_libraries_only(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"hardmine"}
    libraries = {name for name in names if ".so" in name}
    cuda = {"hardmine/_C_cuda.so"}
    choice = (os.environ.get("HARDMINE_CUDA") or "auto").lower()
    expected_cuda = {"on": cuda, "off": set(), "auto": libraries & cuda}[choice]
    assert libraries == {"hardmine/_C.so", "hardmine/_fanng.abi3.so"} | expected_cuda
    assert "hardmine/py.typed" in names
    python_files = {str(path.relative_to(ROOT)) for path in (ROOT / "hardmine").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == python_files


def undefined_symbols(library: Path) -> set[str]:
    """The symbols that a library takes from others, but for those of the C and C++ libraries, which are versioned."""
    table = subprocess.run(["nm", "-D", "--undefined-only", library], check=True, capture_output=True, text=True).stdout
    required = [line.split()[-1] for line in table.splitlines() if " U " in line]  # the others are weak
    return {symbol for symbol in required if not re.search(r"@|^_ZNK?St", symbol)}


def stable_symbols() -> str:
    """The headers that declare the C functions under the stable ABI of torch."""
    include = Path(torch.__path__[0]) / "include" / "torch" / "csrc"
    headers = [*include.glob("stable/c/*.h"), *include.glob("inductor/aoti_torch/c/*.h")]
    assert len(headers) >= 2
    return "\n".join(header.read_text() for header in headers)


@pytest.mark.parametrize("name", ["_C.so", "_C_cuda.so"])
def test_torch_library_uses_stable_symbols_only(name, unpacked):
    library = unpacked / "hardmine" / name
    if name == "_C_cuda.so" and not library.exists():
        pytest.skip("the wheel was built without the CUDA ops")
    symbols = undefined_symbols(library)
    assert "torch_call_dispatcher" in symbols, "nm found nothing"
    declared = set(re.findall(r"\w+", stable_symbols()))
    assert symbols <= declared, f"not in torch's stable ABI: {sorted(symbols - declared)}"


def test_audit_finds_unstable_symbol(tmp_path):
    source, library = tmp_path / "unstable.cpp", tmp_path / "unstable.so"
    source.write_text("namespace c10 { void warn(int); }\nvoid call() { c10::warn(1); }\n")
    subprocess.run(["c++", "-shared", "-fPIC", source, "-o", library], check=True)
    assert undefined_symbols(library) == {"_ZN3c104warnEi"}


def test_index_library_uses_stable_python_only(unpacked):
    library = unpacked / "hardmine" / "_fanng.abi3.so"
    command = [sys.executable, "-m", "abi3audit", "--strict", "--assume-minimum-abi3", "3.10", "--report", library]
    audit = subprocess.run(command, check=False, capture_output=True, text=True)
    assert audit.returncode == 0, audit.stdout + audit.stderr


def pythons() -> list[str]:
    """Interpreters at hand that have a torch for hardmine: this one, and those in HARDMINE_PYTHONS."""
    return [sys.executable, *os.environ.get("HARDMINE_PYTHONS", "").split()]


@pytest.mark.parametrize("python", pythons())
def test_wheel_works_in_new_environment_without_compiler(python, wheel, tmp_path):
    """The environment borrows torch and other packages of `python`, but not its hardmine."""
    environment = tmp_path / "environment"
    subprocess.run([python, "-m", "venv", environment], check=True)
    borrowed = subprocess.run(
        [python, "-c", "import pathlib, torch; print(pathlib.Path(torch.__path__[0]).parent)"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    (packages,) = environment.glob("lib/python*/site-packages")
    # A folder in a .pth file goes behind the environment's own packages, and its .pth files, such as that of an
    # editable hardmine, are not read.
    (packages / "borrowed.pth").write_text(borrowed + "\n")
    install = [environment / "bin" / "python", "-m", "pip", "install", "-q", "--no-index", "--no-deps", wheel]
    subprocess.run(install, check=True)
    shutil.copy(SMOKE_TEST, tmp_path)
    smoke_test = [environment / "bin" / "python", tmp_path / SMOKE_TEST.name]
    clean = {"PATH": str(environment / "bin"), "HOME": str(tmp_path)}
    done = subprocess.run(smoke_test, cwd=tmp_path, env=clean, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == str(packages / "hardmine"), done.stdout
