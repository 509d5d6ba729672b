"""The process's memory: how much there may be, how much is taken, and how large blocks of it are dealt with."""

import contextlib
import ctypes
import math
import os
import re
import resource
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h
_NEVER = 2**31 - 1

_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*(?:([kmgt])(i?))?b?\s*", re.IGNORECASE)
_EXPONENTS = {"k": 1, "m": 2, "g": 3, "t": 4}
# Version 1 has no word for "no limit": it shows the largest multiple of the page size below 2**63.
_UNLIMITED_FROM = 2**60
_LIMIT_FILES = {"cgroup2": ("memory.max", "memory.high"), "cgroup": ("memory.limit_in_bytes",)}


class MemoryLimit(NamedTuple):
    """How many bytes of memory this process may have in all, and what says so."""

    bytes: int
    source: Literal["machine", "cgroup", "--max-memory"]


def memory_limit(root: Path = Path("/")) -> MemoryLimit:
    """Return how much memory this process may have in all, what it has already included.

    The smaller of two: what is free on the machine and what this process has of it (`machine`), and the tightest limit
    of the control groups that the process is in (`cgroup`), which is how Docker, Kubernetes, SLURM and systemd limit
    memory. A limit of a group is for all processes in it; what the others take is not subtracted.

    Parameters
    ----------
    root
        The folder that holds `proc` and `sys`.
    """
    machine = MemoryLimit(_machine_bytes(root), "machine")
    groups = [MemoryLimit(found, "cgroup") for found in _group_limits(root)]
    return min([machine, *groups], key=lambda limit: limit.bytes)


def resident_bytes(root: Path = Path("/")) -> int:
    """Return how much of the machine's memory this process has now; outside of Linux the most that it ever had."""
    try:
        pages = int(_read(root / "proc/self/statm").split()[1])
    except (OSError, IndexError, ValueError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    return pages * os.sysconf("SC_PAGE_SIZE")


def parse_bytes(text: str) -> int:
    """Return the number of bytes that a person means by `4GB`, `500 MB`, `2GiB`, `1.5G` or `1000000`.

    Units are k, M, G and T, upper or lower case, with or without B: powers of 1000, and with an i (`GiB`, `Gi`) of
    1024. Parts of a byte are dropped.

    Raises
    ------
    ValueError
        It is no such text, or less than one byte.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no amount of memory. Write a number and a unit, e.g. 4GB, 500MB or 2GiB.")
    number, unit, binary = match.groups()
    factor: int = (1024 if binary else 1000) ** (_EXPONENTS[unit.lower()] if unit else 0)
    # A fraction: floats would make 1.1GB one byte less.
    found = math.floor(Fraction(number) * factor)
    if found < 1:
        raise ValueError(f"{text!r} is less than one byte. Write a number and a unit, e.g. 4GB, 500MB or 2GiB.")
    return found


def keep_freed_memory() -> None:
    """Let glibc keep large blocks that are freed, for the next ones; elsewhere nothing changes.

    It gives each block of some megabytes back to the system when it is freed, and is given it anew, page by page and
    zeroed, for the next. A network does little else with its maps: a dense patch CNN ran 2.2 times as fast without.
    What a process has taken it keeps until it ends: this is for commands, and not for a notebook.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # musl, macOS, Windows
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, _NEVER)


def give_back_freed_memory() -> None:
    """Let glibc give the system what has been freed and kept; elsewhere nothing changes.

    What is kept becomes holes between what is still in use, and after thousands of tiles the holes are larger than
    what a tile needs. Now and then they are given back; the next tile takes its memory anew, which costs a moment.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def _machine_bytes(root: Path) -> int:
    """Return what is free on the machine plus what this process has; where that is not told, all there is."""
    try:
        for line in _read(root / "proc/meminfo").splitlines():
            name, _, value = line.partition(":")
            if name == "MemAvailable":
                return int(value.split()[0]) * 1024 + resident_bytes(root)
    except (OSError, IndexError, ValueError):
        pass  # macOS, or a sandbox that hides it
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _group_limits(root: Path) -> Iterator[int]:
    """Yield the memory limits of this process's control groups and of all groups around them, as far as visible."""
    for kind, mount, group in _memory_groups(root):
        # Within a container's own view the group's path may begin outside of what is mounted: `..` cannot be followed.
        inside = () if ".." in group.parts else group.parts
        for depth in range(len(inside), -1, -1):
            for name in _LIMIT_FILES[kind]:
                found = _limit_in(mount.joinpath(*inside[:depth], name))
                if found is not None:
                    yield found


def _memory_groups(root: Path) -> Iterator[tuple[str, Path, PurePosixPath]]:
    """Yield the kind of file system, its folder and the process's group below it, for each hierarchy with memory."""
    try:
        lines = _read(root / "proc/self/cgroup").splitlines()
        mounts = [line.split(" ") for line in _read(root / "proc/self/mountinfo").splitlines()]
    except OSError:
        return
    paths: dict[str, str] = {}
    for line in lines:  # hierarchy:controllers:path, and 0::path in version 2
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            paths["cgroup2"] = path
        elif "memory" in controllers.split(","):
            paths["cgroup"] = path
    for fields in mounts:
        # id parent device root folder options [optional fields ...] - kind source options; see proc(5)
        if "-" not in fields[6:]:
            continue
        kind, options = fields[fields.index("-", 6) + 1], fields[-1].split(",")
        if kind not in paths or (kind == "cgroup" and "memory" not in options):
            continue
        shown, folder = (PurePosixPath(_unescaped(field)) for field in fields[3:5])
        group = PurePosixPath(paths[kind])
        # Version 1 in a container: the path is the host's, and only the part below `shown` is mounted.
        below = group.relative_to(shown) if group.is_relative_to(shown) else PurePosixPath()
        yield kind, root.joinpath(*folder.parts[1:]), PurePosixPath(*(part for part in below.parts if part != "/"))


def _limit_in(file: Path) -> int | None:
    """Return the bytes that a limit file states; None for no file, none that may be read, or no limit."""
    try:
        text = _read(file).strip()
    except OSError:  # the root group has no such file; a group can vanish
        return None
    return int(text) if text.isdecimal() and int(text) < _UNLIMITED_FROM else None


def _unescaped(field: str) -> str:
    """Return a path of mountinfo, in which blanks are written as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="surrogateescape")
