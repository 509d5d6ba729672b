"""Versions of what numbers depend on."""

import importlib.metadata


def version_of(package: str) -> str:
    """Return a package's version; `not installed` where it is run from a folder, as segkit on a bare machine."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
