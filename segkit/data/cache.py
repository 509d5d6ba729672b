"""Decoded images and target planes: kept in memory, or as files that are mapped into it.

Decoding a picture takes far longer than cutting a patch out of it, so each is decoded once. What does not fit into
memory lies in a folder of .npy files, which the system reads where they are looked at and forgets where it needs room;
processes on one machine share what is in memory of them.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from segkit import files
from segkit.errors import ResourceError, UsageError
from segkit.memory import memory_limit

CacheSetting = Path | Literal["auto", "none"]

VERSION: Final = 1  # of what is written: to be raised when reading or drawing changes its result
MEMORY_SHARE: Final = 4
"""Decoded images are kept in memory up to this part of it: batches, network and the rest of the system need some."""


class ArrayStore(Protocol):
    """Where arrays stay that are expensive to make."""

    def keep(self, sources: Sequence[Path], kind: str, make: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """Return what `make` makes of the files `sources`; `kind` says what that is, with all that it depends on."""

    def holds(self, sources: Sequence[Path], kind: str) -> bool:
        """Tell whether it is there already."""


class InMemory:
    """Arrays stay in this process's memory."""

    def keep(self, sources: Sequence[Path], kind: str, make: Callable[[], NDArray[Any]]) -> NDArray[Any]:  # noqa: ARG002 (see `ArrayStore`)
        """Return what `make` makes."""
        return make()

    def holds(self, sources: Sequence[Path], kind: str) -> bool:  # noqa: ARG002 (see `ArrayStore`)
        """Return False: nothing is found again."""
        return False


class MappedFiles:
    """Arrays are written to a folder once, and mapped, read only.

    A file's name is a hash of path, size and time of change of its sources and of what it is, so a changed source is
    read anew. Files appear whole: several processes may fill the folder at once, and at worst do the same work.

    Parameters
    ----------
    folder
        Is made if it is not there.

    Raises
    ------
    ResourceError
        The folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with self._explained():
            files.prepare_folder(folder)

    def holds(self, sources: Sequence[Path], kind: str) -> bool:
        """Tell whether a file for it is there."""
        return self._path(sources, kind).exists()

    def keep(self, sources: Sequence[Path], kind: str, make: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """Return the array of these sources and this kind, mapped and read only; `make` is called if it is not there.

        Raises
        ------
        ResourceError
            The disk is full, or the folder cannot be written.
        """
        path = self._path(sources, kind)
        found = _mapped(path)
        if found is None:
            self._write(path, make())
            found = _mapped(path)
        if found is None:
            raise ResourceError(f"{path}: cannot be read back. Check the disk, or set data.cache to another folder.")
        return found

    def require_room(self, num_bytes: int) -> None:
        """Raise ResourceError when fewer bytes are free: before images are decoded for minutes."""
        free = files.free_bytes(self.folder)
        if free < num_bytes:
            raise ResourceError(
                f"{self.folder}: the decoded images take {files.format_bytes(num_bytes)}, and "
                f"{files.format_bytes(free)} are free. Free some space, set data.cache to a folder on a larger "
                "disk, or data.cache=none to keep them in memory."
            )

    def _path(self, sources: Sequence[Path], kind: str) -> Path:
        stats = [(str(path.absolute()), path.stat()) for path in sources]
        key = [VERSION, kind, *((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)]
        return self.folder / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:40]}.npy"

    def _write(self, path: Path, array: NDArray[Any]) -> None:
        # Written and not mapped for writing: on a full disk that would end the process by a signal.
        with self._explained(), files.atomic_path(path) as temporary, temporary.open("wb") as handle:
            # Not `write_array`: where the disk is full it says how much was written, and not why no more.
            contiguous = np.ascontiguousarray(array)
            np.lib.format.write_array_header_1_0(handle, np.lib.format.header_data_from_array_1_0(contiguous))
            handle.write(contiguous.reshape(-1).view(np.uint8).data)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (ResourceError, UsageError, OSError) as error:
            system = error if isinstance(error, OSError) else error.__cause__
            cause = system.strerror if isinstance(system, OSError) else "it is no folder"
            raise ResourceError(
                f"{self.folder}: decoded images cannot be kept there ({cause}). Free some space, set data.cache to a "
                "folder on a disk with room, or data.cache=none to keep them in memory."
            ) from error


def choose_store(
    setting: CacheSetting, num_bytes: int, usual_folder: Path | None, *, processes: int = 1
) -> tuple[ArrayStore, str | None]:
    """Return where decoded images stay, and a line for the user if that was chosen and is not memory.

    Parameters
    ----------
    setting
        A folder; `none`: memory; `auto`: memory, unless they would take more than a quarter of it.
    num_bytes
        What all images and target planes take.
    usual_folder
        Where they go by `auto`, e.g. in the run's folder. None: there is no such place, so they stay in memory.
    processes
        So many processes on this machine hold the same images.

    Raises
    ------
    ResourceError
        The folder cannot be written.
    """
    if isinstance(setting, Path):
        return MappedFiles(setting), None
    limit = memory_limit()
    if setting == "none" or usual_folder is None or num_bytes * processes * MEMORY_SHARE <= limit.bytes:
        return InMemory(), None
    taken = files.format_bytes(num_bytes) + (f" in each of {processes} processes" if processes > 1 else "")
    note = (
        f"automatic: data.cache = {usual_folder} (the decoded images take {taken}, more than a quarter of "
        f"{files.format_bytes(limit.bytes)} memory)"
    )
    return MappedFiles(usual_folder), note


def _mapped(path: Path) -> NDArray[Any] | None:
    """Return a file's array, read only; None where there is no file, or it is no such array (it is written anew)."""
    try:
        # A plain view: numpy's memmap class takes time at every slice. `open_memmap` refuses pickled objects.
        mapped = np.lib.format.open_memmap(path, mode="r")
        # What its head says of its size has to be so.
        return mapped.view(np.ndarray) if mapped.offset + mapped.nbytes == path.stat().st_size else None
    except (OSError, ValueError, EOFError):
        return None
