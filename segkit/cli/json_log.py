"""`--log-json`: what a command tells on standard error, as one JSON object per line.

Every object has `time` (UTC, ISO 8601), `level` (info or error) and `event`, and the keys that `KEYS` lists for its
event, no more and no fewer. The result goes there, too, instead of a table on standard output. Whatever else Python
code writes to standard error (warnings, with `-v` what libraries log) becomes an object, too; what a library in C
writes there by itself, such as a driver that crashes, does not pass through here.
"""

import contextlib
import io
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TextIO

FLAG: Final = "--log-json"
KEYS: Final = {
    "progress": ("stage", "done", "total", "per_second", "seconds_left", "values"),
    "note": ("text",),
    "result": ("result",),
    "error": ("exit_code", "kind", "message", "problems"),
    "output": ("text",),
}
"""The keys of each event, besides time, level and event; what is unknown is null."""

_open: list["JsonLog"] = []


class JsonLog:
    """A stream of JSON objects, one a line."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.prints_result = False

    def write(self, event: str, **values: Any) -> None:
        """Write an object.

        Parameters
        ----------
        event
            One of `KEYS`.
        values
            All its keys; no number that is not finite, as JSON has none.
        """
        if tuple(values) != KEYS[event]:
            raise ValueError(f"{event}: expected the keys {KEYS[event]}, got {tuple(values)}")
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        level = "error" if event == "error" else "info"
        line = json.dumps({"time": now, "level": level, "event": event, **values}, allow_nan=False)
        self._stream.write(f"{line}\n")  # in one piece: several processes may share the stream
        self._stream.flush()


class OutputRecords(io.TextIOBase):
    """A text stream that makes an object of each piece of whole lines that is written to it."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, log: JsonLog, beneath: TextIO) -> None:
        self._log, self._beneath, self._begun = log, beneath, ""

    def write(self, text: str) -> int:
        """Take text; once it ends a line, all that has come since becomes one object."""
        # A carriage return begins a line anew, as progress bars do.
        self._begun = (self._begun + text).replace("\r\n", "\n").rpartition("\r")[2]
        if self._begun.endswith("\n"):
            self.end_line()
        return len(text)

    def end_line(self) -> None:
        """Let a line that was begun be whole."""
        whole, self._begun = self._begun.strip("\n"), ""
        if whole:
            self._log.write("output", text=whole)

    def writable(self) -> bool:
        """Return True."""
        return True

    def fileno(self) -> int:
        """Return the number of the file beneath, which child processes inherit."""
        return self._beneath.fileno()


def current_log() -> JsonLog | None:
    """Return the log if `--log-json` is given, else None."""
    return _open[-1] if _open else None


@contextlib.contextmanager
def log_as_asked(arguments: Sequence[str]) -> Iterator[JsonLog | None]:
    """Make standard error a JSON log as long as the block lasts, if `--log-json` is among the arguments.

    Looked for before they are parsed, so that arguments that cannot be parsed are told of in the log, too.
    """
    before_files = list(arguments)[: list(arguments).index("--")] if "--" in arguments else arguments
    if FLAG not in before_files:
        yield None
        return
    beneath = sys.stderr
    log = JsonLog(beneath)
    _open.append(log)
    sys.stderr = others = OutputRecords(log, beneath)
    try:
        yield log
    finally:
        others.end_line()
        sys.stderr = beneath
        _open.pop()


def with_result_logged(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return a command's arguments as they have to be for its result to get into the log, if there is one.

    That is: the result is asked for as JSON. Where `--json` was given, it is printed, too.
    """
    log = current_log()
    if log is None or "as_json" not in arguments:
        return dict(arguments)
    log.prints_result = bool(arguments["as_json"])
    return {**arguments, "as_json": True}


def log_result(result: Any) -> bool:
    """Write a result (what JSON knows) into the log; tell whether it has to be printed, as it is without a log."""
    log = current_log()
    if log is None:
        return True
    log.write("result", result=result)
    return log.prints_result


def log_error(*, exit_code: int, kind: str, message: str, problems: Sequence[str] = ()) -> bool:
    """Write an error into the log; tell whether there is one."""
    log = current_log()
    if log is None:
        return False
    log.write("error", exit_code=exit_code, kind=kind, message=message, problems=list(problems))
    return True
