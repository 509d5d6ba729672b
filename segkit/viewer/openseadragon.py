"""OpenSeadragon, which draws deep-zoom images in the browser: its pinned npm package, checked and unpacked.

It is put into the package by the build (setup.py), or later by `segkit view --install-viewer`; it is no part of the
source. Nothing here needs more than Python itself, as builds have no more.
"""

import base64
import hashlib
import hmac
import http.client
import io
import os
import tarfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import Final

from segkit import files
from segkit.errors import InputError

VERSION: Final = "6.1.1"
INTEGRITY: Final = "sha512-g4iKe2q8B642SaBT3+x4ZF3/8b1TxPPydyjmtrOLgDrlYWMKd9ZXM+1Cb/xa9DVySkvs/7l6HR1nHKfD5F3Tsw=="
"""As the npm registry states it (Subresource Integrity)."""

FOLDER: Final = Path(__file__).parent / "vendor"
SCRIPT: Final = f"openseadragon-{VERSION}.min.js"
LICENCE: Final = f"openseadragon-{VERSION}-LICENSE.txt"

REGISTRY_VARIABLES: Final = ("npm_config_registry", "NPM_CONFIG_REGISTRY")
"""Environment variables that npm reads the registry's address from, too."""
DEFAULT_REGISTRY: Final = "https://registry.npmjs.org"

NAMES: Final = (SCRIPT, LICENCE)

_MEMBERS = {"package/build/openseadragon/openseadragon.min.js": SCRIPT, "package/LICENSE.txt": LICENCE}
_SECONDS = 30
_MAX_BYTES = 20_000_000  # the package has 1 MB


def is_installed() -> bool:
    """Tell whether this version is there."""
    return all((FOLDER / name).is_file() for name in NAMES)


def install() -> list[Path]:
    """Download the package, check it and write what the viewer needs of it; return these files.

    Raises
    ------
    InputError
        It cannot be had, or is not the one that it should be.
    UsageError
        The folder of the installed package cannot be written.
    """
    contents = unpack(download())
    for name, content in contents.items():
        files.write_bytes(FOLDER / name, content)
    return [FOLDER / name for name in contents]


def address() -> str:
    """Return where the package is downloaded from, as npm would be configured."""
    chosen = next((os.environ[name] for name in REGISTRY_VARIABLES if os.environ.get(name)), DEFAULT_REGISTRY)
    return f"{chosen.rstrip('/')}/openseadragon/-/openseadragon-{VERSION}.tgz"


def download() -> bytes:
    """Return the package as the registry gives it, not checked.

    Raises
    ------
    InputError
        It cannot be had.
    """
    url = address()
    remedy = f"Check the network, or set {REGISTRY_VARIABLES[0]} to a registry that can be reached."
    if not url.startswith(("https://", "http://")):
        raise InputError(f"{url}: is no address of a registry (https://...). {remedy}")
    try:
        with urllib.request.urlopen(url, timeout=_SECONDS) as answer:
            package: bytes = answer.read(_MAX_BYTES + 1)
    except (OSError, ValueError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it is an open answer, too
        raise InputError(f"{url}: cannot be downloaded ({error}). {remedy}") from error
    if len(package) > _MAX_BYTES:
        raise InputError(f"{url}: is larger than {_MAX_BYTES} bytes, and the package is not. {remedy}")
    return package


def unpack(package: bytes) -> dict[str, bytes]:
    """Return the files that the viewer needs, by name, of a package that has been checked.

    Raises
    ------
    InputError
        The package is another one.
    """
    found = f"sha512-{base64.b64encode(hashlib.sha512(package).digest()).decode()}"
    if not hmac.compare_digest(found, INTEGRITY):
        raise InputError(
            f"openseadragon-{VERSION}.tgz: is not the package that segkit was made for ({found[:20]}..., expected "
            f"{INTEGRITY[:20]}...). Take the registry's own file; nothing was installed."
        )
    with tarfile.open(fileobj=io.BytesIO(package), mode="r:gz") as archive:
        contents = {}
        for member, name in _MEMBERS.items():
            handle = archive.extractfile(member)
            assert handle is not None, "the checked package has these files"
            contents[name] = handle.read()
    return contents
