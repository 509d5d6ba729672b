"""Find out which classes the annotations hold, and which value of a mask is which class."""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from segkit.data.rasters import distinct_values, read_values
from segkit.errors import InputError
from segkit.slides.geojson import Feature, read_geojson

BACKGROUND: Final = "background"
FOREGROUND: Final = "foreground"
MAX_CLASSES: Final = 200
MAX_DISTINCT: Final = 32  # masks with more values than this hardly hold classes: most likely instance ids

ClassNames = Sequence[str] | Mapping[int, str] | None
ResultT = TypeVar("ResultT")


@dataclass
class Classes:
    """Class names by index, the class index of every mask value, and what is wrong; no names: they are unknown."""

    names: tuple[str, ...] = ()
    values: dict[int, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


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
    contents, problems = _map_files(lambda path: distinct_values(read_values(path)), masks)
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
    contents, problems = _map_files(_polygon_labels, files)
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
        remedy = f"`classes: {{0: {BACKGROUND}, {highest}: cell}}`, or give the one that is not labelled as `ignore`."
        return Classes(problems=[f"masks/: hold the values {shown}, not 0, 1, 2, ... Name them, e.g. {remedy}"])
    return _named((BACKGROUND, *(f"class_{value}" for value in range(1, highest + 1))), ignore)


def _map_files(read: Callable[[Path], ResultT], paths: Sequence[Path]) -> tuple[dict[Path, ResultT], list[str]]:
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
