"""Where a prediction's pixels lie on the truth's, and reading it there.

What is compared are the truth's pixels. What was predicted at another scale (a model's) is read there by the nearest
neighbour: a pixel of the truth has the value of the prediction's pixel that its centre lies in. That it is so must be
stated, by the run.json of `segkit predict` or by the scales that both files give, and fit the sizes: nothing is
stretched because it happens to be smaller.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from segkit.data.layout import MPP_TOLERANCE
from segkit.errors import InputError
from segkit.geometry import Box
from segkit.workflows.given_files import SlideRecord

BLOCK_PX: Final = 2048
"""Side of the squares that are compared at once."""


class Plane(Protocol):
    """Integers of an image of any size, read box by box."""

    height: int
    width: int

    def read(self, box: Box) -> NDArray[Any]:
        """Return the integers of a box inside, (height, width)."""


class Size(NamedTuple):
    """Height, width and micrometres per pixel (None: unknown) of an image."""

    height: int
    width: int
    mpp: float | None

    def __str__(self) -> str:
        scale = "" if self.mpp is None else f" of {self.mpp:.4g} um"
        return f"{self.width} x {self.height} pixels{scale}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where a prediction lies on the truth's pixels.

    A pixel of the prediction is `step` pixels of the truth wide and high; its top left corner lies at `origin` (y, x)
    in the truth's pixels. `box` are the truth's pixels that are compared, `is_part` if these are not all.
    """

    step: float
    origin: tuple[float, float]
    box: Box
    is_part: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether both have the same pixels."""
        return self.step == 1 and self.origin == (0, 0)


class Placed:
    """A prediction with the truth's pixels, by the nearest neighbour."""

    def __init__(self, plane: Plane, placement: Placement) -> None:
        self._plane, self._placement = plane, placement

    def read(self, box: Box) -> NDArray[Any]:
        """Return the prediction's integers in a box of the truth's pixels."""
        plane, placement = self._plane, self._placement
        if placement.is_plain:
            return plane.read(box)
        (y, x), step = placement.origin, placement.step
        rows = nearest(box.y, box.height, plane.height, step=step, origin=y)
        columns = nearest(box.x, box.width, plane.width, step=step, origin=x)
        top, left = int(rows[0]), int(columns[0])
        values = plane.read(Box(top, left, int(rows[-1]) - top + 1, int(columns[-1]) - left + 1))
        return values.take(rows - top, axis=0).take(columns - left, axis=1)


def nearest(start: int, length: int, size: int, *, step: float, origin: float) -> NDArray[np.int64]:
    """Return in which of the prediction's `size` pixels the centres of the truth's `start .. start + length - 1` lie.

    At the ends, where sizes were rounded, the last pixel goes on.
    """
    centres = np.arange(start, start + length) + 0.5
    inside: NDArray[np.float64] = np.clip(np.floor((centres - origin) / step), 0, size - 1)
    return inside.astype(np.int64)


def place(name: str, prediction: Size, truth: Size, record: SlideRecord | None) -> Placement:
    """Find out where the prediction of an image lies on the truth's pixels.

    Parameters
    ----------
    name
        Of the image, for messages.
    prediction, truth
        Their sizes.
    record
        What `segkit predict` wrote down of the slide, if it did.

    Raises
    ------
    InputError
        The sizes or the scales do not fit each other.
    """
    if prediction[:2] == truth[:2]:
        if differ(prediction.mpp, truth.mpp):
            raise InputError(
                f"{name}: the prediction is {prediction}, and the truth {truth}. Correct the scale that is wrong, or "
                "predict at the truth's."
            )
        return Placement(step=1.0, origin=(0.0, 0.0), box=Box(0, 0, truth.height, truth.width))
    if record is not None and (record.height, record.width) == truth[:2] and not differ(record.mpp, truth.mpp):
        return _placed(record.downsample, record.origin, prediction, truth)
    step = None if record is not None else _stated_factor(prediction, truth)
    if step is None:
        slide = "" if record is None else f", on a slide of {Size(record.height, record.width, record.mpp)}"
        raise InputError(
            f"{name}: the prediction is {prediction} (width x height){slide}, and the truth is {truth}. Both must "
            "have the size of the image, or the prediction must say its scale: in the run.json of `segkit predict`, "
            "or in um per pixel in both files."
        )
    return _placed(step, (0.0, 0.0), prediction, truth)


def _placed(step: float, origin: tuple[float, float], prediction: Size, truth: Size) -> Placement:
    sides = []
    for start, size, whole in zip(origin, prediction[:2], truth[:2], strict=True):
        # The centres that lie in the prediction; where its size was rounded it ends where the truth ends.
        first, end = max(0, math.ceil(start - 0.5)), math.ceil(start + size * step - 0.5)
        sides.append((first, whole if abs(whole - end) <= max(1.0, step) else min(end, whole)))
    (top, bottom), (left, right) = sides
    box = Box(top, left, bottom - top, right - left)
    return Placement(step=step, origin=origin, box=box, is_part=box != Box(0, 0, truth.height, truth.width))


def _stated_factor(prediction: Size, truth: Size) -> float | None:
    """Return how many pixels of the truth one of the prediction is wide, where both scales and both sizes say the same.

    A whole number (or one divided by one) where that explains the sizes, which are exact, while scales are rounded.
    """
    if prediction.mpp is None or truth.mpp is None:
        return None
    longer = int(truth.width > truth.height)
    ratio = truth[longer] / prediction[longer]  # type: ignore[operator]
    candidates = (max(1.0, round(ratio)), 1 / max(1, round(1 / ratio)), ratio)
    pairs = list(zip(truth[:2], prediction[:2], strict=True))
    fitting = [one for one in candidates if all(abs(large / one - small) <= 1 for large, small in pairs)]
    return fitting[0] if fitting and not differ(prediction.mpp / truth.mpp, fitting[0]) else None


def differ(one: float | None, other: float | None) -> bool:
    """Tell whether two scales are known and not the same."""
    return one is not None and other is not None and max(one / other, other / one) > 1 + MPP_TOLERANCE


def blocks_of(box: Box, *, in_strips: bool = False) -> Iterator[Box]:
    """Yield the squares, or bands of the whole width with as many pixels, that cover a box, row by row."""
    height = max(1, BLOCK_PX * BLOCK_PX // box.width) if in_strips else BLOCK_PX
    width = box.width if in_strips else BLOCK_PX
    for y in range(box.y, box.bottom, height):
        for x in range(box.x, box.right, width):
            yield Box(y, x, min(height, box.bottom - y), min(width, box.right - x))


def scales_in_words(placements: Mapping[str, Placement], prediction: Path) -> list[str]:
    """Return what a user should know of predictions that do not have the truth's pixels, a line for each scale."""
    notes = []
    for step in sorted({one.step for one in placements.values()} - {1.0}):
        names = [name for name, one in placements.items() if one.step == step]
        notes.append(
            f"{in_short(names)} in {prediction}: a pixel of the prediction is {step:.4g} of the truth's; compared are "
            "the truth's pixels, each with the prediction's pixel that its centre lies in"
        )
    if parts := [name for name, one in placements.items() if one.is_part]:
        notes.append(f"{in_short(parts)} in {prediction}: only a region was predicted, and nothing else is compared")
    return notes


def in_short(names: list[str]) -> str:
    """Return the first name, and how many more there are."""
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
