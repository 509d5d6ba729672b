"""splits.csv: which image is for training, validation or testing, and which images belong together."""

import csv
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from segkit.data.listing import SPLITS, Split

SPLITS_FILE: Final = "splits.csv"
KNOWN_COLUMNS: Final = frozenset({"image", "split", "group"})


@dataclass(frozen=True, slots=True)
class SplitRow:
    """One image's row: its split, its group (slide, patient) if there is one, and the line in the file.

    `attributes` are the further columns that have a value, (name, value): scanner, modality and the like.
    """

    split: Split
    group: str | None
    line: int
    attributes: tuple[tuple[str, str], ...] = ()


def read_split_table(path: Path, images: Mapping[str, Path]) -> tuple[dict[str, SplitRow], list[str]]:
    """Read splits.csv and compare it with the images that are there.

    Parameters
    ----------
    path
        A CSV file with the columns image (name or file name), split and, if wanted, group; others are attributes.
    images
        The images by name.

    Returns
    -------
    rows : dict
        The rows by image name.
    problems : list of str
        One line for everything wrong; empty when every image has one row and no group lies in two splits.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or []
            if not {"image", "split"} <= set(columns):
                return {}, [f"{path}: needs the columns image and split, and has: {', '.join(columns) or 'none'}."]
            records = [(reader.line_num, record) for record in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        return {}, [f"{path}: cannot be read ({error})."]
    name_by_cell = {cell: name for name, image in images.items() for cell in (name, image.stem, image.name)}
    rows: dict[str, SplitRow] = {}
    listed: set[str | None] = set()
    problems: list[str] = []
    for line, record in records:
        cell, word = (record["image"] or "").strip(), (record["split"] or "").strip()
        name = name_by_cell.get(cell)
        listed.add(name)
        split = next((known for known in SPLITS if known == word), None)
        if name is None:
            problems.append(f"{path}: line {line}: there is no image {cell!r}.")
        elif split is None:
            problems.append(f"{path}: line {line}: the split of {cell} is {word!r}; use train, val or test.")
        elif name in rows:
            problems.append(_twice(path, name, rows[name], split, line))
        else:
            rows[name] = SplitRow(split, (record.get("group") or "").strip() or None, line, _attributes(record))
    problems += [f"{path}: has no row for {image.name}." for name, image in images.items() if name not in listed]
    return rows, problems + _divided_groups(path, rows)


def _attributes(record: Mapping[str | None, str | list[str] | None]) -> tuple[tuple[str, str], ...]:
    further = {name: value for name, value in record.items() if name and name not in KNOWN_COLUMNS}
    return tuple((name, value.strip()) for name, value in further.items() if isinstance(value, str) and value.strip())


def _twice(path: Path, name: str, first: SplitRow, split: Split, line: int) -> str:
    where = f"line {first.line} and line {line}"
    if first.split == split:
        return f"{path}: {name} is listed twice ({where})."
    return f"{path}: {name} is in {first.split} and in {split} ({where}). Keep one of them."


def _divided_groups(path: Path, rows: Mapping[str, SplitRow]) -> list[str]:
    splits_of: dict[str, set[str]] = defaultdict(set)
    for row in rows.values():
        if row.group is not None:
            splits_of[row.group].add(row.split)
    return [
        f"{path}: group {group} is in {' and in '.join(sorted(splits))}, so results would be too good. "
        "Keep a group in one split."
        for group, splits in splits_of.items()
        if len(splits) > 1
    ]
