"""Progress on standard error: a bar on a terminal, a line now and then in a log, or JSON with `--log-json`.

All forms take the callbacks that the workflows call: `on_progress(stage, done, total, info)` and `on_note(text)`.
"""

import contextlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from segkit.cli.json_log import current_log
from segkit.cli.progress_json import JsonDisplay
from segkit.cli.progress_lines import LineDisplay


class Display(Protocol):
    """What shows a command's progress."""

    def on_progress(self, stage: str, done: int, total: int, info: Mapping[str, Any]) -> None:
        """Show that `done` of `total` steps of a stage are done (`total` 0: unknown), with values worth seeing."""

    def on_note(self, text: str) -> None:
        """Show a line that stays."""


@contextlib.contextmanager
def open_display() -> Iterator[Display]:
    """Yield the display that was asked for, or that suits standard error."""
    log = current_log()
    if log is not None:
        yield JsonDisplay(log)
        return
    if not sys.stderr.isatty():
        yield LineDisplay(sys.stderr)
        return
    from segkit.cli.progress_bar import BarDisplay

    with BarDisplay() as display:
        yield display
