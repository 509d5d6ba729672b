"""Pictures of cases: an image with what was found, missed and invented in it, small enough for a page with hundreds.

The image is a WebP; what is drawn over it are layers of their own, so that a reader can hide them: outlines and
markers as paths of SVG, sharp at any size, and areas as PNG of their pixels. Images are uint8 (H, W, 1 or 3); None
stands for one that is not there, and gives an empty ground. Truth and prediction are (H, W). Positions are float64
(N, 2) y, x; 0.5 is the first pixel's centre.
"""

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from segkit.geometry import Box
from segkit.report.colouring import Colour, Outcome, as_rgb, brightened, outcomes

LONGEST_PX: Final = 768
"""Longest side of a picture that people look at closely."""

MAX_LAYER_BYTES: Final = 300_000
"""A picture whose layers take more is cut to half the side, again and again: thousands of objects are no picture."""

_SHRINK: Final = 2  # larger images are cut instead, as objects would vanish
_SMALLEST_PX: Final = 64
_QUALITY: Final = 78
_EMPTY: Final = 236
_TOLERANCE_PX: Final = 0.6
_MANY: Final = 100_000


class Kind(StrEnum):
    """What a layer shows. Colours, dashes and shapes of each are in the style sheet."""

    RIGHT = "right"
    FALSE = "false"
    MISSED = "missed"
    CONFUSED = "confused"
    UNLABELLED = "unlabelled"
    LOOK_ALIKE = "look-alike"


# Of areas; Okabe and Ito, as everywhere, with opacities of 0..255.
_AREAS: Final[dict[Outcome, tuple[Kind, Colour, int]]] = {
    Outcome.TRUE_POSITIVE: (Kind.RIGHT, (0, 158, 115), 90),
    Outcome.FALSE_POSITIVE: (Kind.FALSE, (213, 94, 0), 225),
    Outcome.FALSE_NEGATIVE: (Kind.MISSED, (0, 114, 178), 225),
    Outcome.WRONG_CLASS: (Kind.CONFUSED, (204, 121, 167), 225),
    Outcome.NOT_LABELLED: (Kind.UNLABELLED, (160, 160, 160), 170),
}
_STRIPE: Final[Colour] = (150, 205, 240)
_STRIPE_PX: Final = 2


@dataclass(frozen=True, slots=True)
class Layer:
    """Something drawn over an image: a path in pixels of the window (with `is_outline` of objects), or a PNG."""

    kind: Kind
    path: str = ""
    png: bytes = b""
    is_outline: bool = False


@dataclass(frozen=True, slots=True)
class Picture:
    """An image, as WebP, with its layers; `width` and `height` are of its window in pixels of the original.

    `note` says what was done to it, such as which part of the original it is.
    """

    image: bytes
    width: int
    height: int
    layers: tuple[Layer, ...]
    note: str = ""

    @property
    def num_characters(self) -> int:
        """About how long it is in HTML."""
        encoded = len(self.image) + sum(len(layer.png) for layer in self.layers)
        return 4 * encoded // 3 + sum(300 + len(layer.path) for layer in self.layers) + 500


def pixel_picture(
    image: NDArray[np.uint8] | None, truth: NDArray[np.uint8], prediction: NDArray[np.uint8], *, longest_px: int
) -> Picture:
    """Draw the pixels that are right, false, missed, and of a wrong class, as areas.

    Missed ones are striped, so that they are told from false ones without colours. Of an image more than twice as
    large as the picture the part with most errors is shown.

    Parameters
    ----------
    image
        uint8 (H, W, 1 or 3), or None.
    truth, prediction
        Class indices, uint8 (H, W), 0 = background; `IGNORE` in the truth is not labelled.
    longest_px
        Longest side of the picture, if the image is larger.

    Raises
    ------
    ValueError
        The sizes differ.
    """
    _require_same_size(image, truth, prediction)
    compared = outcomes(prediction, truth)
    wrong = (compared == Outcome.FALSE_POSITIVE) | (compared == Outcome.FALSE_NEGATIVE)
    wrong |= compared == Outcome.WRONG_CLASS

    def layers_of(window: Box) -> list[Layer]:
        part = compared[window.y : window.bottom, window.x : window.right]
        return [
            Layer(kind, png=_area_png(_shrunk_mask(part == outcome, longest_px), kind, colour, opacity))
            for outcome, (kind, colour, opacity) in _AREAS.items()
            if (part == outcome).any()
        ]

    return _picture(image, (truth.shape[0], truth.shape[1]), wrong if wrong.any() else truth > 0, layers_of, longest_px)


def object_picture(
    image: NDArray[np.uint8] | None,
    truth: NDArray[np.integer],
    prediction: NDArray[np.integer],
    matches: NDArray[np.integer],
    *,
    longest_px: int,
) -> Picture:
    """Outline the predicted objects that are matched and that are false, and the true ones that are missed.

    Parameters
    ----------
    image, longest_px
        As of `pixel_picture`.
    truth, prediction
        Ids, integers (H, W); 0 is background, negative ones are not drawn.
    matches
        Integers (M, 2): the true and the predicted id of those that belong together.

    Raises
    ------
    ValueError
        The sizes differ.
    """
    _require_same_size(image, truth, prediction)
    pairs = matches.reshape(-1, 2)
    false = (prediction > 0) & ~np.isin(prediction, pairs[:, 1])
    missed = (truth > 0) & ~np.isin(truth, pairs[:, 0])
    right = (prediction > 0) & ~false

    def layers_of(window: Box) -> list[Layer]:
        rows, columns = slice(window.y, window.bottom), slice(window.x, window.right)
        shown = [
            (Kind.RIGHT, np.where(right, prediction, 0)[rows, columns]),
            (Kind.FALSE, np.where(false, prediction, 0)[rows, columns]),
            (Kind.MISSED, np.where(missed, truth, 0)[rows, columns]),
        ]
        return [Layer(kind, path=outline_path(labels), is_outline=True) for kind, labels in shown if labels.any()]

    wrong = false | missed
    return _picture(
        image, (truth.shape[0], truth.shape[1]), wrong if wrong.any() else (truth > 0) | right, layers_of, longest_px
    )


def point_picture(
    image: NDArray[np.uint8] | None,
    shape: tuple[int, int],
    *,
    right: NDArray[np.float64],
    false: NDArray[np.float64],
    missed: NDArray[np.float64],
    look_alikes: NDArray[np.float64],
    radius_px: float,
    longest_px: int,
) -> Picture:
    """Mark detections that are right (rings) and false (crosses), points missed (squares) and look-alikes (diamonds).

    Parameters
    ----------
    image, longest_px
        As of `pixel_picture`.
    shape
        Height and width of the image.
    right, false, missed, look_alikes
        Positions, float64 (N, 2).
    radius_px
        The radius of a match: markers are as large, if there is room.
    """
    height, width = shape
    groups = ((Kind.LOOK_ALIKE, look_alikes), (Kind.RIGHT, right), (Kind.FALSE, false), (Kind.MISSED, missed))

    def layers_of(window: Box) -> list[Layer]:
        inside = [(kind, positions[_is_in(positions, window)]) for kind, positions in groups]
        number = sum(len(positions) for _, positions in inside)
        reach = _reach(window, number, radius_px)
        corner = np.array([window.y, window.x])
        return [Layer(kind, _marks(positions - corner, kind, reach)) for kind, positions in inside if len(positions)]

    errors = np.concatenate([false, missed])
    weights = np.zeros((height, width), np.uint8)
    places = np.floor(errors if len(errors) else np.concatenate([right, look_alikes])).astype(np.int64)
    weights[places[:, 0].clip(0, height - 1), places[:, 1].clip(0, width - 1)] = 255
    return _picture(image, shape, weights > 0, layers_of, longest_px)


def data_uri(content: bytes, media_type: str) -> str:
    """Return bytes as an address that holds them."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def busiest_window(weights: NDArray[np.bool_], side: int) -> Box:
    """Return the square of `side`, cut at the image's size, that holds most of the pixels (H, W) given.

    It is looked for in steps of a 16th of its side; without any such pixel it is the middle of the image.
    """
    height, width = weights.shape
    step = max(1, side // 16)
    starts = [np.arange(0, length, step) for length in (height, width)]
    # Rows first: of a large image that leaves little to hold.
    blocks = np.add.reduceat(np.add.reduceat(weights, starts[0], axis=0, dtype=np.int64), starts[1], axis=1)
    sums = np.pad(blocks.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    rows, columns = (min(length, side // step) for length in blocks.shape)
    inside = sums[rows:, columns:] - sums[:-rows, columns:] - sums[rows:, :-columns] + sums[:-rows, :-columns]
    y, x = np.nonzero(inside == inside.max())
    # Of equal ones the nearest to the middle.
    nearest = np.hypot(y - (inside.shape[0] - 1) / 2, x - (inside.shape[1] - 1) / 2).argmin()
    top, left = min(int(y[nearest]) * step, max(0, height - side)), min(int(x[nearest]) * step, max(0, width - side))
    return Box(top, left, min(height, side), min(width, side))


def outline_path(labels: NDArray[np.integer]) -> str:
    """Return the outlines of objects, ids (H, W), as a path: through the centres of their outermost pixels.

    So objects that touch have a line each; corners of half a pixel are cut.
    """
    numbered = labels.astype(np.int32)
    if labels.max(initial=0) > _MANY:
        ids, places = np.unique(labels, return_inverse=True)
        numbered = np.where(ids > 0, np.cumsum(ids > 0), 0)[places].reshape(labels.shape).astype(np.int32)
    pieces = []
    for number, place in enumerate(ndimage.find_objects(numbered), start=1):
        if place is None:
            continue
        rows, columns = place
        mask = (numbered[place] == number).astype(np.uint8)
        contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        pieces += [
            _polygon(cv2.approxPolyDP(one, _TOLERANCE_PX, True)[:, 0], columns.start, rows.start) for one in contours
        ]
    return "".join(pieces)


def _polygon(corners_xy: NDArray[np.int32], x: int, y: int) -> str:
    first = corners_xy[0] + (x, y)
    steps = " ".join(map(str, np.diff(corners_xy, axis=0).ravel().tolist()))
    return f"M{first[0]}.5 {first[1]}.5" + (f"l{steps}z" if steps else "h0")


def _picture(
    image: NDArray[np.uint8] | None,
    shape: tuple[int, int],
    interesting: NDArray[np.bool_],
    layers_of: Callable[[Box], list[Layer]],
    longest_px: int,
) -> Picture:
    """Choose a window, draw its layers, and encode its pixels."""
    height, width = shape
    is_whole = max(shape) <= _SHRINK * longest_px
    window = Box(0, 0, height, width) if is_whole else busiest_window(interesting, longest_px)
    layers = layers_of(window)
    while (
        sum(len(one.path) + len(one.png) for one in layers) > MAX_LAYER_BYTES
        and max(window.height, window.width) > _SMALLEST_PX
    ):
        window = busiest_window(interesting, max(window.height, window.width) // 2)
        layers = layers_of(window)
    if image is None:
        pixels, is_brightened = np.full((window.height, window.width, 1), _EMPTY, np.uint8), False
    else:
        pixels, is_brightened = brightened(image[window.y : window.bottom, window.x : window.right])
    part = f"{window.width} x {window.height} px"
    if (window.height, window.width) != (height, width):
        part += f" at x {window.x}, y {window.y} of {width} x {height} px, where most errors are"
    notes = [part, "brightened" if is_brightened else "", "no image" if image is None else ""]
    return Picture(
        _webp(_shrunk(as_rgb(pixels), longest_px)),
        window.width,
        window.height,
        tuple(layers),
        "; ".join(filter(None, notes)),
    )


def _shrunk(pixels: NDArray[np.uint8], longest_px: int) -> NDArray[np.uint8]:
    """Return pixels averaged down to a longest side; smaller ones stay, as a browser magnifies them."""
    height, width = pixels.shape[:2]
    scale = longest_px / max(height, width)
    if scale >= 1:
        return pixels
    size = max(1, round(width * scale)), max(1, round(height * scale))
    shrunk: NDArray[np.uint8] = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return shrunk


def _shrunk_mask(mask: NDArray[np.bool_], longest_px: int) -> NDArray[np.bool_]:
    # Half of a pixel is enough, so that lines one pixel wide stay when the image is halved.
    return _shrunk(mask.astype(np.uint8) * 255, longest_px) >= 127


def _area_png(mask: NDArray[np.bool_], kind: Kind, colour: Colour, opacity: int) -> bytes:
    """Return a PNG with a palette: nothing, a colour, and for what is missed the colour of its stripes."""
    coded = mask.astype(np.uint8)
    if kind is Kind.MISSED:
        diagonals = np.arange(mask.shape[0])[:, np.newaxis] + np.arange(mask.shape[1])
        coded[mask & (diagonals // _STRIPE_PX % 2 == 1)] = 2
    picture = Image.frombytes("P", mask.shape[::-1], coded.tobytes())
    picture.putpalette([0, 0, 0, *colour, *_STRIPE])
    content = io.BytesIO()
    picture.save(content, format="PNG", bits=2, transparency=bytes([0, opacity, opacity]))
    return content.getvalue()


def _webp(pixels: NDArray[np.uint8]) -> bytes:
    content = io.BytesIO()
    # Method 1 takes half the time of the default, 4, or less, for some 7 % more bytes.
    Image.fromarray(pixels).save(content, format="WEBP", quality=_QUALITY, method=1)
    return content.getvalue()


def _is_in(positions: NDArray[np.float64], window: Box) -> NDArray[np.bool_]:
    y, x = positions[:, 0], positions[:, 1]
    inside: NDArray[np.bool_] = (y >= window.y) & (y < window.bottom) & (x >= window.x) & (x < window.right)
    return inside


def _reach(window: Box, number: int, radius_px: float) -> float:
    """Return half the size of markers: the radius, but visible in a small picture and apart from one another."""
    room = 0.4 * float(np.sqrt(window.area / max(number, 1)))
    longest = max(window.height, window.width)
    return min(max(radius_px, longest / 70), max(room, longest / 150))


def _marks(positions: NDArray[np.float64], kind: Kind, reach: float) -> str:
    shape = {
        Kind.RIGHT: "m{-r} 0a{r} {r} 0 1 0 {2r} 0a{r} {r} 0 1 0 {-2r} 0z",
        Kind.FALSE: "m{-r} {-r}l{2r} {2r}m0 {-2r}l{-2r} {2r}",
        Kind.MISSED: "m{-r} {-r}h{2r}v{2r}h{-2r}z",
        Kind.LOOK_ALIKE: "m0 {-r}l{r} {r}l{-r} {r}l{-r} {-r}z",
    }[kind]
    for name, value in {"{-2r}": -2 * reach, "{2r}": 2 * reach, "{-r}": -reach, "{r}": reach}.items():
        shape = shape.replace(name, f"{round(value, 1):g}")
    return "".join(f"M{x:.1f} {y:.1f}{shape}" for y, x in positions.tolist())


def _require_same_size(
    image: NDArray[np.uint8] | None, truth: NDArray[np.generic], prediction: NDArray[np.generic]
) -> None:
    shapes = {array.shape[:2] for array in (image, truth, prediction) if array is not None}
    if len(shapes) > 1:
        raise ValueError(f"image, truth and prediction differ in size: {sorted(shapes)}")
