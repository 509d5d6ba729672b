"""Ctrl-C, SIGTERM and SIGUSR1 as an exception that gets through.

The first signal raises `Interrupted` in the main thread, wherever that just is. There it can get lost: Python ignores
what is raised in finalisers and in the callbacks of weak references, and libraries written in C clear errors or put
their own in their place (about one in a hundred during a training). So it is raised again until an exception is on
its way, and whichever reaches the top after a signal stands for the interruption. A second signal ends the process at
once.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any

INTERRUPTING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
SCHEDULERS_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
SECONDS_BETWEEN_TRIES = 0.5

_received: list[int] = []
_holds: list[object] = []


class Interrupted(BaseException):
    """A signal asked the command to stop.

    No `Exception`: a loop that notes one bad input and goes on with the next cannot take it for a bad input.
    Temporary files are removed on its way up.
    """


def received_signal() -> int | None:
    """Return the number of the signal that asked this process to stop, None where there was none.

    SIGUSR1, by which schedulers announce the end, counts as SIGTERM.
    """
    if not _received:
        return None
    return int(signal.SIGTERM) if _received[0] == signal.SIGUSR1 else _received[0]


@contextlib.contextmanager
def held_signals() -> Iterator[Callable[[], int]]:
    """Let signals wait: inside the block they raise nothing, and the yielded function returns the number of the first.

    It returns 0 where there was none. A signal that has not led to an exception raises `Interrupted` at the end.
    """
    _holds.append(None)
    try:
        yield lambda: received_signal() or 0
    finally:
        _holds.pop()
    if _received and not _holds:
        raise Interrupted


@contextlib.contextmanager
def translated_signals() -> Iterator[None]:
    """Raise `Interrupted` on the first SIGINT, SIGTERM or SIGUSR1 inside the block."""
    process = os.getpid()
    earlier = {number: signal.getsignal(number) for number in (*INTERRUPTING_SIGNALS, signal.SIGALRM)}
    earlier_hook = sys.unraisablehook

    def interrupt(number: int, _: FrameType | None) -> None:
        if os.getpid() != process:
            # A forked loader worker. Ctrl-C reaches it, too, and its parent will stop it; a worker that dies
            # of a signal would make torch raise in the parent while that cleans up.
            if number == signal.SIGTERM:
                os._exit(0)
            return
        _received.append(number)
        if _holds:
            # Schedulers and torchrun signal twice, each in its way; only a second Ctrl-C means: at once.
            _handle_signals_with({signal.SIGINT: signal.SIG_DFL, **dict.fromkeys(SCHEDULERS_SIGNALS, signal.SIG_IGN)})
            return
        _handle_signals_with(dict.fromkeys(INTERRUPTING_SIGNALS, signal.SIG_DFL))
        signal.setitimer(signal.ITIMER_REAL, SECONDS_BETWEEN_TRIES, SECONDS_BETWEEN_TRIES)
        raise Interrupted

    def insist(_number: int, _frame: FrameType | None) -> None:
        if sys.exception() is None:
            raise Interrupted

    def report_lost(lost: Any) -> None:
        if not isinstance(lost.exc_value, Interrupted):
            earlier_hook(lost)

    _handle_signals_with({**dict.fromkeys(INTERRUPTING_SIGNALS, interrupt), signal.SIGALRM: insist})
    sys.unraisablehook = report_lost
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.unraisablehook = earlier_hook
        _handle_signals_with(earlier)
        _received.clear()


def _handle_signals_with(handlers: Mapping[signal.Signals, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
