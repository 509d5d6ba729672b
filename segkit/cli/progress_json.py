"""Progress as JSON objects, for logs that machines read."""

import math
from collections.abc import Mapping
from typing import Any

from segkit.cli.json_log import JsonLog
from segkit.cli.progress_lines import Pace


class JsonDisplay:
    """Progress and remarks as JSON objects, as many as `Pace` allows."""

    def __init__(self, log: JsonLog, pace: Pace | None = None) -> None:
        self._log, self._pace = log, pace or Pace()

    def on_progress(self, stage: str, done: int, total: int, info: Mapping[str, Any]) -> None:
        """Write an object if one is due; numbers that are not finite become null, as JSON has none."""
        step = self._pace.step(stage, done, total)
        if step is not None:
            self._log.write(
                "progress",
                stage=stage,
                done=done,
                total=total or None,
                per_second=_plain(step.per_second),
                seconds_left=_plain(step.seconds_left),
                values={name: _plain(value) for name, value in info.items()},
            )

    def on_note(self, text: str) -> None:
        """Write an object."""
        self._log.write("note", text=text)


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | bool | int) else str(value)
