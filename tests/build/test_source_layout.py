"""The folders of csrc carry rules: what their files may include. CMake builds each source and each C++ test once."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.ops import OPS, OPS_OF_BLOCKS, OPS_OF_PARTS, SOFT_OPS
from triplets import GIVEN

ROOT = Path(__file__).resolve().parents[2]
CSRC = ROOT / "csrc"
if not CSRC.exists():
    pytest.skip("not run from the source folder", allow_module_level=True)

# What the files of a folder may include: folders of csrc ("." holds the files directly in csrc) and packages.
# ops -> engine | kernels -> simd | gemm | device -> core, never up.
_CORE = {"core", "std"}
_CPU_ENGINE = {"cpu/engine", "cpu/simd", *_CORE}
_CUDA_KERNELS = {"cuda/kernels", "cuda/gemm", "cuda/device", *_CORE}
MAY_INCLUDE = {
    ".": {".", "torch", "posix", *_CORE},
    "core": _CORE,
    "cpu/ops": {"cpu/ops", ".", "torch", "posix", *_CPU_ENGINE},
    "cpu/engine": _CPU_ENGINE,
    "cpu/simd": {"cpu/simd", "intrinsics", *_CORE},
    "cuda/ops": {"cuda/ops", ".", "torch", *_CUDA_KERNELS},
    "cuda/kernels": _CUDA_KERNELS,
    "cuda/gemm": {"cuda/gemm", "cuda/device", *_CORE},
    "cuda/device": {"cuda/device", "cuda toolkit", "emulation", *_CORE},
    "fanng": {"fanng", *_CPU_ENGINE},
    "fanng/python": {"fanng/python", "fanng", "nanobind", *_CPU_ENGINE},
}
PACKAGES = {
    "torch": r"torch/.*",
    "nanobind": r"nanobind/.*",
    "posix": r"dlfcn\.h|pthread\.h|unistd\.h|sys/.*\.h",
    "intrinsics": r"immintrin\.h|arm_neon\.h",
    "cuda toolkit": r"cuda_\w+\.h",
    "std": r"\w+",
}
# Not below csrc: the emulation of a GPU that takes the place of the CUDA toolkit in tests, and the header with the
# vector types of a SIMD target, which CMake names.
OTHER_INCLUDES = {'"emulation.h"': "emulation", "HARDMINE_VEC_HEADER": "cpu/simd"}
# Headers of types, of constants, and of C functions that no object defines. Others have templates and inline functions,
# such as std::min, which could leave an out-of-line copy that uses the instructions of one SIMD target.
ALLOWED_IN_SIMD = {"cmath", "cstddef", "cstdint", "cstring", "limits", "type_traits"}


def sources(*suffixes: str) -> list[str]:
    """Files below csrc with these suffixes."""
    return sorted(str(path.relative_to(CSRC)) for path in CSRC.rglob("*") if path.suffix in suffixes)


def includes_of(file: str) -> list[str]:
    """What the file includes, with the quotes or brackets."""
    return re.findall(r"^\s*#\s*include\s+(\S+)", (CSRC / file).read_text(), re.MULTILINE)


def folder_of(file: str) -> str:
    """The key of MAY_INCLUDE that holds the file: csrc/core/losses follows the rules of csrc/core."""
    parent = f"{Path(file).parent}/"
    folders = [folder for folder in MAY_INCLUDE if parent.startswith(f"{folder}/")]
    assert folders, f"csrc/{file} is in a folder without rules"
    return max(folders, key=len)


def target_of(include: str) -> str:
    """The folder or package that an include refers to, or the empty string."""
    if include in OTHER_INCLUDES:
        return OTHER_INCLUDES[include]
    name = include[1:-1]
    if include[0] == '"':  # starts at csrc
        return folder_of(name) if (CSRC / name).is_file() and ".." not in name else ""
    return next((package for package, pattern in PACKAGES.items() if re.fullmatch(pattern, name)), "")


def problem_of(file: str, include: str) -> str | None:
    target = target_of(include)
    if not target:
        return f"csrc/{file}: {include} is neither a path from csrc nor a known package"
    if target not in MAY_INCLUDE[folder_of(file)]:
        return f"csrc/{file}: {folder_of(file)} must not include {target} ({include})"
    return None


def test_includes_of_every_folder_follow_its_rules():
    files = sources(".h", ".cpp", ".cu")
    assert {folder_of(file) for file in files} == set(MAY_INCLUDE)
    pairs = [(file, include) for file in files for include in includes_of(file)]
    assert not list(filter(None, (problem_of(*pair) for pair in pairs)))


@pytest.mark.parametrize(
    ("file", "include"),
    [
        ("cpu/engine/knn.cpp", "<torch/csrc/stable/tensor.h>"),
        ("cuda/kernels/knn.cu", '"op_arguments.h"'),  # includes torch itself
        ("core/errors.h", "<nanobind/nanobind.h>"),
        ("fanng/index.cpp", "<nanobind/nanobind.h>"),
        ("core/views.h", '"cpu/engine/knn.h"'),
        ("cpu/simd/kernels.cpp", '"cpu/engine/knn.h"'),
        ("cpu/engine/knn.cpp", '"cpu/ops/torch_bridge.h"'),
        ("cpu/engine/knn.cpp", '"fanng/index.h"'),
        ("cuda/gemm/packed_matrix.h", '"cuda/kernels/knn.h"'),
        ("cuda/device/launch.h", '"cuda/gemm/mma_policy.h"'),
        ("cuda/kernels/knn.cu", '"cpu/engine/knn.h"'),
        ("cpu/ops/knn.cpp", '"cuda/kernels/knn.h"'),
        ("fanng/index.h", '"fanng/python/python_threads.h"'),
        ("cpu/engine/knn.cpp", '"knn.h"'),
        ("cpu/engine/knn.cpp", '"../engine/knn.h"'),
        ("cpu/engine/knn.cpp", '"cpu/engine/../engine/knn.h"'),
        ("cpu/engine/knn.cpp", "<immintrin.h>"),
        ("cuda/kernels/knn.cu", "<cuda_fp16.h>"),
        ("core/errors.h", "<Python.h>"),
    ],
)
def test_includes_forbidden_one_is_found(file, include):
    assert (CSRC / file).is_file()
    assert problem_of(file, include)


def everything_included(files: list[str]) -> Iterator[tuple[str, str]]:
    """(file, include) for these files and everything below csrc that they include, directly or not."""
    pending, seen = list(files), set(files)
    while pending:
        file = pending.pop()
        for include in includes_of(file):
            yield file, include
            name = include.strip('"')
            if (CSRC / name).is_file() and name not in seen:
                seen.add(name)
                pending.append(name)


def test_includes_of_simd_code_define_no_out_of_line_functions():
    files = [file for file in sources(".h", ".cpp") if file.startswith("cpu/simd/")]
    found = [pair for pair in everything_included(files) if target_of(pair[1]) == "std"]
    assert {file.split("/")[0] for file, _ in found} == {"core", "cpu"}, "the headers of core are looked into"
    assert not [(file, include) for file, include in found if include[1:-1] not in ALLOWED_IN_SIMD]


def test_cmake_builds_every_source_once():
    text = re.sub(r"#.*", "", (ROOT / "CMakeLists.txt").read_text())
    commands = re.findall(r"\b(?:add_library|nanobind_add_module|set)\(\s*(\w+)([^)]*)\)", text)
    assert len(commands) > 5
    # The emulation of the tests registers the schemas a second time; it has no sources of its own in csrc.
    named = {target: re.findall(r"csrc/(\S+\.(?:cpp|cu))\b", rest) for target, rest in commands}
    assert named.pop("_C_emulated") == ["library.cpp"]
    count = Counter(file for files in named.values() for file in files)
    assert {file for file, times in count.items() if times > 1} == set()
    assert sorted(count) == sources(".cpp", ".cu")


@pytest.mark.parametrize("folder", ["cpp", "cuda"])
def test_cmake_builds_every_cpp_test_once(folder):
    tests = ROOT / "tests" / folder
    lists = re.findall(r"^set\(\w+_tests\s([^)]*)\)", (tests / "CMakeLists.txt").read_text(), re.MULTILINE)
    names = [name for names in lists for name in names.split()]
    assert sorted(f"test_{name}.cpp" for name in names) == sorted(path.name for path in tests.glob("test_*.cpp"))


@pytest.mark.parametrize("folder", ["cpp", "cuda"])
def test_cpp_tests_include_no_torch_and_their_own_headers_by_path(folder):
    """Paths start at csrc, tests/cpp or tests/cuda. Only one file needs torch: it stands in for an op of csrc/cpu."""
    tests = ROOT / "tests"
    for path in [*(tests / folder).rglob("*.h"), *(tests / folder).rglob("*.cpp")]:
        for include in re.findall(r"^#include\s+(\S+)", path.read_text(), re.MULTILINE):
            name = include.strip('"')
            assert not re.match(r"<(torch|nanobind|Python)", include) or path.name == "simd_level.cpp", (path, include)
            if include.startswith('"'):
                assert any((root / name).is_file() for root in (CSRC, tests / "cpp", tests / folder)), (path, include)
                assert ".." not in name, (path, include)


def test_ops_of_library_are_all_listed_for_tests():
    """An op that no list names would not be tested for what all ops promise."""
    declared = set(re.findall(r'm\.def\(\s*"(\w+)', (CSRC / "library.cpp").read_text()))
    alone = {*OPS_OF_PARTS, *OPS_OF_BLOCKS}
    assert alone <= declared
    declared -= alone
    forward = {name for name in declared if not name.endswith("_backward")}
    listed = {*OPS, *GIVEN} - {"sct_loss"}  # sct_loss calls the op triplet_loss
    listed |= set(SOFT_OPS) & declared
    # These have no face among the ops: they are tested as metrics.retrieval and metrics.recall_at_k.
    # test_all_positives.py tests the ops of all positives.
    all_positives = {"select_all_positives", "all_positives_triplet_loss"}
    # triplet_loss, sct_loss and tuplet_loss, reduced on a CPU: test_losses_with_gradients.py
    listed |= {"triplet_loss_with_gradients", "tuplet_loss_with_gradients"}
    listed.add("sigmoid_loss_with_gradients")  # test_sigmoid_loss.py
    assert forward == listed | all_positives | {"simd_level", "positive_ranks", "best_positive_ranks"}
    assert {name.removesuffix("_backward") for name in declared} == forward


PLACEHOLDERS = {"<op>": "knn", "<kernel>": "knn_block", "<target>": "avx2"}


def exists(path: str, *folders: Path) -> bool:
    path = re.sub(r"<\w+>", lambda match: PLACEHOLDERS[match[0]], path)
    return any((folder / path).exists() for folder in (CSRC, ROOT, *folders))


def test_readme_of_csrc_names_only_paths_that_exist():
    text = (CSRC / "README.md").read_text()
    named = re.findall(r"`([\w<>./-]+(?:/|\.(?:h|cpp|cu|py|txt)))`|\]\(\.\./([\w./]+)\)", text)
    # The README names torch/extension.h as a header that must not be included.
    paths = {code or link for code, link in named} - {"csrc/", "torch/extension.h"}
    assert len(paths) > 60
    assert not [path for path in paths if not exists(path)]


def test_comments_name_only_files_that_exist():
    """A file in a comment is a path from csrc or from the top folder, or lies beside the comment."""
    folders = [CSRC, ROOT / "tests" / "cpp", ROOT / "tests" / "cuda"]
    files = [path for folder in folders for path in folder.rglob("*") if path.suffix in (".h", ".cpp", ".cu")]
    named = [
        (file, name)
        for file in files
        for comment in re.findall(r"//.*", file.read_text())
        for name in re.findall(r"[\w<>./-]+\.(?:h|cpp|cu|py|txt|md)\b", comment.replace("//", " "))
    ]
    assert len(named) > 30
    assert not [(str(file), name) for file, name in named if not exists(name, file.parent)]


def test_test_files_have_unique_names():
    """Pytest imports test files by their base names: two of one name stop the collection of the whole suite."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
