"""The sample data that ships with the project, made anew."""

from pathlib import Path

from segkit.data.synthetic import generate
from segkit.errors import UsageError
from segkit.workflows.callbacks import OnProgress, quiet_progress

FIELDS = 16
FIELD_PX = 512
SLIDE_PX = 4096


def make_sample(out: Path, *, seed: int = 0, on_progress: OnProgress = quiet_progress) -> None:
    """Write the synthetic data set (16 fields and a slide) into a folder that is new or empty.

    Raises
    ------
    UsageError
        The folder has content.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out}: exists and is not empty. Choose a new folder.")
    generate(
        out,
        seed=seed,
        fields=FIELDS,
        field_px=FIELD_PX,
        slide_px=SLIDE_PX,
        on_progress=lambda done, total: on_progress("make sample", done, total, {}),
    )
