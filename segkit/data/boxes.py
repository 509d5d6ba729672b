"""Read points from JSON with boxes, as COCO and MIDOG publish them: the centres of the boxes."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segkit.data.point_files import UNLABELLED, RawPoints, require_small, shorten
from segkit.errors import InputError
from segkit.slides.geojson import read_json

BoxForm = Literal["xywh", "xyxy"]
BOX_FORMS: Final[dict[BoxForm, str]] = {"xywh": "[x, y, width, height]", "xyxy": "[x1, y1, x2, y2]"}


class _Box(NamedTuple):
    """A box: its four numbers, width and height of its image (infinite where unknown)."""

    numbers: tuple[float, ...]
    size: tuple[float, float]
    image: str
    label: str
    place: str


def read_boxes(path: Path, form: BoxForm | None) -> RawPoints:
    """Read the centres of the boxes in a JSON file with images, annotations and categories, as COCO and MIDOG have.

    Parameters
    ----------
    path
        The file. Images need `id` and `file_name`, annotations `image_id` and `bbox`, categories `id` and `name`.
    form
        What the four numbers of a box are; None: found out by `_choose_form`, and noted.

    Raises
    ------
    InputError
        It cannot be read. What is wrong with single annotations, and whether the form of the boxes is not clear, is
        in `problems`.
    """
    require_small(path)
    content = read_json(path)
    entries = {name: _entries(path, content, name) for name in ("images", "annotations", "categories")}
    images, categories = (_by_id(path, entries[name], name) for name in ("images", "categories"))
    boxes: list[_Box] = []
    problems = []
    for number, entry in enumerate(entries["annotations"], start=1):
        try:
            boxes.append(_parse_box(entry, images, categories, f"annotation {number}"))
        except (ValueError, OverflowError) as error:
            problems.append(f"{path}: annotation {number}: {error}")
    problems, notes = shorten(path, problems, "annotations"), []
    chosen = _choose_form(boxes) if form is None and boxes else form
    if chosen is None and boxes:
        remedy = "Say which with `boxes: xywh` or `boxes: xyxy` in dataset.yaml"
        problems.append(f"{path}: its boxes may be {BOX_FORMS['xywh']} or {BOX_FORMS['xyxy']}. {remedy}.")
    elif chosen is not None and form is None:
        notes.append(f"{path}: boxes are read as {BOX_FORMS[chosen]} (`boxes` in dataset.yaml can say otherwise).")
    return RawPoints(
        positions=_centres(boxes, chosen or "xywh")[:, ::-1],
        labels=[box.label for box in boxes],
        images=[box.image for box in boxes],
        places=[box.place for box in boxes],
        problems=problems,
        notes=notes,
    )


def _entries(path: Path, content: Any, name: str) -> list[Any]:
    entries = content.get(name, []) if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise InputError(f"{path}: its {name} are no list. Export boxes in COCO's format: images, annotations, ...")
    return entries


def _by_id(path: Path, entries: Sequence[Any], name: str) -> dict[int | str, dict[str, Any]]:
    """Return images or categories by their id."""
    key = "file_name" if name == "images" else "name"
    usable = all(
        isinstance(entry, dict) and isinstance(entry.get("id"), int | str) and isinstance(entry.get(key), str)
        for entry in entries
    )
    by_id = {entry["id"]: entry for entry in entries} if usable else {}
    if len(by_id) < len(entries):
        raise InputError(f"{path}: its {name} need an id of their own and a {key} each. Export it again.")
    return by_id


def _parse_box(
    entry: Any,
    images: Mapping[int | str, Mapping[str, Any]],
    categories: Mapping[int | str, Mapping[str, Any]],
    place: str,
) -> _Box:
    """Return a box; ValueError says what is wrong with it."""
    box = entry.get("bbox") if isinstance(entry, dict) else None
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        raise ValueError(f"its bbox is {json.dumps(box)[:80]}, and four numbers are needed.")
    image = _entry_of("image_id", entry, images, "images")
    sizes: list[Any] = [image.get(name) for name in ("width", "height")]
    width, height = (float(size) if _is_number(size) and size > 0 else math.inf for size in sizes)
    # Without categories there is one class; otherwise an annotation has to belong to one of them.
    label = _entry_of("category_id", entry, categories, "categories")["name"] if categories else ""
    file_name = re.split(r"[/\\]", image["file_name"])[-1]
    return _Box(tuple(map(float, box)), (width, height), file_name, label.strip() or UNLABELLED, place)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _entry_of(
    key: str, entry: Mapping[str, Any], known: Mapping[int | str, Mapping[str, Any]], name: str
) -> Mapping[str, Any]:
    identity = entry.get(key)
    if not isinstance(identity, int | str) or identity not in known:
        raise ValueError(f"its {key} is {json.dumps(identity)[:80]}, which is none of the {name}.")
    return known[identity]


def _choose_form(boxes: Sequence[_Box]) -> BoxForm | None:
    """Find out whether boxes are x, y, width, height (COCO) or x1, y1, x2, y2 (MIDOG); None: that is not clear.

    A box fits a form if in that form its width and height are not negative and its centre lies in its image. The
    form that more boxes fit is taken. Real files are clear: hardly a box of COCO is larger than its distance from
    the top left corner, which corners would mean, and MIDOG's boxes leave their image when corners are taken for
    sizes. A few boxes near the top left corner may fit both.
    """
    misfits: dict[BoxForm, int] = {form: _count_misfits(boxes, form) for form in BOX_FORMS}
    if misfits["xywh"] == misfits["xyxy"]:
        return None
    return min(misfits, key=lambda form: misfits[form])


def _count_misfits(boxes: Sequence[_Box], form: BoxForm) -> int:
    numbers = np.array([box.numbers for box in boxes])
    extents = numbers[:, 2:] if form == "xywh" else numbers[:, 2:] - numbers[:, :2]
    centres, sizes = _centres(boxes, form), np.array([box.size for box in boxes])
    fits = (extents >= 0) & (centres >= 0) & (centres <= sizes)
    return int(np.count_nonzero(~fits.all(axis=1)))


def _centres(boxes: Sequence[_Box], form: BoxForm) -> NDArray[np.float64]:
    """Return x and y of the centres, (N, 2)."""
    numbers = np.array([box.numbers for box in boxes], np.float64).reshape(-1, 4)
    return numbers[:, :2] + numbers[:, 2:] / 2 if form == "xywh" else (numbers[:, :2] + numbers[:, 2:]) / 2
