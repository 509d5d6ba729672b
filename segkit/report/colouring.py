"""Pure pixel work behind the pictures: outlines, fills, maps of errors, fitting to a size.

Images are uint8 (H, W, 1 or 3) in, uint8 (H, W, 3) RGB out; masks are uint8 (H, W) of class indices, 0 = background.
"""

from collections.abc import Sequence
from enum import Enum, IntEnum
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from segkit.masks import IGNORE, colour_of_class

Colour = tuple[int, int, int]

WHITE: Colour = (255, 255, 255)
HEAT: Colour = (213, 94, 0)
_DARK = 128


class Marker(Enum):
    """Shapes of points in pictures: told apart without colours, and open, so that they do not hide what they mark."""

    RING = "ring"
    CROSS = "cross"
    SQUARE = "square"
    DIAMOND = "diamond"


class Outcome(IntEnum):
    """What a prediction is at a pixel, as `outcomes` codes it. Foreground is every class but 0."""

    TRUE_NEGATIVE = 0
    TRUE_POSITIVE = 1
    FALSE_POSITIVE = 2
    FALSE_NEGATIVE = 3
    WRONG_CLASS = 4
    NOT_LABELLED = 5


def outcomes(prediction: NDArray[np.uint8], truth: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Compare two masks (H, W) pixel by pixel; return the values of `Outcome`, uint8 (H, W)."""
    result = np.full(truth.shape, Outcome.TRUE_NEGATIVE, np.uint8)
    predicted, true, same = prediction > 0, truth > 0, prediction == truth
    result[predicted & true & same] = Outcome.TRUE_POSITIVE
    result[predicted & ~true] = Outcome.FALSE_POSITIVE
    result[~predicted & true] = Outcome.FALSE_NEGATIVE
    result[predicted & true & ~same] = Outcome.WRONG_CLASS
    result[truth == IGNORE] = Outcome.NOT_LABELLED
    return result


def as_rgb(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a grey (H, W, 1) or RGB (H, W, 3) image as RGB; a copy that may be written to."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3):
        raise ValueError(f"an image must be uint8 (H, W, 1 or 3), got {image.dtype} {image.shape}")
    return np.broadcast_to(image, (*image.shape[:2], 3)).copy()


def brightened(image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], bool]:
    """Return an image, brightened where almost all of it is dark, as fluorescence is; and whether it was."""
    step = max(1, min(image.shape[:2]) // 500)
    bright = float(np.percentile(image[::step, ::step], 99.5))
    if bright >= _DARK:
        return image, False
    return (image * (255 / max(bright, 1))).clip(0, 255).astype(np.uint8), True


def as_pale_grey(image: NDArray[np.uint8], strength: float = 0.6) -> NDArray[np.uint8]:
    """Return the image without its colours and paler, so that colours painted over it stand out."""
    grey = np.asarray(Image.fromarray(as_rgb(image)).convert("L"), np.float32)
    pale = 255 - strength * (255 - grey)
    return np.repeat(pale.round().astype(np.uint8)[..., np.newaxis], 3, axis=2)


def paint(
    image: NDArray[np.uint8], where: NDArray[np.bool_], colour: Colour, opacity: float = 1.0
) -> NDArray[np.uint8]:
    """Return an RGB image with the pixels `where` (bool (H, W)) mixed with `colour`; opacity 0..1."""
    result = image.copy()
    mixed = (1 - opacity) * image[where].astype(np.float32) + opacity * np.array(colour, np.float32)
    result[where] = mixed.round().astype(np.uint8)
    return result


def edges(mask: NDArray[np.uint8], thickness: int) -> NDArray[np.bool_]:
    """Return the foreground pixels within `thickness` rows and columns of another class; bool (H, W).

    Lines lie inside their region, so regions of two classes that touch have a line each. The border of the
    image is no edge. Pixels with `IGNORE` count as background.
    """
    labelled = np.where(mask == IGNORE, 0, mask)
    size = 2 * thickness + 1
    highest = ndimage.maximum_filter(labelled, size, mode="nearest")
    lowest = ndimage.minimum_filter(labelled, size, mode="nearest")
    found: NDArray[np.bool_] = (highest != lowest) & (labelled > 0)
    return found


def outline(image: NDArray[np.uint8], mask: NDArray[np.uint8], thickness: int) -> NDArray[np.uint8]:
    """Return an RGB image with the regions of each class outlined in its colour and unlabelled pixels whitened."""
    lines = edges(mask, thickness)
    result = paint(image, mask == IGNORE, WHITE, 0.6)
    for index in np.unique(mask[lines]):
        result = paint(result, lines & (mask == index), colour_of_class(int(index)))
    return result


def fill(image: NDArray[np.uint8], mask: NDArray[np.uint8], opacity: float) -> NDArray[np.uint8]:
    """Return an RGB image with the regions of each foreground class tinted in its colour."""
    result = image
    for index in np.setdiff1d(mask, (0, IGNORE)):
        result = paint(result, mask == index, colour_of_class(int(index)), opacity)
    return result


def label_edges(labels: NDArray[np.integer], thickness: int) -> NDArray[np.bool_]:
    """Return the pixels of objects within `thickness` of anything else; labels (H, W) of ids, 0 = background.

    Like `edges`, for ids of any size: objects that touch have a line each.
    """
    size = 2 * thickness + 1
    highest = ndimage.maximum_filter(labels, size, mode="nearest")
    lowest = ndimage.minimum_filter(labels, size, mode="nearest")
    found: NDArray[np.bool_] = (highest != lowest) & (labels > 0)
    return found


def heat_over(image: NDArray[np.uint8], heat: NDArray[np.uint8], colour: Colour = HEAT) -> NDArray[np.uint8]:
    """Return a pale grey image tinted by a map, uint8 (H, W) or (H, W, 3) of equal channels: 255 is all colour."""
    opacity = (heat if heat.ndim == 3 else heat[..., np.newaxis]) / np.float32(255)
    heated = (1 - opacity) * as_pale_grey(image) + opacity * np.array(colour, np.float32)
    return heated.round().astype(np.uint8)


def fit_image(image: NDArray[np.uint8], longest_px: int) -> NDArray[np.uint8]:
    """Return an RGB image made to fit a square of `longest_px`.

    A larger image is averaged down, a smaller one is magnified by the largest whole factor that fits, pixels
    staying sharp squares.
    """
    return np.asarray(Image.fromarray(as_rgb(image)).resize(*_fitted(image.shape, longest_px, Image.Resampling.BOX)))


def fit_mask(mask: NDArray[np.uint8], longest_px: int) -> NDArray[np.uint8]:
    """Return a mask made to fit like `fit_image`, each pixel taken from the nearest one."""
    return np.asarray(Image.fromarray(mask).resize(*_fitted(mask.shape, longest_px, Image.Resampling.NEAREST)))


def fit_labels(labels: NDArray[np.integer], longest_px: int) -> NDArray[np.int32]:
    """Return ids (H, W) made to fit like `fit_image`, int32, each pixel taken from the nearest one."""
    picture = Image.fromarray(labels.astype(np.int32))
    return np.asarray(picture.resize(*_fitted(labels.shape, longest_px, Image.Resampling.NEAREST)))


def _fitted(
    shape: tuple[int, ...], longest_px: int, down: Image.Resampling
) -> tuple[tuple[int, int], Image.Resampling]:
    """Return the size (width, height) that fits and how to resample to it."""
    height, width = shape[:2]
    longest = max(height, width)
    if longest <= longest_px:
        factor = longest_px // longest
        return (width * factor, height * factor), Image.Resampling.NEAREST
    scale = longest_px / longest
    return (max(1, round(width * scale)), max(1, round(height * scale))), down


class Marked(NamedTuple):
    """Points that look alike in a picture; positions float64 (N, 2) y, x, 0.5 is the first pixel's centre."""

    positions: NDArray[np.float64]
    marker: Marker
    colour: Colour


def draw_markers(image: NDArray[np.uint8], groups: Sequence[Marked], size_px: int) -> NDArray[np.uint8]:
    """Return an RGB image with markers `size_px` across.

    A white rim shows them on dark and on pale ground. Later ones cover earlier ones, but no rim covers a marker.
    """
    picture = Image.fromarray(image)
    for is_rim in (True, False):
        for group in groups:
            opacity = _stamp(group.marker, size_px, is_rim=is_rim)
            corners = np.floor(group.positions[:, ::-1] - opacity.width / 2 + 0.5).astype(int).tolist()
            for x, y in corners:
                picture.paste(WHITE if is_rim else group.colour, (x, y), opacity)
    return np.asarray(picture)


@cache
def _stamp(marker: Marker, size_px: int, *, is_rim: bool) -> Image.Image:
    """Return how opaque a marker, or its rim, is in a square of pixels around its centre."""
    line_px = max(1.5, size_px / 9)
    reach = (size_px - line_px) / 2
    rim_px = 0.8 * line_px
    side = size_px + 2 * int(np.ceil(rim_px))
    x = np.abs(np.arange(side) - (side - 1) / 2)
    y = x[:, None]
    distance = {
        Marker.RING: np.abs(np.hypot(x, y) - reach),
        Marker.CROSS: np.hypot(np.maximum((x + y) / np.sqrt(2) - reach, 0), (x - y) / np.sqrt(2)),
        Marker.SQUARE: np.abs(np.maximum(x, y) - 0.85 * reach),
        Marker.DIAMOND: np.abs(x + y - 0.8 * reach) / np.sqrt(2),
    }[marker]
    inside = line_px / 2 + (rim_px if is_rim else 0) - distance
    return Image.fromarray((255 * np.clip(inside + 0.5, 0, 1)).round().astype(np.uint8))
