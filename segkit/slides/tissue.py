"""Where a slide holds tissue, so that blank glass need not be computed.

The rule of `find_tissue`
-------------------------
Skipping tissue would lose results, computing glass only costs time: whatever cannot be told from glass with
certainty is kept. Work is done on a picture of the slide of at most 2048 px, or of 2 um per pixel where that is less
(and at least 512 px): finer ones show more noise and no more tissue.

- *Glass* is bright (160 or more in each channel), nearly colourless (channels within 15) and flat (within 6 grey
  levels over 7 x 7 pixels, after light smoothing). Its colour is that of the brightest peak of these pixels'
  histogram. Where less than 1 % of the slide is like that, where much of it is brighter than the peak, or
  where there is no colour anywhere (grey slides), nothing is skipped.
- *Tissue* absorbs light: it is darker than glass in some channel. It is looked for at three scales, from what is as
  small as a cell to what is pale and wide; the threshold is four times the noise of the glass, within narrow bounds
  (`_SCALES`). The noise is measured on the bright side of the glass's peak, where there is no tissue.
- It is grown by 50 um (at least 4 pixels of the picture), and holes of less than 0.25 mm2 in it are filled. Where a
  slide does not say its pixel size, 0.25 um is assumed, the finest that is usual.
- Regions that the scanner left out, plain white or black with straight borders, are blank.

Dust, pen, bubbles and the edges of cover slips stay: they are not glass.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from segkit.errors import InputError
from segkit.geometry import Box
from segkit.slides import open_slide
from segkit.slides.geojson import Feature, rasterise, read_geojson
from segkit.slides.slide import Slide
from segkit.slides.thumbnail import read_thumbnail, thumbnail_size

Source = Literal["measured", "file", "none"]

_LONGEST_PX, _SHORTEST_PX, _FINEST_UM = 2048, 512, 2.0
_GEOJSON_SUFFIXES = frozenset({".geojson", ".json"})

_BRIGHT, _COLOURLESS, _FLAT, _FLAT_WINDOW_PX = 160, 15, 6, 7
_SMALLEST_GLASS_SHARE = 0.01
_GREY = 3  # largest difference of channels in a grey picture that was stored with colours
_PEAK = 5  # grey levels on each side of the glass's peak that are glass
_LARGEST_BRIGHTER_SHARE = 0.2  # of the glass's area; more, and what was found is no glass but something pale
_SCALES = (
    (0.0, 6.0, 12.0),
    (0.8, 4.0, 8.0),
    (3.0, 3.0, 5.0),
)  # sigma in px, least and largest threshold in grey levels
_CELL_UM = 5.0  # across, the smallest
_NOISES = 4.0
_OUTSIDE_ONE_DEVIATION = 0.317  # share of normally distributed values; of one side of them alike
_GROWTH_UM, _LEAST_GROWTH_PX, _ASSUMED_MPP = 50.0, 4.0, 0.25
_HOLE_UM2 = 250_000.0
_STRAIGHT_PX, _STRAIGHT_SHARE = 16, 0.9

_READ_PX = 4096  # side of the squares that a mask is read in
_PROPORTION_TOLERANCE = 0.02
_FARTHEST_PX = 2**30  # OpenCV draws lines between any points of 32 bit


@dataclass(frozen=True, slots=True, eq=False)
class Tissue:
    """Where a slide holds tissue.

    Attributes
    ----------
    mask
        bool (h, w), stretched over the whole slide; True where there is, or may be, tissue.
    height, width
        Size of the slide in level-0 pixels.
    source
        `measured` by segkit, taken from a `file`, or `none`: everything is computed.
    """

    mask: NDArray[np.bool_]
    height: int
    width: int
    source: Source

    @property
    def share(self) -> float:
        """Share of the slide that is tissue, 0..1."""
        return float(self.mask.mean())

    def wanted_cells(
        self, *, y0: float, x0: float, cell: float, rows: int, columns: int, margin: float
    ) -> NDArray[np.bool_]:
        """Tell in which cells of a grid there is any tissue.

        Parameters
        ----------
        y0, x0
            Top left corner of the grid, in level-0 pixels like all lengths here.
        cell
            Side of a cell.
        rows, columns
            Number of cells.
        margin
            Tissue so far outside of a cell counts too, as a network sees it.

        Returns
        -------
        NDArray[np.bool_]
            `rows x columns`. A pixel of the mask counts for every cell that it touches. Cells outside of the slide
            hold none.

        Raises
        ------
        ValueError
            The cell is not positive, or the margin or the number of cells is negative.
        """
        if cell <= 0 or margin < 0 or rows < 0 or columns < 0:
            raise ValueError(f"no grid of {rows} x {columns} cells of {cell} px with a margin of {margin} px")
        top, bottom = _touched(y0, cell, rows, margin, self.mask.shape[0] / self.height, self.mask.shape[0])
        left, right = _touched(x0, cell, columns, margin, self.mask.shape[1] / self.width, self.mask.shape[1])
        sums = np.zeros((self.mask.shape[0] + 1, self.mask.shape[1] + 1), np.int64)
        np.cumsum(self.mask, axis=0, out=sums[1:, 1:])
        np.cumsum(sums, axis=1, out=sums)
        found = sums[np.ix_(bottom, right)] - sums[np.ix_(top, right)] - sums[np.ix_(bottom, left)]
        wanted: NDArray[np.bool_] = found + sums[np.ix_(top, left)] > 0
        return wanted


def _touched(
    start: float, cell: float, number: int, margin: float, scale: float, size: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return first and end of the mask's pixels that each cell of one axis, grown by the margin, touches."""
    edges = start + cell * np.arange(number + 1)
    first = np.floor((edges[:-1] - margin) * scale)
    end = np.ceil((edges[1:] + margin) * scale)
    return np.clip(first, 0, size).astype(np.intp), np.clip(end, 0, size).astype(np.intp)


def everywhere(slide: Slide) -> Tissue:
    """Return that all of the slide is to be computed: a mask of one pixel."""
    return Tissue(np.ones((1, 1), np.bool_), slide.height, slide.width, "none")


def find_tissue(slide: Slide) -> Tissue:
    """Find tissue by the rule at the top of this module.

    Returns
    -------
    Tissue
        `measured`; all True where the slide is grey or has no glass that can be told apart.

    Raises
    ------
    InputError
        The slide is damaged.
    """
    longest_um = (slide.mpp or _ASSUMED_MPP) * max(slide.height, slide.width)
    longest_px = int(np.clip(longest_um / _FINEST_UM, _SHORTEST_PX, _LONGEST_PX))
    height, width = thumbnail_size(slide.height, slide.width, longest_px)
    um_per_px = longest_um / max(height, width)
    if slide.channels == 1:
        return Tissue(np.ones((height, width), np.bool_), slide.height, slide.width, "measured")
    mask = find_tissue_in(read_thumbnail(slide, height, width), um_per_px)
    return Tissue(mask, slide.height, slide.width, "measured")


def find_tissue_in(picture: NDArray[np.uint8], um_per_px: float) -> NDArray[np.bool_]:
    """Find tissue in the picture of a whole slide by the rule at the top of this module.

    Parameters
    ----------
    picture
        uint8 (H, W, 3).
    um_per_px
        Size of its pixels.

    Returns
    -------
    NDArray[np.bool_]
        (H, W).
    """
    unscanned = _unscanned(picture)
    glass = _find_glass(picture, unscanned)
    if glass is None:
        return np.ones(picture.shape[:2], np.bool_)
    tissue = np.zeros(picture.shape[:2], np.bool_)
    # Where a cell is several pixels wide, a single dark pixel is noise.
    for sigma, least, largest in _SCALES[um_per_px < _CELL_UM :]:
        drop = np.full(picture.shape[:2], -np.inf, np.float32)
        for channel in range(3):
            plain = picture[..., channel].astype(np.float32)
            smooth = cv2.GaussianBlur(plain, (0, 0), sigma) if sigma else plain
            np.maximum(drop, glass.colour[channel] - smooth, out=drop)
        middle = np.median(drop[glass.at_peak])
        noise = middle - np.quantile(drop[glass.bright_side], _OUTSIDE_ONE_DEVIATION)
        tissue |= drop > middle + np.clip(_NOISES * noise, least, largest)
    tissue &= ~unscanned
    return _fill_holes(_grow(tissue, max(_LEAST_GROWTH_PX, _GROWTH_UM / um_per_px)), _HOLE_UM2 / um_per_px**2)


class _Glass(NamedTuple):
    """Glass in a picture: its colour (3), which pixels have it (H, W), and which lie on the peak's bright side."""

    colour: NDArray[np.float64]
    at_peak: NDArray[np.bool_]
    bright_side: NDArray[np.bool_]


def _find_glass(picture: NDArray[np.uint8], unscanned: NDArray[np.bool_]) -> _Glass | None:
    """Return what is glass for sure, or None where there is too little of it, or too much brighter than it."""
    smooth = cv2.GaussianBlur(picture, (0, 0), 1.0)
    window = np.ones((_FLAT_WINDOW_PX, _FLAT_WINDOW_PX), np.uint8)
    spread = (cv2.dilate(smooth, window) - cv2.erode(smooth, window)).max(axis=2)
    darkest = smooth.min(axis=2)
    colourfulness = smooth.max(axis=2) - darkest
    if (picture.max(axis=2) - picture.min(axis=2) <= _GREY).all():
        return None
    flat = (spread <= _FLAT) & (darkest >= _BRIGHT) & (colourfulness <= _COLOURLESS) & ~unscanned
    grey = np.rint(smooth.mean(axis=2, dtype=np.float32)).astype(np.int16)
    least_px = _SMALLEST_GLASS_SHARE * grey.size
    peak = _brightest_peak(np.bincount(grey[flat], minlength=256), least_px / 2)
    off_peak = grey - peak
    if np.count_nonzero(flat & (np.abs(off_peak) <= _PEAK)) < least_px:
        return None
    # The glass's borders are not flat, so compare with all that has its brightness.
    alike = np.count_nonzero((np.abs(off_peak) <= _PEAK) & ~unscanned)
    if np.count_nonzero((off_peak > _PEAK) & ~unscanned) > _LARGEST_BRIGHTER_SHARE * alike:
        return None
    at_peak = flat & (np.abs(off_peak) <= 1)
    return _Glass(np.median(picture[at_peak], axis=0), at_peak, flat & (off_peak >= 0) & (off_peak <= _PEAK))


def _brightest_peak(counts: NDArray[np.intp], smallest: float) -> int:
    """Return the value at the brightest peak of a histogram; what is brighter than `smallest` others is skipped.

    Not the highest peak: that could be pale tissue, of which a slide may hold more than glass.
    """
    smooth = np.convolve(counts, [1, 2, 3, 2, 1], "same")
    from_top = np.cumsum(counts[::-1])[::-1]
    value = int(np.flatnonzero(from_top >= min(smallest, from_top[0]))[-1])
    while value > 0 and smooth[value - 1] > smooth[value]:
        value -= 1
    return value


def _unscanned(picture: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return the regions that are plain white or black, up to what compression does, and have straight borders.

    Glass that is overexposed is white too, but its border follows the tissue.
    """
    found = np.zeros(picture.shape[:2], np.bool_)
    square = np.ones((_STRAIGHT_PX, _STRAIGHT_PX), np.uint8)
    for alike in (picture.max(axis=2) <= 1, picture.min(axis=2) >= 254):
        plain = cv2.morphologyEx(alike.astype(np.uint8), cv2.MORPH_OPEN, square)
        across, down = np.diff(plain, axis=1) != 0, np.diff(plain, axis=0) != 0
        straight = _runs(across, square[:, :1]) + _runs(down, square[:1])
        if straight > _STRAIGHT_SHARE * (np.count_nonzero(across) + np.count_nonzero(down)):
            found |= plain.astype(np.bool_)
    return found


def _runs(border: NDArray[np.bool_], line: NDArray[np.uint8]) -> int:
    """Return how many pixels of a border lie on straight lines that hold `line`."""
    if border.size == 0:
        return 0
    return int(np.count_nonzero(cv2.morphologyEx(border.astype(np.uint8), cv2.MORPH_OPEN, line)))


def _grow(mask: NDArray[np.bool_], radius_px: float) -> NDArray[np.bool_]:
    """Return a mask with all pixels within a distance of it."""
    if not mask.any():
        return mask
    distance = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    grown: NDArray[np.bool_] = distance <= radius_px
    return grown


def _fill_holes(mask: NDArray[np.bool_], largest_px: float) -> NDArray[np.bool_]:
    """Return a mask without the holes that are smaller than so many pixels; a hole touches no border."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats((~mask).astype(np.uint8), connectivity=4)
    left, top, width, height, area = stats.T
    inside = (left > 0) & (top > 0) & (left + width < mask.shape[1]) & (top + height < mask.shape[0])
    small = inside & (area < largest_px)
    small[0] = False  # the mask itself
    filled: NDArray[np.bool_] = mask | small[labels]
    return filled


def tissue_of_file(path: Path, slide: Slide) -> Tissue:
    """Read where there is tissue from a mask or from polygons.

    Parameters
    ----------
    path
        GeoJSON (`.geojson`, `.json`): polygons in level-0 pixels. Else an image that segkit opens, of any size and the
        slide's proportions, within 2 % or one pixel: tissue is where any channel is not 0.
    slide
        The slide that it belongs to.

    Returns
    -------
    Tissue
        From a `file`, at most 2048 px large. A pixel of it that holds any tissue is tissue.

    Raises
    ------
    InputError
        The file cannot be read, has other proportions, or holds no tissue (no polygon, none on the slide, all 0).
    """
    polygons = path.suffix.lower() in _GEOJSON_SUFFIXES
    mask = _mask_of_polygons(path, slide) if polygons else _mask_of_image(path, slide)
    return Tissue(mask, slide.height, slide.width, "file")


def _mask_of_polygons(path: Path, slide: Slide) -> NDArray[np.bool_]:
    features = [feature for feature in read_geojson(path) if feature.polygons]
    if not features:
        raise InputError(f"{path}: holds no polygon. Draw the tissue as polygons and export them as GeoJSON.")
    height, width = thumbnail_size(slide.height, slide.width, _LONGEST_PX)
    scale = np.array([width / slide.width, height / slide.height])
    scaled = [
        Feature(feature.label, [[ring * scale for ring in rings] for rings in feature.polygons], feature.points)
        for feature in features
    ]
    # Centres alone would lose what is narrower than a pixel. OpenCV's lines are up to a pixel beside the true ones, so
    # they are drawn with a border around the slide and made wider.
    lines = [
        np.clip(np.floor(ring) + 1, -_FARTHEST_PX, _FARTHEST_PX).astype(np.int32)
        for feature in scaled
        for rings in feature.polygons
        for ring in rings
    ]
    painted = np.pad(rasterise(scaled, height, width, lambda _, __: 1).astype(np.uint8), 1)
    cv2.polylines(painted, lines, isClosed=True, color=1)
    mask = _with_neighbours(painted)[1:-1, 1:-1]
    if not mask.any():
        low, high = (
            limit([limit(ring, axis=0) for one in features for rings in one.polygons for ring in rings], axis=0)
            for limit in (np.min, np.max)
        )
        raise InputError(
            f"{path}: its polygons (x {low[0]:g} to {high[0]:g}, y {low[1]:g} to {high[1]:g}) lie outside of the slide "
            f"{slide.path.name} ({slide.width} x {slide.height} px). Export them from this slide, in level-0 pixels."
        )
    return mask


def _mask_of_image(path: Path, slide: Slide) -> NDArray[np.bool_]:
    with open_slide(path) as image:
        sides = (
            (image.height, image.width * slide.height / slide.width),
            (image.width, image.height * slide.width / slide.height),
        )
        if all(abs(side - fitting) > max(1, _PROPORTION_TOLERANCE * fitting) for side, fitting in sides):
            raise InputError(
                f"{path}: a mask of {image.width} x {image.height} px has other proportions than the slide "
                f"{slide.path.name} ({slide.width} x {slide.height} px). Use a mask of the whole slide."
            )
        height, width = thumbnail_size(image.height, image.width, _LONGEST_PX)
        mask = np.zeros((height, width), np.uint8)
        # Level 0, as masks are often made smaller by picking pixels, and small pieces are lost on the way.
        for y in range(0, image.height, _READ_PX):
            for x in range(0, image.width, _READ_PX):
                box = Box(y, x, min(_READ_PX, image.height - y), min(_READ_PX, image.width - x))
                found = image.read(box).any(axis=2)
                rows, tops = np.unique(np.arange(box.y, box.bottom) * height // image.height, return_index=True)
                columns, lefts = np.unique(np.arange(box.x, box.right) * width // image.width, return_index=True)
                reduced = np.logical_or.reduceat(np.logical_or.reduceat(found, tops, axis=0), lefts, axis=1)
                mask[np.ix_(rows, columns)] |= reduced
        is_reduced = (height, width) != (image.height, image.width)
    if not mask.any():
        raise InputError(f"{path}: holds no tissue, all its pixels are 0. Make tissue 1 or 255.")
    # A pixel of the file may lie across two of the mask.
    return _with_neighbours(mask) if is_reduced else mask.astype(np.bool_)


def _with_neighbours(mask: NDArray[np.uint8]) -> NDArray[np.bool_]:
    grown: NDArray[np.bool_] = cv2.dilate(mask, np.ones((3, 3), np.uint8)).astype(np.bool_)
    return grown
