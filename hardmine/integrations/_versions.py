"""The check that a library is there, in a version that an integration fits."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

from hardmine._extras import torchvision_misfit


def check_version(
    package: str, distribution: str, major: int, tested: str, hint: str = "it keeps the installed torch"
) -> None:
    """Import a library, or say what to install.

    Args:
        package: The name under which the library is imported, which is also that of the integration.
        distribution: The name under which the library is installed.
        major: The major version that the integration fits.
        tested: The version that the integration is tested with.
        hint: What its installation does, for the error.

    Raises:
        ImportError: The library is absent, has another major version, or cannot be imported because of torchvision.
    """
    needs = f"hardmine.integrations.{package} needs {distribution} {major}"
    install = f'pip install "{distribution}=={tested}" ({hint})'
    try:
        version = importlib.import_module(package).__version__
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == package:
            raise ImportError(f"{needs}: {install}", name=package) from error
        for cause in _causes(error):
            if "torchvision" in str(cause) and not isinstance(cause, ModuleNotFoundError):
                message = f"{needs}, but {package} cannot be imported, because {torchvision_misfit(cause)}"
                raise ImportError(message, name=package) from error
        raise  # such as a missing dependency of it: its own message says more
    if version.partition(".")[0] != str(major):
        raise ImportError(f"{needs}, got {version}: {install}", name=package)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
