"""Optional dependencies, imported on first use, so that `import hardmine` needs torch alone."""

from __future__ import annotations

import importlib
from types import ModuleType

import torch

_PIP_NAMES = {"sklearn": "scikit-learn"}


def require(module: str, install: str | None = None) -> ModuleType:
    """Import an optional dependency, or say how to install it.

    Args:
        module: Dotted name of the module, for example `"scipy.cluster.hierarchy"`.
        install: What to pass to `pip install`. None: the package's name. No optional dependency requires torch, so the
            installed torch stays.

    Returns:
        The imported module.

    Raises:
        ModuleNotFoundError: The package is not installed. The message holds the pip command that installs it.
        ImportError: The installed torchvision does not fit the torch.
    """
    try:
        return importlib.import_module(module)
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
        raise ImportError(f"{module} cannot be imported, because {torchvision_misfit(error)}", name=module) from error
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != package:
            raise  # the package is installed but lacks a dependency: its own message says more
        install = install or _PIP_NAMES.get(package, package)
        message = f"{package} is not installed and is needed here: pip install {install} (it keeps the installed torch)"
        raise ModuleNotFoundError(message, name=error.name) from error


def torchvision_misfit(cause: BaseException) -> str:
    """What is wrong with a torchvision that cannot be imported, and what to do."""
    return (
        f"the installed torchvision does not fit torch {torch.__version__} ({type(cause).__name__}: {cause}). Beside a "
        "torch for the CPU: `pip uninstall torchvision`, then "
        "`pip install torchvision --index-url https://download.pytorch.org/whl/cpu`"
    )
