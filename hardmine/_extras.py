"""Optional dependencies, imported where they are used, so that `import hardmine` needs torch alone."""

from __future__ import annotations

import importlib
from types import ModuleType


def require(module: str, extra: str = "train") -> ModuleType:
    """Import an optional dependency, or say which extra of hardmine brings it.

    Args:
        module: Dotted name of the module, for example `"matplotlib.figure"`.
        extra: Name of the extra in hardmine's metadata that installs it.

    Returns:
        The imported module.

    Raises:
        ModuleNotFoundError: The package is not installed. The message holds the pip command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != package:
            raise  # the package is there, something it needs is not: its own message says more
        message = f"{package} is not installed and is needed here: pip install 'hardmine[{extra}]'"
        raise ModuleNotFoundError(message, name=error.name) from error
