"""What mining has found, as a table for each round in the run folder."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from segkit import files
from segkit.data.mined import Mined
from segkit.errors import InputError

COLUMNS = ("image", "x", "y", "score")


def mined_path(run: Path, number: int) -> Path:
    """Return the table of a round, from 1 on."""
    return run / "mining" / f"round_{number}.csv"


def remove_mined(run: Path) -> None:
    """Remove the tables of all rounds."""
    for path in mined_path(run, 1).parent.glob("round_*.csv"):
        path.unlink()


def write_mined(path: Path, names: Sequence[str], mined: Sequence[Mined]) -> None:
    """Write the false positives in the images of these names."""
    rows = [
        {"image": name, "x": x, "y": y, "score": score}
        for name, one in zip(names, mined, strict=True)
        for (y, x), score in zip(one.positions.tolist(), one.scores.tolist(), strict=True)
    ]
    files.prepare_folder(path.parent)
    files.write_csv(path, rows, COLUMNS)


def read_mined(path: Path, names: Sequence[str]) -> list[Mined]:
    """Read them back, in the order of the names.

    Raises
    ------
    InputError
        The table is damaged.
    """
    rows: dict[str, list[tuple[float, float, float]]] = {name: [] for name in names}
    try:
        with path.open(encoding="utf-8", newline="") as handle:
            for row in csv.DictReader(handle):
                rows[row["image"]].append((float(row["y"]), float(row["x"]), float(row["score"])))
    except (OSError, KeyError, ValueError, TypeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read ({error}). Delete it, and the round is mined again.") from error
    tables = [np.array(rows[name], np.float64).reshape(-1, 3) for name in names]
    return [Mined(table[:, :2], table[:, 2]) for table in tables]
