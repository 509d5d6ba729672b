"""The only door to writing: whole files or none.

Every file is written under a temporary name beside its target, flushed to the disk and then renamed, so that a
path with its final name is complete at any moment, also after a crash or a power cut. Nothing else in segkit
opens a file for writing.
"""

import contextlib
import csv
import errno
import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, Literal

from segkit.errors import ResourceError, UsageError

TEMPORARY_SUFFIX = ".partial"

_SYNC_THREADS = 8


@contextlib.contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target`; on a clean exit it is synced to disk and renamed to `target`.

    After an exception the temporary file is removed and an earlier `target` is untouched.

    Raises
    ------
    ResourceError
        The disk or quota is full.
    UsageError
        The folder cannot be written.
    """
    temporary = _temporary_beside(target)
    with translated_os_errors(target):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            temporary.replace(target)
            sync_folder(target.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(target: Path) -> Iterator[Callable[[str, bytes], None]]:
    """Yield a function that adds a file to a folder, which appears whole at `target` on a clean exit.

    The function takes the file's path within the folder and its content; each path is given once. An earlier folder at
    `target` is replaced: for the moment between two renames nothing has its name. After an exception it is untouched.

    Raises
    ------
    ResourceError
        The disk or quota is full.
    UsageError
        The folder cannot be written, or `target` is a file.
    """
    temporary, former = _temporary_beside(target), _temporary_beside(target)
    with translated_os_errors(target):
        try:
            temporary.mkdir(parents=True)
            yield lambda name, content: _add_file(temporary / name, content)
            _sync_tree(temporary)
            if target.is_dir():
                target.replace(former)
            try:
                temporary.replace(target)
            except OSError:
                if former.exists():
                    former.replace(target)
                raise
            sync_folder(target.parent)
        finally:
            _remove(temporary)
            _remove(former)


def _add_file(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _sync_tree(folder: Path) -> None:
    """Make everything in and below `folder` durable; files of one folder share their waiting for the disk."""
    with ThreadPoolExecutor(_SYNC_THREADS, thread_name_prefix="sync") as pool:
        for parent, _, names in os.walk(folder):
            for _ in pool.map(_sync_file, [Path(parent, name) for name in names]):
                pass
            sync_folder(Path(parent))


def _sync_file(path: Path) -> None:
    with path.open("rb") as written:
        os.fsync(written.fileno())


def _remove(path: Path) -> None:
    """Delete a file, link or folder that may be there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _temporary_beside(target: Path) -> Path:
    # Random, because the process id does not tell two containers apart; the last rename wins, whole.
    return target.with_name(f".{target.name[:180]}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")


@contextlib.contextmanager
def translated_os_errors(target: Path) -> Iterator[None]:
    """Turn the operating system's write errors about `target` into errors that tell the user what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            free = free_bytes(target.parent)
            raise ResourceError(
                f"{target}: the disk is full ({format_bytes(free)} free, {error.strerror}). "
                "Free some space or choose another --out, then run the same command again."
            ) from error
        if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST}:
            raise UsageError(
                f"{target}: cannot be written ({error.strerror}). Choose another --out or change the permissions."
            ) from error
        if error.errno == errno.ENAMETOOLONG:
            raise UsageError(f"{target}: the name is too long for this file system.") from error
        raise


def write_bytes(target: Path, content: bytes) -> None:
    """Write `content` to `target`, whole or not at all."""
    with atomic_path(target) as temporary:
        temporary.write_bytes(content)


def write_text(target: Path, content: str) -> None:
    """Write `content` as UTF-8 to `target`, whole or not at all."""
    write_bytes(target, content.encode())


def write_json(target: Path, content: Any) -> None:
    """Write `content` as indented JSON; numbers that are not finite are refused, as JSON has none."""
    write_text(target, json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_csv(target: Path, rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Write `rows` under a header of `columns`; a missing or None value becomes an empty cell."""
    with csv_rows(target, columns) as write_row:
        for row in rows:
            write_row(row)


@contextlib.contextmanager
def csv_rows(target: Path, columns: Sequence[str]) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Yield a function that adds a row to a CSV file, which appears whole when the body ends without an error."""
    with atomic_path(target) as temporary, temporary.open("w", encoding="utf-8", newline="") as handle:
        # The csv module itself writes None as an empty cell.
        writer = csv.DictWriter(handle, columns, restval="", lineterminator="\n")
        writer.writeheader()
        yield writer.writerow


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` durable; a no-op on file systems that cannot open folders."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def prepare_folder(folder: Path) -> Path:
    """Create `folder` and prove that it can be written, before any work is done.

    Raises
    ------
    UsageError
        It is a file, or cannot be created or written.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: is a file, and a folder is needed there. Choose another --out.")
    probe = _temporary_beside(folder / "write-test")
    with translated_os_errors(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except FileNotFoundError as error:  # of a file system that makes no folders, such as /proc
            raise UsageError(f"{folder}: cannot be made ({error.strerror}). Choose another --out.") from error
        try:
            probe.write_bytes(b"")
        finally:
            probe.unlink(missing_ok=True)  # who holds the folder may have cleared it away
    return folder


_held_locks: set[IO[str]] = set()


def _leave_locks_to_the_parent() -> None:
    for handle in _held_locks:
        handle.close()


# A forked child shares the locks of its parent, and would keep them when that is killed.
os.register_at_fork(after_in_child=_leave_locks_to_the_parent)


@contextlib.contextmanager
def folder_lock(folder: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold `folder` for this process; the operating system releases it however the process ends.

    Parameters
    ----------
    folder
        Is made if it is not there.
    shared
        Hold it together with others that share it: workers, each of which writes other files. They do so on file
        systems without locks, too.

    Raises
    ------
    UsageError
        Another process holds it, in a way that does not go together with this one.
    """
    with _opened_lock(folder, fcntl.LOCK_SH if shared else fcntl.LOCK_EX) as found:
        if found == "busy":
            raise UsageError(f"{folder}: another segkit process is writing there. Wait for it or choose another --out.")
        if found == "unsupported" and not shared:
            raise UsageError(
                f"{folder}: this file system has no locks, which keep two processes from writing the same files. "
                "Choose an --out on another one."
            )
        yield


@contextlib.contextmanager
def first_to_hold(folder: Path) -> Iterator[bool]:
    """Tell whether this process is the only one in such a block for `folder`, by its lock.

    Where the file system has no locks every process is told so: what it does must be right if others do it, too.
    """
    with _opened_lock(folder, fcntl.LOCK_EX) as found:
        yield found != "busy"


@contextlib.contextmanager
def _opened_lock(folder: Path, kind: int) -> Iterator[Literal["held", "busy", "unsupported"]]:
    prepare_folder(folder)
    path = folder / ".lock"
    with translated_os_errors(path):
        handle = path.open("a")
    with handle:
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
            found: Literal["held", "busy", "unsupported"] = "held"
        except BlockingIOError:
            found = "busy"
        except OSError:
            found = "unsupported"
        _held_locks.add(handle)
        try:
            # The empty file stays: were it deleted, another process could lock the deleted one and a third a new one.
            yield found
        finally:
            _held_locks.discard(handle)


def remove(path: Path) -> None:
    """Delete a file, or a folder with all that is in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Delete temporary files and folders that a killed process left in or below `folder` (hold the lock for it)."""
    for path in list(folder.rglob(f".*{TEMPORARY_SUFFIX}")):
        _remove(path)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def sha256_of_ends(path: Path, length: int = 1_000_000) -> str:
    """Return the SHA-256 of a file's first and last `length` bytes: quick for files of any size."""
    with path.open("rb") as handle:
        digest = hashlib.sha256(handle.read(length))
        handle.seek(max(handle.tell(), path.stat().st_size - length))
        digest.update(handle.read(length))
    return digest.hexdigest()


def free_bytes(folder: Path) -> int:
    """Return the free bytes of the file system that holds `folder` (or its nearest existing parent)."""
    existing = next(path for path in [folder, *folder.absolute().parents] if path.exists())
    return shutil.disk_usage(existing).free


def require_free_bytes(folder: Path, needed: int, purpose: str) -> None:
    """Raise ResourceError when fewer than `needed` bytes are free for `purpose` under `folder`."""
    free = free_bytes(folder)
    if free < needed:
        raise ResourceError(
            f"{folder}: {purpose} needs about {format_bytes(needed)}, and {format_bytes(free)} are free. "
            "Free some space or choose another --out."
        )


def format_bytes(count: float) -> str:
    """Return a byte count for people, e.g. `1.5 GB` (powers of 1000)."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def point_link(link: Path, target: str) -> None:
    """Make `link` a symbolic link to `target` (relative to its folder), replacing an earlier link at once.

    A no-op where the file system has no links or something else has that name: a link is a convenience.
    """
    if link.exists() and not link.is_symlink():
        return
    temporary = _temporary_beside(link)
    with contextlib.suppress(OSError):
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(target)
        temporary.replace(link)


def append_line(target: Path, line: str) -> None:
    """Append a line to a log, the one kind of file that grows instead of being replaced."""
    with translated_os_errors(target), target.open("a", encoding="utf-8") as handle:
        handle.write(line + "\n")
