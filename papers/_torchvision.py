"""The only importer of torchvision, which works even if torchvision's compiled library does not fit the torch.

``python -m papers._torchvision SCRIPT [ARGUMENTS]`` runs a script whose libraries import torchvision.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from types import ModuleType

import torch

from papers._extras import require

# The schemas that torchvision's compiled library would define, from `torchvision/csrc/ops/nms.cpp`.
_NMS_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def torchvision_module(name: str) -> ModuleType:
    """Import a module of torchvision.

    The wheels of the package index are compiled for a torch with CUDA. Beside a CPU build of torch, their library does
    not load. torchvision ignores that failure, and then its import fails: it adds shape functions to `nms` and `qnms`,
    two operators of that library. Models, transforms and datasets use neither operator, so defining the two names is
    enough. The names are defined only after an import has failed because of their absence. Where the library loads,
    nothing is changed.

    Args:
        name: Dotted name of the module inside torchvision, for example `"models"` or `"transforms.v2"`.

    Returns:
        The imported module.

    Raises:
        ModuleNotFoundError: torchvision is not installed. The message holds the pip command that installs it.
    """
    try:
        require("torchvision")
    except RuntimeError as error:
        if "operator torchvision::nms does not exist" not in str(error):
            raise
        _define_schemas()
        # A second import would find the submodules left by the failed one, but not as attributes of the new package.
        for module in [module for module in sys.modules if module.partition(".")[0] == "torchvision"]:
            del sys.modules[module]
    return require(f"torchvision.{name}")


def _define_schemas() -> None:
    """Define `torchvision::nms` and `torchvision::qnms` without implementations, at most once."""
    for operator in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, operator):
            torch.library.define(f"torchvision::{operator}", _NMS_SCHEMA)


if __name__ == "__main__":
    torchvision_module("transforms")
    del sys.argv[0]
    sys.path.insert(0, str(Path(sys.argv[0]).parent))
    runpy.run_path(sys.argv[0], run_name="__main__")
