"""FANNG: a graph of near neighbors over a whole training set, built by traversals and searched with backtracking."""

try:
    from hardmine import _fanng as _fanng  # imported here for its error message
except ImportError as error:
    if "nanobind_backend" in str(error):
        _remedy = "Install the package that it needs: `pip install nanobind-backend` (it keeps the installed torch)."
    else:
        _remedy = (
            "Build it for this Python, in the environment that has torch, from the project's folder: "
            "`pip install --no-build-isolation .`"
        )
    _reason = str(error).rstrip(".")
    raise ImportError(f"hardmine's compiled graph index cannot be imported: {_reason}. {_remedy}") from error

from hardmine.fanng.index import Index
from hardmine.types import Nearest

__all__ = ["Index", "Nearest"]
