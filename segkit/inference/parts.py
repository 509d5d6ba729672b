"""The finished pieces of a slide's result on disk: what makes a run resumable, and what workers share.

A part is one safetensors file in a folder named after everything that its content depends on (slide, model,
settings), so that parts of different results never meet. It appears by an atomic rename, and a checksum over its
content tells a whole one from a damaged one.
"""

import hashlib
import json
import shutil
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from numpy.typing import NDArray
from safetensors.numpy import save as serialise

from segkit import files
from segkit.errors import InputError
from segkit.inference.layout import MapLayout

PARTS = "parts"
_METADATA_KEY = "segkit"

Arrays = Mapping[str, NDArray[Any]]


class PartStore:
    """The parts of one slide's result.

    Parameters
    ----------
    folder
        Of the slide's results; the parts lie in `parts/DIGEST` below it.
    key
        What a result depends on, as plain JSON values.
    layout
        How the map is cut.
    """

    def __init__(self, folder: Path, key: Mapping[str, Any], layout: MapLayout) -> None:
        self._text = json.dumps(key, sort_keys=True)
        self._layout = layout
        self.key = json.loads(self._text)
        self.folder = folder / PARTS / hashlib.sha256(self._text.encode()).hexdigest()[:16]
        self._verified: set[int] = set()

    def path(self, index: int) -> Path:
        """Return the file of a part."""
        return self.folder / f"{index:06d}.safetensors"

    def present(self) -> set[int]:
        """Return the parts whose files are there; what is in them has not been looked at."""
        return {index for index in range(self._layout.num_parts) if self.path(index).is_file()}

    def finished(self, on_damage: Callable[[Path], None]) -> set[int]:
        """Return the parts that are there and whole; damaged ones are removed, after `on_damage` was called."""
        present = self.present()
        for index in present - self._verified:
            if self._is_whole(index):
                self._verified.add(index)
            else:
                on_damage(self.path(index))
                self.path(index).unlink(missing_ok=True)
        return self._verified & present

    def write(self, index: int, blocks: Sequence[Arrays | None]) -> None:
        """Write a part: the arrays of its blocks, None for a block without anything.

        Raises
        ------
        ResourceError
            The disk is full.
        """
        arrays = {
            f"{number}/{name}": np.ascontiguousarray(array)
            for number, block in enumerate(blocks)
            if block is not None
            for name, array in block.items()
        }
        metadata = {"key": self.key, "part": index, "crc32": _checksum(arrays)}
        files.write_bytes(self.path(index), serialise(arrays, {_METADATA_KEY: json.dumps(metadata, sort_keys=True)}))
        self._verified.add(index)

    def row(self, row: int, prefix: str) -> list[dict[str, NDArray[Any]] | None]:
        """Return, of the blocks of a row from left to right, the arrays whose names start with `prefix/`.

        Raises
        ------
        InputError
            A part is missing or damaged.
        """
        by_part: dict[int, list[int]] = {}
        for index, number in self._layout.row_of_blocks(row):
            by_part.setdefault(index, []).append(number)
        found: list[dict[str, NDArray[Any]] | None] = []
        for index, numbers in by_part.items():
            try:
                with safetensors.safe_open(self.path(index), framework="numpy") as part:
                    names = part.keys()
                    for number in numbers:
                        start = f"{number}/{prefix}/"
                        arrays = {
                            name.removeprefix(start): part.get_tensor(name) for name in names if name.startswith(start)
                        }
                        found.append(arrays or None)
            except (OSError, safetensors.SafetensorError) as error:
                raise InputError(
                    f"{self.path(index)}: cannot be read ({error}). Run the same command again."
                ) from error
        return found

    def remove_others(self) -> list[dict[str, Any]]:
        """Remove the parts of other results in the same folder; return their keys, as far as they can be read.

        To be called while no other worker is there.
        """
        keys = []
        for other in sorted(self.folder.parent.glob("*")):
            if other != self.folder:
                keys += [key for path in sorted(other.glob("*.safetensors"))[:1] if (key := _key_of(path)) is not None]
                shutil.rmtree(other, ignore_errors=True)
        return keys

    def remove(self) -> None:
        """Remove all parts: the result that they were for is complete."""
        shutil.rmtree(self.folder.parent, ignore_errors=True)

    def _is_whole(self, index: int) -> bool:
        try:
            with safetensors.safe_open(self.path(index), framework="numpy") as part:
                metadata = json.loads((part.metadata() or {})[_METADATA_KEY])
                arrays = {name: part.get_tensor(name) for name in part.keys()}  # noqa: SIM118 (no mapping)
            found = metadata["key"], metadata["part"], metadata["crc32"]
        except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError):
            return False
        return found == (self.key, index, _checksum(arrays))


def _checksum(arrays: Arrays) -> int:
    crc = 0
    for name in sorted(arrays):
        array = arrays[name]
        crc = zlib.crc32(f"{name} {array.dtype} {array.shape}".encode(), crc)
        crc = zlib.crc32(array.tobytes(), crc)
    return crc


def _key_of(path: Path) -> dict[str, Any] | None:
    try:
        with safetensors.safe_open(path, framework="numpy") as part:
            key = json.loads((part.metadata() or {})[_METADATA_KEY])["key"]
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError):
        return None
    return key if isinstance(key, dict) else None
