"""The progress bar on a terminal (apart from the plain lines, so that only a terminal imports what draws it)."""

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from segkit.cli.failures import printable, printable_lines
from segkit.cli.progress_lines import format_info


class BarDisplay:
    """One bar per stage: what is done, rate, time left, and values worth seeing."""

    def __init__(self, console: Console | None = None) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            _RateColumn(),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            TextColumn("{task.fields[info]}", markup=False),
            console=console or Console(stderr=True, markup=False, highlight=False, emoji=False),
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def on_progress(self, stage: str, done: int, total: int, info: Mapping[str, Any]) -> None:
        """Move the stage's bar; a stage that starts again starts a new bar's time."""
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(printable(stage), total=None, info="")
        task = self._tasks[stage]
        if done < self._progress.tasks[self._progress.task_ids.index(task)].completed:
            self._progress.reset(task)
        self._progress.update(task, completed=done, total=total or None, info=format_info(info))

    def on_note(self, text: str) -> None:
        """Write a line above the bars."""
        self._progress.console.print(printable_lines(text))


class _RateColumn(ProgressColumn):
    """Steps per second."""

    def render(self, task: Task) -> Text:
        """Return the rate, or nothing before it is known."""
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.3g}/s" if speed else "")
