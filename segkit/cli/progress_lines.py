"""Progress as plain lines, for logs."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TextIO

from segkit.cli.failures import printable_lines

SECONDS_BETWEEN_LINES = 10.0
MOST_LINES_AT_ONCE = 20
LINES_PER_SECOND = 1.0
"""In the long run: a thousand small images are not a thousand lines in a second."""


@dataclass(frozen=True)
class Step:
    """A step that is worth a line: its stage's steps per second so far, and seconds to its end; None: unknown."""

    per_second: float | None
    seconds_left: float | None


@dataclass
class Pace:
    """Chooses the steps that are worth a line: one every few seconds, and the last of a stage.

    However quickly stages follow each other, there are at most 20 lines at once and one a second in the long run.
    """

    clock: Callable[[], float] = time.monotonic
    _stage: str = ""
    _done: int = 0
    _began: float = 0.0
    _first: int = 0
    _shown: float = 0.0
    _allowed: float = MOST_LINES_AT_ONCE
    _counted: float | None = None

    def step(self, stage: str, done: int, total: int) -> Step | None:
        """Return what is known of a stage's speed, None where no line is due.

        Parameters
        ----------
        stage, done, total
            As the workflows' `on_progress` gets them.
        """
        now = self.clock()
        if stage != self._stage or done < self._done:
            self._stage, self._began, self._first, self._shown = stage, now, done, now
        self._done = done
        if done < total and now - self._shown < SECONDS_BETWEEN_LINES:
            return None
        if not self._may_show(now):
            return None
        self._shown = now
        per_second = _rate(done - self._first, now - self._began)
        left = (total - done) / per_second if per_second and done < total else None
        return Step(per_second=per_second, seconds_left=left)

    def _may_show(self, now: float) -> bool:
        since = 0.0 if self._counted is None else now - self._counted
        self._counted = now
        self._allowed = min(MOST_LINES_AT_ONCE, self._allowed + since * LINES_PER_SECOND)
        if self._allowed < 1:
            return False
        self._allowed -= 1
        return True


class LineDisplay:
    """Plain lines, as many as `Pace` allows."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._pace = stream, Pace(clock)

    def on_progress(self, stage: str, done: int, total: int, info: Mapping[str, Any]) -> None:
        """Write a line if one is due."""
        step = self._pace.step(stage, done, total)
        if step is not None:
            self.on_note(_line(stage, done, total, info, step))

    def on_note(self, text: str) -> None:
        """Write a line."""
        self._stream.write(f"{printable_lines(text)}\n")
        self._stream.flush()


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


def _line(stage: str, done: int, total: int, info: Mapping[str, Any], step: Step) -> str:
    parts = [f"{stage} {done}/{total} ({100 * done // total} %)" if total else f"{stage} {done}"]
    if step.per_second:
        parts.append(f"{step.per_second:.3g}/s")
    if step.seconds_left:
        parts.append(f"{format_seconds(step.seconds_left)} left")
    if info:
        parts.append(format_info(info))
    return ", ".join(parts)


def _rate(steps: int, seconds: float) -> float | None:
    return steps / seconds if steps > 0 and seconds > 0 else None


def _format_value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
