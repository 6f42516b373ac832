"""The optional library of CUDA ops: errors for CUDA tensors; CPU users never notice it. Needs no GPU."""

import shutil
from pathlib import Path

import pytest
import torch
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import hardmine
from hardmine import _library, ops
from support.ops import OPS
from support.processes import output_of, run_python

PACKAGE = Path(hardmine.__file__).parent
LABELS = [0, 0, 1, 1]


@pytest.fixture(autouse=True)
def clear_caches():
    """The cached state of the library and of GPUs is cleared before and after each test."""
    _library._cuda_library_problem.cache_clear()
    _library._cuda_device_problem.cache_clear()
    yield
    _library._cuda_library_problem.cache_clear()
    _library._cuda_device_problem.cache_clear()


@pytest.fixture
def library_file(tmp_path, monkeypatch):
    """The path at which the library is expected, in an empty folder."""
    monkeypatch.setattr(_library, "__file__", str(tmp_path / "_library.py"))
    return tmp_path / "_C_cuda.so"


@pytest.fixture
def loaded(library_file, monkeypatch):
    """A library that loads; yields the paths that were loaded."""
    paths = []
    monkeypatch.setattr(torch.ops, "load_library", paths.append)
    library_file.touch()
    return paths


@pytest.fixture
def gpus(monkeypatch):
    """Two GPUs, one too old; yields the indices whose capability was requested."""
    asked = []

    def capability(index):
        asked.append(index)
        return {0: (9, 0), 1: (7, 5)}[index]

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    # torch creates a tensor there; versions without this function do not need it.
    monkeypatch.setattr(fake_tensor, "init_gpu_context", lambda device: None, raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"GPU {index}")
    return asked


def call(name: str, device: str, **options):
    """Call the op on a stand-in for tensors of a device."""
    with FakeTensorMode():
        x, labels = torch.empty(4, 3, device=device), torch.empty(4, dtype=torch.int64, device=device)
        if name == "knn":
            return ops.knn(x, k=1)
        if name in ("indexed_triplet_loss", "global_loss"):
            return getattr(ops, name)(x, torch.empty(2, 3, dtype=torch.int64, device=device))
        return getattr(ops, name)(x, labels, **options)


EVERY_OP = (*OPS, "indexed_triplet_loss", "global_loss")


@pytest.mark.parametrize("name", EVERY_OP)
def test_op_cuda_library_not_built_raises(name, library_file):
    with pytest.raises(RuntimeError) as caught:
        call(name, "cuda:0")
    argument = "queries" if name == "knn" else "embeddings"
    assert str(caught.value).startswith(
        f"{argument} must be on the CPU, got cuda:0: CUDA tensors need hardmine's CUDA ops, "
        f"which are not built: there is no {library_file}. "
    )
    assert "HARDMINE_CUDA=on pip install --no-build-isolation ." in str(caught.value)


@pytest.mark.parametrize("name", EVERY_OP)
def test_op_unsupported_device_raises(name):
    argument = "queries" if name == "knn" else "embeddings"
    with pytest.raises(NotImplementedError, match=f"^{argument} must be on the CPU or on a CUDA device, got xpu:0$"):
        call(name, "xpu:0")


@pytest.mark.parametrize("content", [b"", b"not a library"], ids=["empty", "text"])
def test_op_broken_cuda_library_raises_loader_message(content, library_file):
    library_file.write_bytes(content)
    with pytest.raises(RuntimeError) as caught:
        call("sct_loss", "cuda:0")
    message = str(caught.value)
    assert f"which failed to load with torch {torch.__version__}, from {library_file}: " in message
    assert "file too short" in message or "invalid ELF header" in message
    assert "HARDMINE_CUDA=on" in message


def test_cuda_library_any_load_error_is_kept_for_cuda_tensors(library_file, monkeypatch):
    library_file.touch()
    calls = []

    def fail(path):
        calls.append(path)
        raise MemoryError("no room")

    monkeypatch.setattr(torch.ops, "load_library", fail)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="no room"):
            call("knn", "cuda:0")
    assert calls == [library_file]


def test_op_refs_on_other_device_raises(library_file):
    with FakeTensorMode():
        x, y = torch.empty(4, 3), torch.empty(4, dtype=torch.int64)
        with pytest.raises(ValueError, match="ref_embeddings must be on the device of embeddings, cpu, got cuda:0"):
            ops.sct_loss(x, y, x.to("cuda:0"), y)
        with pytest.raises(ValueError, match="labels must be on the device of the embeddings, cpu, got cuda:0"):
            ops.sct_loss(x, y.to("cuda:0"))


# Where the library loads


def test_cuda_library_loads_once_without_problem(loaded, library_file, gpus):
    assert call("sct_loss", "cuda:0").device == torch.device("cuda:0")
    call("triplet_loss", "cuda:0")
    assert loaded == [library_file]


def test_cuda_problem_old_gpu_names_needed_capability(loaded, gpus):
    expected = (
        "embeddings must be on the CPU, got cuda:1: hardmine's CUDA ops need a GPU of compute capability 8.0 or later, "
        "and GPU 1 has 7.5"
    )
    with pytest.raises(RuntimeError) as caught:
        call("sct_loss", "cuda:1")
    assert str(caught.value) == expected


@pytest.mark.parametrize(
    ("capability", "serves"), [((7, 5), False), ((7, 9), False), ((8, 0), True), ((8, 9), True), ((12, 0), True)]
)
def test_cuda_problem_capability_from_8_0_is_none(capability, serves, loaded, gpus, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability)
    assert (_library.cuda_problem(0) is None) == serves


def test_cuda_problem_asks_each_gpu_once(loaded, gpus):
    for _ in range(3):
        for index in (0, 1):
            _library.cuda_problem(index)
    assert gpus == [0, 1]


def test_cuda_problem_does_not_synchronize(loaded, gpus, monkeypatch):
    def fail(*arguments):
        raise AssertionError("synchronized")

    monkeypatch.setattr(torch.cuda, "synchronize", fail)
    monkeypatch.setattr(torch.cuda, "current_stream", fail)
    assert _library.cuda_problem(0) is None


def test_op_fake_cuda_tensors_need_no_gpu(loaded, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert call("sct_loss", "cuda:0").device == torch.device("cuda:0")


@pytest.mark.parametrize("there", [True, False], ids=["there", "not there"])
def test_cuda_problem_compiles_without_graph_break(there, request, library_file):
    if there:
        request.getfixturevalue("loaded")
    torch.compiler.reset()  # clears what another case compiled
    compiled = torch.compile(lambda x: x * (_library.cuda_problem(0) is None), backend="eager", fullgraph=True)
    assert compiled(torch.ones(2)).tolist() == [float(there)] * 2


# CPU users


@pytest.mark.subprocess
@pytest.mark.parametrize("content", [None, b"", b"not a library"], ids=["missing", "empty", "text"])
def test_op_cpu_tensors_work_with_any_cuda_library(content, tmp_path):
    copy = tmp_path / "hardmine"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    (copy / "_C.so").symlink_to(PACKAGE / "_C.so")
    if content is not None:
        (copy / "_C_cuda.so").write_bytes(content)
    script = f"""
import warnings
warnings.simplefilter("error")
import torch
from hardmine import ops
x = torch.eye(4).requires_grad_()
loss = ops.sct_loss(x, torch.tensor({LABELS}))
loss.backward()
print(loss.isfinite().item(), ops.sct_loss(x.to("meta"), torch.tensor({LABELS}, device="meta")).device, ops.__file__)
"""
    process = run_python("-c", script, package_root=tmp_path)
    assert output_of(process) == f"True meta {copy / 'ops' / '__init__.py'}"
    assert process.stderr == ""


@pytest.mark.subprocess
def test_load_loads_both_libraries(tmp_path):
    """The first CUDA tensor does not load them: code that calls torch.ops.hardmine needs no Python wrapper."""
    copy = tmp_path / "hardmine"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for name in ("_C.so", "_C_cuda.so"):
        (copy / name).touch()
    script = """
import torch
torch.ops.load_library = lambda path: print(path.name)
from hardmine import _library
_library.load(), _library.load()
"""
    assert output_of(run_python("-c", script, package_root=tmp_path)).split() == ["_C.so", "_C_cuda.so"]
