"""hardmine: fused, compiled losses for deep metric learning on PyTorch, with O(N D) memory."""

import importlib
from types import ModuleType

from hardmine._library import simd_level
from hardmine._version import __version__
from hardmine.verification import Report, VerificationError, verify

# Imported on first use, because most need the compiled library.
_SUBPACKAGES = (
    "distributed",
    "fanng",
    "integrations",
    "losses",
    "metrics",
    "mining",
    "ops",
    "reference",
    "types",
    "verification",
)


def __getattr__(name: str) -> ModuleType:
    """Import a subpackage when it is first used."""
    if name in _SUBPACKAGES:
        return importlib.import_module(f"hardmine.{name}")
    raise AttributeError(f"module 'hardmine' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *_SUBPACKAGES})


__all__ = ["Report", "VerificationError", "__version__", "simd_level", "verify"]
