"""hardmine: fused, compiled losses for deep metric learning on PyTorch, with O(N D) memory."""

import importlib
from types import ModuleType

from hardmine._library import simd_level
from hardmine._verification import Report, VerificationError, verify
from hardmine._version import __version__

_SUBMODULES = ("losses", "ops", "reference")


def __getattr__(name: str) -> ModuleType:
    """Imports submodules when they are first used: ops and losses need the compiled library, the references don't."""
    if name in _SUBMODULES:
        return importlib.import_module(f"hardmine.{name}")
    raise AttributeError(f"module 'hardmine' has no attribute {name!r}")


__all__ = ["Report", "VerificationError", "__version__", "simd_level", "verify"]
