"""How often the test set was looked at: a table beside the model.

A test set that was looked at to choose between models is a second validation set, and its numbers are too good. So
every look is written down where the model is, and shown with its numbers.
"""

import csv
from pathlib import Path
from typing import Final

from segkit import files
from segkit.errors import SegkitError
from segkit.models.model_file import Model
from segkit.workflows import runs
from segkit.workflows.callbacks import OnNote

TEST_SPLITS: Final = ("test", "all")
TABLE: Final = "test_looks.csv"
COLUMNS: Final = ("date", "split", "model_sha256", "out")
WHAT_COUNTS: Final = (
    "Counted are evaluations with --data of models in this run's folder: a training anew starts at none, and "
    "predictions that were given (--pred) are never counted."
)


def record_look(model: Model, *, split: str, out: Path, on_note: OnNote) -> int:
    """Write down that a model was measured on the test set; return how often that was done with this run's models.

    A model file outside a run folder has no such table.
    """
    run = model.path.parent
    if not (run / runs.CONFIG).is_file():  # which a training that is under way or was stopped has, too
        return 0
    table = run / TABLE
    try:
        if not table.exists():
            files.append_line(table, ",".join(COLUMNS))
        # One short line at a time: two evaluations at once do not lose each other's.
        quoted = '"' + str(out).replace('"', '""') + '"'
        files.append_line(table, f"{runs.now()},{split},{model.sha256},{quoted}")
    except SegkitError as error:
        on_note(f"that the test set was looked at cannot be written down: {error.message}")
    count = len(read_looks(run))
    if count > 1:
        on_note(f"{looks_in_words(run)}, see {table}")
    return count


def looks_in_words(run: Path) -> str:
    """Return how often the test set was looked at with models of a run."""
    count = len(read_looks(run))
    return f"the test set has been looked at {count:,} time{'' if count == 1 else 's'} with models of {run}"


def read_looks(run: Path) -> list[dict[str, str]]:
    """Return the looks at the test set that were written down in a run's folder, the oldest first."""
    try:
        with (run / TABLE).open(encoding="utf-8", newline="") as handle:
            return [{name: row[name] for name in COLUMNS} for row in csv.DictReader(handle)]
    except (OSError, KeyError):
        return []
