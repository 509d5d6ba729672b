"""Find out which classes the annotations hold, and which value of a mask or label of a point is which class."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from segkit.data.point_files import UNLABELLED
from segkit.data.rasters import distinct_values, read_values
from segkit.errors import InputError
from segkit.slides.geojson import Feature, read_geojson

BACKGROUND: Final = "background"
FOREGROUND: Final = "foreground"
MAX_CLASSES: Final = 200
MAX_DISTINCT: Final = 32  # masks with more values than this hardly hold classes: most likely instance ids
# Labels (lower case, with underscores) of points that look like a class and are none, unless somebody names others.
HARD_NEGATIVES: Final = frozenset({
    "background", "hard_negative", "imposter", "look_alike", "lookalike", "negative", "non_mitotic",
    "non_mitotic_figure", "not_mitotic_figure",
})  # fmt: skip

ClassNames = Sequence[str] | Mapping[int, str] | None
ResultT = TypeVar("ResultT")


@dataclass
class Classes:
    """The classes of a data folder.

    Attributes
    ----------
    names
        By index, background first; empty: they are unknown.
    values
        Class index of every mask value.
    problems, notes
        What is wrong; what a user should know.
    labels
        Class index of every label of points; 0 for hard negatives.
    """

    names: tuple[str, ...] = ()
    values: dict[int, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def mask_classes(masks: Sequence[Path], given: ClassNames, ignore: int | None) -> Classes:
    """Return the classes of masks of class ids.

    Parameters
    ----------
    masks
        All masks of the data set; read only where `given` leaves their values open.
    given
        Class names by index, or names by mask value (value 0 is the background if it is not named); None: found
        in the masks. The values 0 and 255, or 0 and 1, mean background and foreground, others count the classes.
    ignore
        The mask value of pixels that are not labelled.
    """
    if given is not None and (isinstance(given, Mapping) or len(given) != 2):
        return _named(given, ignore)
    contents, problems = map_files(lambda path: distinct_values(read_values(path)), masks)
    found = sorted({value for content in contents.values() for value in content} - {ignore})
    classes = _classes_of_values(found, given, ignore) if contents else Classes()
    classes.problems += problems
    return classes


def label_classes(given: ClassNames) -> Classes:
    """Return the classes of instance labels: every id above 0 is foreground."""
    classes = _named(given or (BACKGROUND, FOREGROUND), None)
    if len(classes.names) != 2:
        classes.problems.append(
            f"classes: {', '.join(classes.names)}: labels/ hold the instances of one class. Name two, background first."
        )
    return classes


def polygon_classes(files: Sequence[Path], given: ClassNames) -> Classes:
    """Return the classes of polygons by their classification; without `given` they are sorted by name.

    All classifications that occur must be among `given`; polygons without one count as `foreground`.
    """
    contents, problems = map_files(_polygon_labels, files)
    found = set[str]().union(*contents.values())
    classes = _named(given or (BACKGROUND, *sorted(found - {BACKGROUND})), None)
    if contents and not found:
        return Classes(problems=["geojson/: the files hold no polygons, so there is nothing to learn.", *problems])
    unknown = [
        f"{path}: holds the classification {', '.join(sorted(labels - set(classes.names)))}, which is none of the "
        f"classes ({', '.join(classes.names)}); polygons without one count as {FOREGROUND}."
        for path, labels in contents.items()
        if labels - set(classes.names)
    ]
    classes.problems += problems + unknown
    return classes


def point_classes(
    labels: Mapping[Path, Mapping[str, int]], given: ClassNames, hard_negatives: Sequence[str] | None
) -> Classes:
    """Return the classes of points by their labels; without `given` these are sorted by name.

    Parameters
    ----------
    labels
        Number of points by label, of each file; points without a label count as `point`.
    given
        Class names, background first. Every label must be one of them or a hard negative, and every class must have
        a point.
    hard_negatives
        Labels that count as background; None: those of `HARD_NEGATIVES` that are no class in `given`.
    """
    totals = sum((Counter(counts) for counts in labels.values()), Counter[str]())
    if not totals:
        return Classes()
    hard = _hard_negatives(totals, given) if hard_negatives is None else set(hard_negatives)
    found = sorted(set(totals) - hard - {BACKGROUND})
    if given is None and not found:
        remedy = "Label what is to be found, or name other `hard_negatives`."
        return Classes(problems=[f"points: only hard negatives ({', '.join(sorted(totals))}). {remedy}"])
    classes = _named((BACKGROUND, *found) if given is None else given, None)
    index_of = {name: index for index, name in enumerate(classes.names)} | dict.fromkeys(hard, 0)
    classes.labels = {label: index_of[label] for label in totals if label in index_of}
    shown = ", ".join(sorted(totals))
    for name in classes.names[1:]:
        if name in hard:
            classes.problems.append(f"hard_negatives: {name} is a class, too. Keep it in one of the two.")
        if name not in totals:
            classes.problems.append(f"classes: {name}: no point has this label (the labels are {shown}).")
    classes.problems += _unknown_labels(labels, classes)
    classes.notes += [
        f"hard_negatives: {label}: no point has this label (the labels are {shown})."
        for label in hard_negatives or ()
        if label not in totals
    ]
    if given is None and UNLABELLED in found and len(totals) > 1:
        without = f"{totals[UNLABELLED]} of {totals.total()} points"
        classes.notes.append(
            f"points: {without} have no label, or the label {UNLABELLED}, which is a class of its own."
        )
    return classes


def _hard_negatives(labels: Iterable[str], given: ClassNames) -> set[str]:
    """Return the labels that say themselves that they are none of the classes."""
    named = set(given.values() if isinstance(given, Mapping) else given or ())
    return {label for label in labels if label.lower().replace(" ", "_").replace("-", "_") in HARD_NEGATIVES} - named


def _unknown_labels(labels: Mapping[Path, Mapping[str, int]], classes: Classes) -> list[str]:
    names = ", ".join(classes.names)
    return [
        f"{path}: holds the label {', '.join(sorted(unknown))}, which is none of the classes ({names}) and no hard "
        f"negative; points without a label count as {UNLABELLED}. Add it to `classes` or to `hard_negatives`."
        for path, counts in labels.items()
        if (unknown := set(counts) - set(classes.labels))
    ]


def class_of_polygon(feature: Feature) -> str:
    """Return the class name of a polygon."""
    return feature.label or FOREGROUND


def _polygon_labels(path: Path) -> set[str]:
    return {class_of_polygon(feature) for feature in read_geojson(path) if feature.polygons}


def _named(given: Sequence[str] | Mapping[int, str], ignore: int | None) -> Classes:
    by_value = {0: BACKGROUND, **given} if isinstance(given, Mapping) else dict(enumerate(given))
    values = sorted(by_value)
    names = tuple(by_value[value] for value in values)
    problems = []
    if len(set(names)) < len(names):
        problems.append(f"classes: {', '.join(names)}: every class needs its own name.")
    if not 2 <= len(names) <= MAX_CLASSES:
        problems.append(f"classes: {len(names)} given; from 2 to {MAX_CLASSES} are possible, background first.")
    if ignore is not None and ignore in by_value:
        problems.append(f"ignore: {ignore} is the value of class {by_value[ignore]}. Choose one of the two.")
    return Classes(names, {value: index for index, value in enumerate(values)}, problems)


def _classes_of_values(found: Sequence[int], given: Sequence[str] | None, ignore: int | None) -> Classes:
    """Return the classes of masks that hold the sorted values `found`; `given` are two names or None."""
    names = given or (BACKGROUND, FOREGROUND)
    shown = ", ".join(map(str, found[:8])) + (", ..." if len(found) > 8 else "")
    if set(found) <= {0}:
        return Classes(problems=["masks/: all pixels of all masks are background, so there is nothing to learn."])
    if set(found) <= {0, 255}:
        classes = _named(names, None)
        return Classes(classes.names, {0: 0, 255: 1}, classes.problems)
    if given is not None or set(found) <= {0, 1}:
        return _named(names, ignore)
    if len(found) > MAX_DISTINCT:
        remedy = "which look like instance ids. Rename masks/ to labels/, or name the classes in dataset.yaml."
        return Classes(problems=[f"masks/: hold {len(found)} different values ({shown}), {remedy}"])
    highest = found[-1]
    if set(range(1, highest + 1)) | {0} != set(found) | {0}:
        other = next(value for value in reversed(found) if value)
        remedy = f"`classes: {{0: {BACKGROUND}, {other}: cell}}`, or give the one that is not labelled as `ignore`."
        return Classes(problems=[f"masks/: hold the values {shown}, not 0, 1, 2, ... Name them, e.g. {remedy}"])
    return _named((BACKGROUND, *(f"class_{value}" for value in range(1, highest + 1))), ignore)


def map_files(read: Callable[[Path], ResultT], paths: Sequence[Path]) -> tuple[dict[Path, ResultT], list[str]]:
    """Call `read` for every file in a few threads (decoders release the lock); return results and problems."""

    def attempt(path: Path) -> ResultT | InputError:
        try:
            return read(path)
        except InputError as error:
            return error

    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        outcomes = list(pool.map(attempt, paths))
    results = {path: out for path, out in zip(paths, outcomes, strict=True) if not isinstance(out, InputError)}
    return results, [str(out) for out in outcomes if isinstance(out, InputError)]
