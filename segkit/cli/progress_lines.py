"""Progress as plain lines, for logs."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TextIO

from segkit.cli.failures import printable_lines

SECONDS_BETWEEN_LINES = 10.0


@dataclass
class LineDisplay:
    """Plain lines: one every few seconds, and one at the end of each stage."""

    stream: TextIO
    clock: Callable[[], float] = time.monotonic
    _stage: str = ""
    _done: int = 0
    _began: float = 0.0
    _first: int = 0
    _shown: float = 0.0

    def on_progress(self, stage: str, done: int, total: int, info: Mapping[str, Any]) -> None:
        """Write a line if this stage has ended or the last line is some time ago."""
        now = self.clock()
        if stage != self._stage or done < self._done:
            self._stage, self._began, self._first, self._shown = stage, now, done, now
        self._done = done
        if done < total and now - self._shown < SECONDS_BETWEEN_LINES:
            return
        self._shown = now
        self.on_note(_line(stage, done, total, info, rate=_rate(done - self._first, now - self._began)))

    def on_note(self, text: str) -> None:
        """Write a line."""
        self.stream.write(f"{printable_lines(text)}\n")
        self.stream.flush()


def format_info(info: Mapping[str, Any]) -> str:
    """Return values for people, numbers with 4 digits: `epoch 3, loss 0.3123`."""
    return ", ".join(f"{name} {_format_value(value)}" for name, value in info.items() if value is not None)


def format_seconds(seconds: float) -> str:
    """Return a duration for people, e.g. `42 s`, `3 min 20 s`, `1 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _line(stage: str, done: int, total: int, info: Mapping[str, Any], rate: float | None) -> str:
    parts = [f"{stage} {done}/{total} ({100 * done // total} %)" if total else f"{stage} {done}"]
    if rate:
        parts.append(f"{rate:.3g}/s")
        if done < total:
            parts.append(f"{format_seconds((total - done) / rate)} left")
    if info:
        parts.append(format_info(info))
    return ", ".join(parts)


def _rate(steps: int, seconds: float) -> float | None:
    return steps / seconds if steps > 0 and seconds > 0 else None


def _format_value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
