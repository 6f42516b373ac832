"""The compiled library: errors if it is missing or broken, the choice of the SIMD level, the exports of the levels."""

import platform
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import setuptools

import hardmine
from support.processes import SIMD_LEVELS, output_of, run_python, simd_levels

PACKAGE = Path(hardmine.__file__).parent
OBJECTS = PACKAGE.parent / "build" / f"cmake-{platform.system()}-{platform.machine()}".lower() / "CMakeFiles"


@pytest.fixture
def package_copy(tmp_path):
    """A copy of the package without its compiled library."""
    copy = tmp_path / "hardmine"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    return copy


def import_errors(package_copy: Path) -> list[str]:
    """The ImportErrors of everything that needs the library, in a process that imports the copy."""
    script = f"""
import hardmine
assert hardmine.__file__.startswith({str(package_copy)!r}), hardmine.__file__
for statement in ("import hardmine.ops", "import hardmine.losses", "hardmine.simd_level()"):
    try:
        exec(statement)
    except ImportError as error:
        print(repr(str(error)))
"""
    errors = output_of(run_python("-c", script, package_root=package_copy.parent)).splitlines()
    assert len(errors) == 3
    return errors


HOW_TO_BUILD = "pip install --no-build-isolation ."


def test_import_missing_library_names_build_command(package_copy):
    for message in import_errors(package_copy):
        assert "is missing" in message
        assert str(package_copy / "_C.so") in message
        assert HOW_TO_BUILD in message


def test_import_missing_library_lists_subpackages_and_types(package_copy):
    script = "import hardmine; print(*dir(hardmine)); print(hardmine.types.Selection.__name__)"
    listed, name = output_of(run_python("-c", script, package_root=package_copy.parent)).splitlines()
    folders = {path.parent.name for path in package_copy.glob("*/__init__.py")}
    assert {*folders, "types"} <= set(listed.split())
    assert name == "Selection"


@pytest.mark.parametrize("content", [b"", b"not a library"], ids=["empty", "text"])
def test_import_unloadable_library_names_build_command(package_copy, content):
    (package_copy / "_C.so").write_bytes(content)
    for message in import_errors(package_copy):
        assert "cannot be loaded with torch" in message
        assert str(package_copy / "_C.so") in message
        assert HOW_TO_BUILD in message


# The graph index is a separate library


@pytest.fixture
def package_without_index(package_copy):
    """A copy of the package that lacks only the library of the graph index."""
    (package_copy / "_C.so").symlink_to(PACKAGE / "_C.so")
    return package_copy


@pytest.mark.subprocess
def test_ops_without_index_library_work(package_without_index):
    script = """
import torch, hardmine.ops, hardmine.losses
print(hardmine.ops.knn(torch.eye(3), k=1).index.tolist(), hardmine.ops.__file__)
"""
    output = output_of(run_python("-c", script, package_root=package_without_index.parent))
    assert output == f"[[1], [0], [0]] {package_without_index / 'ops' / '__init__.py'}"


@pytest.mark.subprocess
@pytest.mark.parametrize("content", [None, b"", b"not a library"], ids=["missing", "empty", "text"])
def test_fanng_without_its_library_names_build_command(package_without_index, content):
    if content is not None:
        name = next(PACKAGE.glob("_fanng*.so")).name
        (package_without_index / name).write_bytes(content)
    script = """
import sys
# The finder of an editable install would find the library of the original.
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in getattr(finder, "__module__", "").lower()]
try:
    import hardmine.fanng
except ImportError as error:
    print(error)
"""
    message = output_of(run_python("-c", script, package_root=package_without_index.parent))
    assert message.startswith("hardmine's compiled graph index cannot be imported: ")
    assert HOW_TO_BUILD in message


@pytest.mark.subprocess
def test_fanng_without_nanobind_backend_names_package_and_no_build():
    script = """
import sys
sys.modules["nanobind_backend"] = None  # as if it was not installed
try:
    import hardmine.fanng
except ImportError as error:
    print(error)
"""
    message = output_of(run_python("-c", script))
    assert message.startswith("hardmine's compiled graph index cannot be imported: ")
    assert "`pip install nanobind-backend`" in message
    assert HOW_TO_BUILD not in message
    assert ".." not in message


@pytest.mark.subprocess
def test_reference_without_library_works(package_copy):
    script = """
import torch, hardmine, hardmine.reference
x, y = torch.eye(4), torch.tensor([0, 0, 1, 1])
assert hardmine.reference.select_triplets(x, y).negative_index.tolist() == [2, 2, 0, 0]
with hardmine.verify() as report:
    pass
print(hardmine.__version__, hardmine.__file__, report)
"""
    output = output_of(run_python("-c", script, package_root=package_copy.parent))
    assert output.startswith(f"{hardmine.__version__} {package_copy}")
    assert output.endswith("nothing was checked (no op was called in eager mode)")


@pytest.mark.subprocess
def test_build_py_installs_every_module(tmp_path):
    """Editable installs and the tests import from the source folder, and would not notice a missing package."""
    root = PACKAGE.parent
    if not (root / "setup.py").exists():
        pytest.skip("not run from the source folder")
    subprocess.run(
        [sys.executable, "setup.py", "-q", "egg_info", "-e", tmp_path, "build_py", "--build-lib", tmp_path / "lib"],
        cwd=root,
        check=True,
        capture_output=True,
    )
    modules = {path.relative_to(root) for path in PACKAGE.rglob("*.py")}
    assert len(modules) > 20
    assert {path.relative_to(tmp_path / "lib") for path in (tmp_path / "lib").rglob("*.py")} == modules


# The build of the CUDA ops


def builder(monkeypatch, tmp_path, *, offers_cuda: bool, **environment: str):
    """setup.py's build command with a stand-in for CMake, and the command lines that the stand-in received."""
    script = PACKAGE.parent / "setup.py"
    if not script.exists():
        pytest.skip("not run from the source folder")
    made, lines = {}, []
    monkeypatch.delenv("HARDMINE_CUDA", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(setuptools, "setup", lambda **arguments: made.update(arguments))
    module = runpy.run_path(str(script))
    shared = module["CMakeBuild"].run.__globals__
    monkeypatch.setitem(shared, "BUILD", tmp_path / "cmake")
    monkeypatch.setitem(shared, "ROOT", tmp_path / "source")
    monkeypatch.setitem(shared, "tool", lambda name, attribute: name)

    def cmake(command, **options):
        lines.append(" ".join(map(str, command)))
        if command[-1] == "help":
            targets = "all: phony\n_C: phony\n" + "_C_cuda: phony\n" * offers_cuda
            return subprocess.CompletedProcess(command, 0, targets.encode())
        if "--build" in command:
            (tmp_path / "cmake").mkdir(exist_ok=True)
            files = {"_fanng": command_line.get_ext_filename("_fanng")}
            (tmp_path / "cmake" / files.get(command[-1], f"{command[-1]}.so")).write_text(command[-1])
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(shared["subprocess"], "run", cmake)
    distribution = setuptools.Distribution({"name": "hardmine", "ext_modules": made["ext_modules"]})
    command_line = made["cmdclass"]["build_ext"](distribution)
    command_line.build_lib, command_line.build_temp = str(tmp_path / "lib"), str(tmp_path / "temp")
    command_line.ensure_finalized()
    return command_line, lines


@pytest.mark.parametrize(
    ("choice", "handed"), [(None, "AUTO"), ("", "AUTO"), ("auto", "AUTO"), ("on", "ON"), ("OFF", "OFF")]
)
def test_build_ext_cuda_choice_reaches_cmake(choice, handed, monkeypatch, tmp_path):
    environment = {} if choice is None else {"HARDMINE_CUDA": choice}
    command, lines = builder(monkeypatch, tmp_path, offers_cuda=False, **environment)
    command.run()
    assert f" -DHARDMINE_CUDA={handed} " in lines[0]


def test_build_ext_unknown_cuda_choice_raises(monkeypatch, tmp_path):
    command, lines = builder(monkeypatch, tmp_path, offers_cuda=True, HARDMINE_CUDA="yes")
    with pytest.raises(SystemExit, match="HARDMINE_CUDA must be auto, on or off, got 'yes'"):
        command.run()
    assert not lines


@pytest.mark.parametrize("offers_cuda", [True, False], ids=["with", "without"])
def test_build_ext_packages_cuda_ops_only_if_built(offers_cuda, monkeypatch, tmp_path):
    command, lines = builder(monkeypatch, tmp_path, offers_cuda=offers_cuda)
    folder = tmp_path / "lib" / "hardmine"
    folder.mkdir(parents=True)
    (folder / "_C_cuda.so").write_text("of an earlier build")
    command.run()
    names = {"_C.so", command.get_ext_filename("_fanng")} | ({"_C_cuda.so"} if offers_cuda else set())
    assert {path.name for path in folder.iterdir()} == names
    assert {Path(path) for path in command.get_outputs()} == {folder / name for name in names}
    assert all((folder / name).read_text() != "of an earlier build" for name in names)
    assert any(line.endswith("--target _C_cuda") for line in lines) == offers_cuda


def test_build_ext_in_place_removes_stale_cuda_ops(monkeypatch, tmp_path):
    command, _ = builder(monkeypatch, tmp_path, offers_cuda=False)
    old = tmp_path / "source" / "hardmine" / "_C_cuda.so"
    old.parent.mkdir(parents=True)
    old.touch()
    command.inplace = True
    monkeypatch.setattr(command, "copy_extensions_to_source", lambda: None)
    command.run()
    assert not old.exists()


def test_build_ext_removes_stale_cmake_cache_keeps_objects(monkeypatch, tmp_path):
    command, lines = builder(monkeypatch, tmp_path, offers_cuda=False)
    cmake = tmp_path / "cmake"
    kept = cmake / "CMakeFiles" / "_C.dir" / "library.cpp.o"
    forgotten = [cmake / "CMakeCache.txt", cmake / "CMakeFiles" / "3.31.6" / "CMakeCXXCompiler.cmake"]
    for path in (kept, *forgotten):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    command.run()
    assert kept.exists()
    assert not any(path.exists() for path in forgotten)
    assert "--fresh" not in lines[0], "which CMake 3.22 does not know"


@pytest.fixture
def configure(tmp_path):
    """Run CMake's decision on the CUDA ops, for given releases of torch's CUDA and of nvcc; returns CMake's output."""
    script = PACKAGE.parent / "CMakeLists.txt"
    if not script.exists():
        pytest.skip("not run from the source folder")
    cmake = Path(pytest.importorskip("cmake").CMAKE_BIN_DIR) / "cmake"

    def run(choice: str, cuda_of_torch: str | None, nvcc: str | None) -> str:
        torch_folder = tmp_path / "torch"
        torch_folder.mkdir()
        (torch_folder / "version.py").write_text(f"cuda: Optional[str] = {cuda_of_torch!r}\n")
        compiler = tmp_path / "nvcc"
        if nvcc is not None:
            compiler.write_text(f"#!/bin/sh\necho Cuda compilation tools, release {nvcc}, V{nvcc}.99\n")
            compiler.chmod(0o755)
        # Only the part of the script that decides.
        text = script.read_text()
        start, end = (
            text.index("# Sets `problem` to the reason why _C_cuda"),
            text.index("if(hardmine_builds_cuda)\n  enable_language"),
        )
        (tmp_path / "decide.cmake").write_text(
            f"""
set(HARDMINE_TORCH ON)
set(HARDMINE_CUDA {choice})
set(HARDMINE_TORCH_DIR "{torch_folder}")
# What check_language would find, which is not known to a script.
function(check_language)
  set(CMAKE_CUDA_COMPILER "{compiler if nvcc else "NOTFOUND"}" CACHE FILEPATH "")
endfunction()
macro(include)
endmacro()
{text[start:end]}
"""
        )
        done = subprocess.run([cmake, "-P", tmp_path / "decide.cmake"], capture_output=True, text=True, check=False)
        return " ".join((done.stdout + done.stderr).split())

    return run


@pytest.mark.parametrize(
    ("choice", "cuda_of_torch", "nvcc", "said"),
    [
        ("AUTO", "13.0", "13.0", "CUDA ops: built"),
        ("AUTO", "12.8", "12.0", "CUDA ops: built"),
        ("AUTO", None, "13.0", "CUDA ops: not built, torch was built without CUDA"),
        ("AUTO", "13.0", None, "CUDA ops: not built, no working nvcc was found"),
        ("AUTO", "13.0", "11.8", "CUDA ops: not built, nvcc 11.8 is too old; 12.0 or later is needed"),
        ("AUTO", "12.8", "13.0", "CUDA ops: not built, nvcc has CUDA 13, torch has CUDA 12"),
        ("OFF", "13.0", "13.0", "CUDA ops: not built, HARDMINE_CUDA is OFF"),
        ("ON", None, "13.0", "CUDA ops: built"),
        ("ON", "12.8", "13.0", "CUDA ops: built"),
        ("ON", "13.0", None, "HARDMINE_CUDA is ON, but the CUDA ops cannot be built: no working nvcc was found"),
        ("ON", "13.0", "11.8", "HARDMINE_CUDA is ON, but the CUDA ops cannot be built: nvcc 11.8 is too old"),
    ],
)
def test_cmake_cuda_ops_are_built_if_possible(choice, cuda_of_torch, nvcc, said, configure):
    assert said in configure(choice, cuda_of_torch, nvcc)


@pytest.mark.parametrize("choice", ["AUTO", "ON"])
def test_cmake_old_version_builds_no_cuda_ops(choice, configure, monkeypatch):
    old = "CMake 3.25.1 does not support C++20 for CUDA; 3.26 or later is needed"
    said = configure(f"{choice})\nset(CMAKE_VERSION 3.25.1", "13.0", "13.0")
    assert (f"CUDA ops: not built, {old}" if choice == "AUTO" else f"cannot be built: {old}") in said


# The SIMD level

LARGE_STEP = """
import torch
from hardmine import ops
torch.set_num_threads(4)
try:
    ops.triplet_loss(torch.randn(ROWS, 64), torch.arange(ROWS) % 50)
except RuntimeError as error:
    print(error)
"""


def current_simd_level(**environment: str) -> str:
    return output_of(run_python("-c", "import hardmine; print(hardmine.simd_level())", **environment))


@pytest.mark.subprocess
def test_simd_level_environment_variable_chooses_level():
    assert [current_simd_level(HARDMINE_SIMD=level) for level in simd_levels()] == list(simd_levels())
    best = simd_levels()[-1]
    assert current_simd_level() == current_simd_level(HARDMINE_SIMD="") == best


@pytest.mark.subprocess
@pytest.mark.parametrize("rows", [8, 20_000], ids=["one thread", "many threads"])
def test_simd_level_unknown_raises_in_first_op(rows):
    names = ", ".join(f"'{level}'" for level in simd_levels())
    message = f"HARDMINE_SIMD must be one of {names} on this CPU, got 'sse9'"
    script = LARGE_STEP.replace("ROWS", str(rows))
    assert message in output_of(run_python("-c", script, HARDMINE_SIMD="sse9"))


@pytest.mark.subprocess
def test_simd_level_unknown_raises_in_simd_level():
    process = run_python("-c", "import hardmine; hardmine.simd_level()", HARDMINE_SIMD="AVX2")
    assert process.returncode == 1, "an exception, no abort"
    assert re.search(r"RuntimeError: HARDMINE_SIMD must be one of '.*' on this CPU, got 'AVX2'", process.stderr)


# The exports of the levels


@pytest.mark.subprocess
@pytest.mark.parametrize("level", SIMD_LEVELS)
def test_simd_objects_export_only_their_kernel_tables(level):
    """Everything that a level's object defines lies in the level's namespace.

    Other symbols, such as an out-of-line copy of an inline function of the standard library, would have duplicates in
    other objects. The linker keeps one duplicate. If the one it keeps belongs to a level, CPUs without that level crash
    in unrelated code.
    """
    nm = shutil.which("nm")
    if nm is None:
        pytest.skip("nm is not installed")
    objects = list((OBJECTS / f"hardmine_{level}.dir").rglob("kernels.cpp.o"))
    if not objects:
        pytest.skip(f"no object of this level under {OBJECTS}: not built from source, or for another CPU")
    listing = subprocess.run([nm, "-C", "--defined-only", *objects], capture_output=True, text=True, check=True).stdout
    symbols = re.findall(r"^[0-9a-f]* +(\w) (.+)$", listing, re.MULTILINE)
    exported = [name for kind, name in symbols if kind.isupper() or kind == "u"]
    assert any(f"hardmine::cpu::{level}::kernel_table<" in name for name in exported)
    foreign = [name for name in exported if f"hardmine::cpu::{level}::" not in name]
    assert not foreign
