"""Lets tests, and the processes that they start, import a torchvision for CUDA beside a torch for the CPU.

Python imports this file when it starts, because tests/conftest.py puts the folder on PYTHONPATH.

The compiled library of such a torchvision does not load. torchvision ignores that, and then fails when it adds shape
functions to ``nms`` and ``qnms``, two operators of the library. Nothing here calls them, so it is enough to declare
them after that failure. A torchvision that fits its torch is imported as it is.
"""

import importlib.machinery
import sys


class _Finder:
    """Finds torchvision as usual, and repeats its import with the operators declared if it fails without them."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name != "torchvision":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module
            spec.loader.exec_module = lambda module: _import(module, execute)
        return spec


def _import(module, execute):
    try:
        execute(module)
    except RuntimeError as error:
        if "operator torchvision::nms does not exist" not in str(error):
            raise
        import torch

        for operator in ("nms", "qnms"):  # as in torchvision/csrc/ops/nms.cpp
            torch.library.define(f"torchvision::{operator}", "(Tensor dets, Tensor scores, float threshold) -> Tensor")
        for name in [name for name in sys.modules if name.startswith("torchvision.")]:
            del sys.modules[name]  # left by the failed import, but no attributes of the new package
        execute(module)


sys.meta_path.insert(0, _Finder)
