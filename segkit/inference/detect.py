"""From maps of probabilities to detections: smoothing, maxima, non-maximum suppression; block by block.

After Ciresan et al. (MICCAI 2013): the map is averaged over a disk; then the best pixel is a detection, and what lies
in a disk around it is none, again and again. All sums are integers, so that no order of adding can change them, and
the list from a map cut anywhere is the list from the whole map, to the last bit.

One thing differs from the paper: only maxima of the smoothed map can be detections. The best pixel that is left
outside a suppressed disk is, without this, often the rim of the object inside it.

A candidate is a plateau of the smoothed map: a pixel, or connected pixels (8-neighbourhood) of equal value, with no
higher pixel beside it; outside the map all is lower, and for smoothing the map is mirrored there (the border pixel is
not repeated). Its position is the mean of its pixels, so that a saturated network's detections lie in the middle of
what it saw. One that lies on the map's outermost pixels is none: the map may go on rising beyond them, as it does for
objects whose middle is outside (scikit-image's `peak_local_max` leaves a border out, too). Candidates are taken by
descending score, of equal ones the upper and then the left one first, and each suppresses those of its class around it.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.geometry import BLOCK_PX, Box, mirror_indices
from segkit.inference.candidates import NO_RUNS, RIM, Disk, Runs, find_maxima, find_plateaus, join_runs, pad_outside
from segkit.points import FULL_SCORE, Detections

_AROUND = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorSettings:
    """What counts as a detection; radii in pixels of the map.

    Attributes
    ----------
    nms_radius
        Of two candidates of a class at this distance or closer the one with the lower score is suppressed; > 0.
    lowest
        Of each foreground class: maxima with a lower score are no candidates, nor are those with a score of 0.
    smooth_radius
        Probabilities are averaged over the pixels up to this distance; 0: not at all.
    exclusive
        Of two detections of different classes within `nms_radius`, too, only the one with the higher score stays.
    """

    nms_radius: float
    lowest: tuple[float, ...]
    smooth_radius: float = 0.0
    exclusive: bool = True

    def __post_init__(self) -> None:
        if not (self.lowest and self.nms_radius > 0 and self.smooth_radius >= 0):
            raise ValueError(f"a detector needs a class, nms_radius > 0 and smooth_radius >= 0, got {self}")


@dataclass(frozen=True, slots=True, kw_only=True)
class MapGrid:
    """Where a map's pixels lie on the slide: number i, counted from 0, at (i * stride + origin + offset) * downsample.

    That is so for rows and for columns, in level-0 pixels, where 0.5 is the centre of the first one. `stride`,
    `origin` (y, x) and `offset` are in pixels of the image that was read, `downsample` is that image's.
    """

    stride: int = 1
    offset: float = 0.5
    downsample: float = 1.0
    origin: tuple[float, float] = (0.0, 0.0)

    def on_level_0(self, positions: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return where positions (N, 2) in map pixels (0 is the first pixel's centre) lie at level 0."""
        first = np.array(self.origin, np.float64) + self.offset
        return (positions * self.stride + first) * self.downsample


def margin(settings: DetectorSettings) -> int:
    """Return on how many map pixels around a block its runs depend."""
    return Disk(settings.smooth_radius).reach + RIM


def find_runs(
    scores_HWK: NDArray[np.uint16],
    region: Box,
    block: Box,
    map_height: int,
    map_width: int,
    settings: DetectorSettings,
) -> dict[str, NDArray[Any]]:
    """Return the pixels of a block of the smoothed map that have no higher neighbour and are high enough, as runs.

    Parameters
    ----------
    scores_HWK
        uint16 (h, w, K): each foreground class's probability times 65535, of `region`.
    region
        In map pixels; holds the block and its margin as far as that lies in the map.
    block
        The place to be looked at, in map pixels, not empty.
    map_height, map_width
        Of the whole map.
    settings
        One `lowest` for each foreground class.

    Returns
    -------
    dict
        The columns of `segkit.inference.candidates.Runs` by name, in map pixels, by class and then in reading order.

    Raises
    ------
    ValueError
        Type or shape of the scores are others, or the region is too small (a programmer's mistake).
    """
    expected = (region.height, region.width, len(settings.lowest))
    if scores_HWK.dtype != np.uint16 or scores_HWK.shape != expected:
        raise ValueError(f"scores are {scores_HWK.dtype} {scores_HWK.shape}, expected uint16 {expected}")
    whole = Box(0, 0, map_height, map_width)
    disk = Disk(settings.smooth_radius)
    needed = block.expand(disk.reach + RIM).intersect(whole)
    if not (whole.contains(block) and region.contains(needed)):
        raise ValueError(f"{block} of a map of {map_height} x {map_width} needs {needed}, and scores are of {region}")
    rim = block.expand(RIM)
    inner = rim.intersect(whole)
    rows = mirror_indices(inner.y - disk.reach, inner.height + 2 * disk.reach, map_height) - needed.y
    columns = mirror_indices(inner.x - disk.reach, inner.width + 2 * disk.reach, map_width) - needed.x
    here = scores_HWK[needed.shift(-region.y, -region.x).slices]
    tables = [NO_RUNS]
    for index, lowest in enumerate(_lowest_sums(settings, disk)):
        scores = here[..., index]
        if int(scores.max()) * disk.num_pixels < lowest:
            continue  # most of a slide is far from every candidate
        sums = pad_outside(
            disk.sums(scores[rows[:, None], columns]),
            rows=(inner.y - rim.y, rim.bottom - inner.bottom),
            columns=(inner.x - rim.x, rim.right - inner.right),
        )
        y, first, last, total, slope = find_maxima(sums, lowest)
        tables.append(
            Runs(
                cls=np.full(len(y), index + 1, np.int32),
                y=(y + block.y).astype(np.int32),
                first=(first + block.x).astype(np.int32),
                last=(last + block.x).astype(np.int32),
                total=total.astype(np.int64),
                slope=slope,
            )
        )
    return Runs(*(np.concatenate(columns) for columns in zip(*tables, strict=True)))._asdict()


def detections_of_runs(
    blocks: Iterable[Mapping[str, NDArray[Any]] | None],
    height: int,
    width: int,
    settings: DetectorSettings,
    grid: MapGrid | None = None,
) -> Detections:
    """Return the detections of a map from the runs of its blocks.

    The list does not depend on the order of the blocks, nor on how the map was cut into them. With the same `lowest`
    for all classes, a list found with a lower value and cut at a higher one is the list found with that. Memory is a
    few bytes for each run.

    Parameters
    ----------
    blocks
        From `find_runs` with the same settings; None for a block that was left out: it has no runs.
    height, width
        Of the map, in its pixels.
    settings
        What a detection is.
    grid
        Where the map lies on the slide.

    Returns
    -------
    Detections
        By descending score; positions in level-0 pixels.
    """
    runs = join_runs(blocks)
    by_class = [
        _detections_of_class(index, runs.take(runs.cls == index), height, width, settings)
        for index in range(1, len(settings.lowest) + 1)
    ]
    found = _by_rank(Detections(*(np.concatenate(parts) for parts in zip(*by_class, strict=True))))
    if settings.exclusive and len(by_class) > 1:
        # Those of the same class are far enough from each other already.
        found = _take(found, suppress(found.positions, settings.nms_radius))
    return found._replace(positions=(grid or MapGrid()).on_level_0(found.positions))


def detect(
    scores_HWK: NDArray[np.uint16], settings: DetectorSettings, grid: MapGrid | None = None, *, block_px: int = BLOCK_PX
) -> Detections:
    """Return the detections of a whole map in memory, uint16 (H, W, K): foreground probabilities times 65535.

    The side of the blocks that it is worked up in does not change them.
    """
    height, width = scores_HWK.shape[:2]
    whole = Box(0, 0, height, width)
    blocks = (
        find_runs(scores_HWK, whole, Box(y, x, block_px, block_px).intersect(whole), height, width, settings)
        for y in range(0, height, block_px)
        for x in range(0, width, block_px)
    )
    return detections_of_runs(blocks, height, width, settings, grid)


def _lowest_sums(settings: DetectorSettings, disk: Disk) -> list[int]:
    # What is lower by rounding alone is sorted out at the end, where scores are compared as they are written.
    return [max(1, math.floor(lowest * disk.num_pixels * FULL_SCORE)) for lowest in settings.lowest]


def _detections_of_class(index: int, runs: Runs, height: int, width: int, settings: DetectorSettings) -> Detections:
    """Return what is left of a class's candidates after suppression; positions in map pixels."""
    positions, totals = find_plateaus(runs, width)
    last = np.array([height - 1, width - 1])
    # A map of one or two rows has no others.
    is_inside = (((positions > 0) & (positions < last)) | (last < 2)).all(axis=1)
    positions, totals = positions[is_inside], totals[is_inside]
    scale = Disk(settings.smooth_radius).num_pixels * FULL_SCORE
    candidates = Detections(positions, np.full(len(totals), index), totals / scale)
    candidates = _by_rank(_take(candidates, candidates.scores >= settings.lowest[index - 1]))
    return _take(candidates, suppress(candidates.positions, settings.nms_radius))


def suppress(positions: NDArray[np.float64], radius: float) -> NDArray[np.bool_]:
    """Tell which positions stay, taken in order: those with none that stays at a distance of `radius` or less.

    Parameters
    ----------
    positions
        float64 (N, 2), the best first.
    radius
        In the unit of the positions.

    Returns
    -------
    NDArray[np.bool_]
        (N,), in the order of the positions. The work grows with N, however close they lie.
    """
    # Whatever is close enough lies in the same cell or one beside it, with some room for rounding.
    side = max(1.0, 1.001 * radius)
    cells = np.floor(positions / side).astype(np.int64)
    cells -= cells.min(axis=0, initial=0)
    pitch = int(cells[:, 1].max(initial=0)) + 3
    around = [dy * pitch + dx for dy, dx in _AROUND]
    kept_by_cell: dict[int, list[tuple[float, float]]] = {}
    stays = np.zeros(len(positions), np.bool_)
    cell_numbers = (cells[:, 0] * pitch + cells[:, 1]).tolist()
    for index, (cell, (y, x)) in enumerate(zip(cell_numbers, positions.tolist(), strict=True)):
        if not any(
            (other_y - y) ** 2 + (other_x - x) ** 2 <= radius * radius
            for offset in around
            for other_y, other_x in kept_by_cell.get(cell + offset, ())
        ):
            kept_by_cell.setdefault(cell, []).append((y, x))
            stays[index] = True
    return stays


def _by_rank(found: Detections) -> Detections:
    """Sort by descending score; of equal ones the upper, the left, and the one of the lower class come first."""
    y, x = found.positions.T
    return _take(found, np.lexsort((found.classes, x, y, -found.scores)))


def _take(found: Detections, which: NDArray[np.bool_] | NDArray[np.intp]) -> Detections:
    return Detections(found.positions[which], found.classes[which], found.scores[which])
