"""FANNG: a graph of near neighbors over a whole training set, built by traversals and searched with backtracking."""

try:
    from hardmine import _fanng as _fanng  # imported here for its error message
except ImportError as error:
    raise ImportError(
        f"hardmine's compiled graph index cannot be imported: {error}. Build it for this Python, in the "
        "environment that has torch, from the project's folder: `pip install --no-build-isolation .`"
    ) from error

from hardmine.fanng.index import Index
from hardmine.types import Nearest

__all__ = ["Index", "Nearest"]
