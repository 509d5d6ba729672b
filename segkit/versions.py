"""Versions of what numbers depend on."""

import importlib.metadata
from collections.abc import Iterable
from typing import Final

METRIC_PACKAGES: Final = ("segkit", "numpy", "scipy", "scikit-image")
"""What metrics depend on: scipy matches objects and points and measures distances, scikit-image tells objects apart."""


def version_of(package: str) -> str:
    """Return a package's version; `not installed` where it is run from a folder, as segkit on a bare machine."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def versions_of(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of packages by their names."""
    return {package: version_of(package) for package in packages}
