"""How the process deals with large blocks of memory."""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h
_NEVER = 2**31 - 1


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
