"""Drives CMakeLists.txt, the one description of the build. Environment: HARDMINE_WERROR=1 makes warnings errors."""

import importlib
import os
import platform
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pybind11
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()


def tool(name: str, folder_attribute: str) -> str:
    """The path of a build tool: from its Python package where that is installed, else from PATH."""
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


class CMakeBuild(build_ext):
    """Builds hardmine/_C.so, which is no Python module - torch loads it - and hardmine/_fanng, which is one."""

    def get_ext_filename(self, fullname: str) -> str:
        if fullname.rpartition(".")[2] == "_C":  # setuptools asks with the package, and without
            return str(Path(*fullname.split("."))) + ".so"
        return super().get_ext_filename(fullname)

    def build_extension(self, ext: Extension) -> None:
        build = ROOT / "build" / f"cmake-{platform.system()}-{platform.machine()}".lower()
        cmake = tool("cmake", "CMAKE_BIN_DIR")
        if not self.configured:
            configure = [
                *(cmake, "-S", str(ROOT), "-B", str(build), "-G", "Ninja"),
                f"-DCMAKE_MAKE_PROGRAM={tool('ninja', 'BIN_DIR')}",
                f"-DHARDMINE_TORCH_DIR={torch_folder()}",
                f"-DHARDMINE_WERROR={'ON' if os.environ.get('HARDMINE_WERROR') == '1' else 'OFF'}",
                f"-DPython_EXECUTABLE={sys.executable}",
                f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            ]
            # --fresh forgets the tools and the torch of an earlier environment; objects that are up to date stay.
            subprocess.run([*configure, "--fresh"], check=True, stdout=sys.stderr)
            self.configured = True
        name = ext.name.rpartition(".")[2]
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        subprocess.run([cmake, "--build", str(build), "--target", name], check=True, stdout=sys.stderr)
        built = build / Path(self.get_ext_filename(name)).name
        target.parent.mkdir(parents=True, exist_ok=True)
        # A new file, not new contents: a process that has the old one loaded keeps it.
        target.unlink(missing_ok=True)
        shutil.copy2(built, target)

    configured = False


setup(
    ext_modules=[Extension("hardmine._C", sources=[]), Extension("hardmine._fanng", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
)
