"""The check that a library is there, in a version that an integration fits."""

from __future__ import annotations

import importlib


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
        ImportError: The library is absent, or has another major version.
    """
    needs = f"hardmine.integrations.{package} needs {distribution} {major}"
    install = f'pip install "{distribution}=={tested}" ({hint})'
    try:
        version = importlib.import_module(package).__version__
    except ModuleNotFoundError as error:
        if error.name != package:
            raise  # it is installed but lacks a dependency: its own message says more
        raise ImportError(f"{needs}: {install}", name=error.name) from error
    if version.partition(".")[0] != str(major):
        raise ImportError(f"{needs}, got {version}: {install}", name=package)
