"""How a workflow tells its caller what happens."""

from collections.abc import Callable, Mapping
from typing import Any

OnProgress = Callable[[str, int, int, Mapping[str, Any]], None]
"""Called with (stage, done, total, values worth seeing)."""

OnNote = Callable[[str], None]
"""Called with one line that the user should read."""


def quiet_progress(stage: str, done: int, total: int, info: Mapping[str, Any]) -> None:
    """Show nothing."""


def quiet_note(text: str) -> None:
    """Show nothing."""
