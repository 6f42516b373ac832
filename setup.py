"""Builds the extension with CMake; CMakeLists.txt is the only description of the build.

Environment variables:
    HARDMINE_CUDA: auto, on or off, whether to build the CUDA ops (auto: if CMake, nvcc and torch support it).
    HARDMINE_WERROR: 1 makes warnings errors.
"""

import importlib
import os
import platform
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import nanobind
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
BUILD = ROOT / "build" / f"cmake-{platform.system()}-{platform.machine()}".lower()
TORCH_LIBRARIES = ("_C", "_C_cuda")  # torch loads these; Python imports the other extensions


def tool(name: str, folder_attribute: str) -> str:
    """The path of a build tool: from its Python package if that is installed, else from PATH."""
    if find_spec(name):
        return str(Path(getattr(importlib.import_module(name), folder_attribute)) / name)
    path = shutil.which(name)
    if path is None:
        raise SystemExit(f"building hardmine needs {name}, which was not found: pip install {name}")
    return path


def torch_folder() -> Path:
    """The installed torch package, found without importing it."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        raise SystemExit("building hardmine needs torch >= 2.11: install it, then pip install --no-build-isolation .")
    return Path(spec.origin).parent


def cuda_choice() -> str:
    """The value of HARDMINE_CUDA in CMake's spelling."""
    choice = os.environ.get("HARDMINE_CUDA") or "auto"
    if choice.lower() not in ("auto", "on", "off"):
        raise SystemExit(f"HARDMINE_CUDA must be auto, on or off, got {choice!r}")
    return choice.upper()


class CMakeBuild(build_ext):
    """Builds hardmine/_C.so, the optional hardmine/_C_cuda.so (torch loads both), and the module hardmine/_fanng."""

    def get_ext_filename(self, fullname: str) -> str:
        torch_loads_it = fullname.rpartition(".")[2] in TORCH_LIBRARIES  # the name may have its package in front
        return str(Path(*fullname.split("."))) + (".so" if torch_loads_it else ".abi3.so")

    def run(self) -> None:
        cmake = tool("cmake", "CMAKE_BIN_DIR")
        configure = [
            *(cmake, "-S", str(ROOT), "-B", str(BUILD), "-G", "Ninja"),
            f"-DCMAKE_MAKE_PROGRAM={tool('ninja', 'BIN_DIR')}",
            f"-DHARDMINE_TORCH_DIR={torch_folder()}",
            f"-DHARDMINE_CUDA={cuda_choice()}",
            f"-DHARDMINE_WERROR={'ON' if os.environ.get('HARDMINE_WERROR') == '1' else 'OFF'}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dnanobind_DIR={nanobind.cmake_dir()}",
        ]
        # The cache may name tools and a torch of an earlier environment. Up-to-date objects are kept.
        (BUILD / "CMakeCache.txt").unlink(missing_ok=True)
        for folder in (BUILD / "CMakeFiles").glob("[0-9]*"):
            shutil.rmtree(folder)
        subprocess.run(configure, check=True, stdout=sys.stderr)
        targets = subprocess.run([cmake, "--build", str(BUILD), "--target", "help"], check=True, stdout=subprocess.PIPE)
        if not re.search(r"^_C_cuda:", targets.stdout.decode(), re.MULTILINE):
            self.exclude("hardmine._C_cuda")
        super().run()

    def exclude(self, name: str) -> None:
        """Excludes a library from this build and deletes the copy that an earlier build left."""
        self.extensions = [ext for ext in self.extensions if ext.name != name]
        places = [Path(self.build_lib)] + [ROOT] * self.inplace
        for place in places:
            (place / self.get_ext_filename(name)).unlink(missing_ok=True)

    def build_extension(self, ext: Extension) -> None:
        cmake = tool("cmake", "CMAKE_BIN_DIR")
        name = ext.name.rpartition(".")[2]
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        subprocess.run([cmake, "--build", str(BUILD), "--target", name], check=True, stdout=sys.stderr)
        built = BUILD / Path(self.get_ext_filename(name)).name
        target.parent.mkdir(parents=True, exist_ok=True)
        # Unlink first: overwriting in place would change the file under processes that have it loaded.
        target.unlink(missing_ok=True)
        shutil.copy2(built, target)


setup(
    ext_modules=[Extension(f"hardmine.{name}", sources=[]) for name in (*TORCH_LIBRARIES, "_fanng")],
    cmdclass={"build_ext": CMakeBuild},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},  # one wheel for every later Python
)
