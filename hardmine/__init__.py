"""hardmine: fused, compiled losses for deep metric learning on PyTorch, with O(N D) memory."""

from hardmine._library import simd_level
from hardmine._verification import Report, VerificationError, verify
from hardmine._version import __version__

__all__ = ["Report", "VerificationError", "__version__", "simd_level", "verify"]
