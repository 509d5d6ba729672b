"""From maps of probabilities that arrive in rows to detections: smoothing, maxima, non-maximum suppression.

After Ciresan et al. (MICCAI 2013): the map is averaged over a disk; then the best pixel is a detection, and what lies
in a disk around it is none, again and again. All sums are integers, so that no order of adding can change them, and
the list from rows cut anywhere is the list from the whole map, to the last bit.

One thing differs from the paper: only maxima of the smoothed map can be detections. The best pixel that is left
outside a suppressed disk is, without this, often the rim of the object inside it.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from segkit.geometry import mirror_indices
from segkit.points import FULL_SCORE, Detections

_BLOCK = 2**18  # values that are worked on at a time: what a CPU's cache holds
_OUTSIDE = -1  # lower than any sum
_NEIGHBOURS = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]

# Neighbouring pixels of a row that are equal and have no higher neighbour: row, first and last column, their value,
# and whether one of them touches a pixel of the same value that has a higher neighbour.
_RUN = np.dtype([("y", np.int32), ("first", np.int32), ("last", np.int32), ("total", np.int64), ("slope", np.bool_)])


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
    """Where a map's pixels lie on the slide: number i, counted from 0, at (i * stride + offset) * downsample.

    That is the same for rows and columns, in level-0 pixels, where 0.5 is the centre of the first one. `stride` and
    `offset` are in pixels of the level that was read, `downsample` is that level's.
    """

    stride: int = 1
    offset: float = 0.5
    downsample: float = 1.0

    def on_level_0(self, positions: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return where positions in map pixels (0 is the first pixel's centre) lie at level 0."""
        return (positions * self.stride + self.offset) * self.downsample


class Detector:
    """Finds the detections of a map that arrives in rows, top to bottom.

    A candidate is a plateau of the smoothed map: a pixel, or connected pixels (8-neighbourhood) of equal value, with
    no higher pixel beside it; outside the map all is lower. Its position is the mean of its pixels, so that a
    saturated network's detections lie in the middle of what it saw. Candidates are taken by descending score, of
    equal ones the upper and then the left one first, and each suppresses those of its class around it.

    Memory holds as many rows as smoothing needs and a few bytes for each candidate, whatever the map's height.

    Parameters
    ----------
    width
        Of the map, in pixels.
    settings
        One `lowest` for each foreground class. With the same for all of them, a list found with a lower value and
        cut at a higher one is the list found with that.
    grid
        Where the map lies on the slide.
    """

    def __init__(self, width: int, settings: DetectorSettings, grid: MapGrid | None = None) -> None:
        num_classes = len(settings.lowest)
        self._width, self._settings, self._grid = width, settings, grid or MapGrid()
        self._sums = _DiskSums(width, num_classes, settings.smooth_radius)
        self._scale = self._sums.num_pixels * FULL_SCORE
        # What is lower by rounding alone is sorted out at the end, where scores are compared as they are written.
        self._maxima = _Maxima(width, [max(1, math.floor(lowest * self._scale)) for lowest in settings.lowest])
        self._block_rows = max(_BLOCK // (width * num_classes), 2 * self._sums.reach + 1)

    def add_rows(self, scores: NDArray[np.uint16]) -> None:
        """Take the next rows: each foreground class's probability times 65535, uint16 (n, width, classes).

        Raises
        ------
        ValueError
            The type or the shape is another (a programmer's mistake).
        """
        if scores.dtype != np.uint16 or scores.shape[1:] != (self._width, len(self._settings.lowest)):
            raise ValueError(
                f"rows are {scores.dtype} {scores.shape}, expected uint16 n x {self._width} x "
                f"{len(self._settings.lowest)}"
            )
        for start in range(0, len(scores), self._block_rows):
            self._maxima.add_rows(self._sums.add_rows(scores[start : start + self._block_rows]))

    def finish(self) -> Detections:
        """Return the detections, by descending score; positions in level-0 pixels."""
        self._maxima.add_rows(self._sums.finish())
        self._maxima.finish()
        by_class = [
            self._detections_of_class(index, runs) for index, runs in enumerate(self._maxima.runs_by_class(), start=1)
        ]
        found = Detections(*(np.concatenate(parts) for parts in zip(*by_class, strict=True)))
        found = _by_rank(found)
        if self._settings.exclusive:
            # Those of the same class are far enough from each other already.
            found = _take(found, suppress(found.positions, self._settings.nms_radius))
        return found._replace(positions=self._grid.on_level_0(found.positions))

    def _detections_of_class(self, index: int, runs: NDArray[np.void]) -> Detections:
        """Return what is left of a class's candidates after suppression; positions in map pixels."""
        positions, totals = _plateaus(runs, self._width)
        candidates = Detections(positions, np.full(len(totals), index), totals / self._scale)
        candidates = _by_rank(_take(candidates, candidates.scores >= self._settings.lowest[index - 1]))
        return _take(candidates, suppress(candidates.positions, self._settings.nms_radius))


def detect(scores_HWK: NDArray[np.uint16], settings: DetectorSettings, grid: MapGrid | None = None) -> Detections:
    """Return the detections of a whole map, uint16 (H, W, K): each foreground class's probability times 65535."""
    detector = Detector(scores_HWK.shape[1], settings, grid)
    detector.add_rows(scores_HWK)
    return detector.finish()


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
    around = [dy * pitch + dx for dy, dx in [(0, 0), *_NEIGHBOURS]]
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


class _DiskSums:
    """Sums of a map over disks, the map mirrored at its borders (the border pixel is not repeated).

    Attributes
    ----------
    reach
        Rows above and below a pixel that its disk touches.
    num_pixels
        Pixels of a disk: those at most `radius` from its centre.
    """

    def __init__(self, width: int, num_classes: int, radius: float) -> None:
        self.reach = math.floor(radius)
        # A disk is a stack of chords; a chord's sum is the difference of two running sums along its row.
        offsets = np.arange(-self.reach, self.reach + 1)
        inside = offsets[:, None] ** 2 + offsets**2 <= radius * radius
        self._half_chords: list[int] = (inside.sum(axis=1) // 2).tolist()
        self.num_pixels = int(inside.sum())
        self._width = width
        self._columns = mirror_indices(-self.reach, width + 2 * self.reach, width)
        # Running sums of the rows from `_top` on; all rows before `_next` have been returned.
        self._running = np.zeros((0, width + 2 * self.reach + 1, num_classes), np.int64)
        self._top = self._next = 0

    def add_rows(self, scores: NDArray[np.uint16]) -> NDArray[np.int64]:
        """Take the next rows, (n, width, classes); return the sums that are complete now, of the same layout."""
        running = np.zeros((len(scores), *self._running.shape[1:]), np.int64)
        np.cumsum(scores[:, self._columns], axis=1, out=running[:, 1:])
        self._running = np.concatenate([self._running, running])
        return self._sums_up_to(self._num_rows - self.reach)

    def finish(self) -> NDArray[np.int64]:
        """Return the sums of the last rows, which reach over the bottom border."""
        return self._sums_up_to(self._num_rows)

    @property
    def _num_rows(self) -> int:
        return self._top + len(self._running)

    def _sums_up_to(self, end: int) -> NDArray[np.int64]:
        num_rows, reach, width = max(0, end - self._next), self.reach, self._width
        sums = np.zeros((num_rows, width, self._running.shape[2]), np.int64)
        if num_rows == 0:
            return sums
        # Before the end no disk touches the rows below the last, so that mirroring there does no harm.
        rows = mirror_indices(self._next - reach, num_rows + 2 * reach, self._num_rows) - self._top
        running = self._running[rows]
        for dy, half in enumerate(self._half_chords):
            chords = running[dy : dy + num_rows]
            sums += chords[:, reach + half + 1 : reach + half + 1 + width]
            sums -= chords[:, reach - half : reach - half + width]
        self._next = end
        top = max(0, end - reach)
        self._running = self._running[top - self._top :]
        self._top = top
        return sums


class _Maxima:
    """Collects, as runs, the pixels of at least `lowest` that have no higher neighbour."""

    def __init__(self, width: int, lowest: list[int]) -> None:
        self._lowest = lowest
        self._border = np.full((2, width + 2, len(lowest)), _OUTSIDE, np.int64)
        self._rows = self._border
        self._y = 0  # of the third of the rows: two are known on both sides of those that are looked at
        self._runs: list[list[NDArray[np.void]]] = [[np.zeros(0, _RUN)] for _ in lowest]

    def add_rows(self, sums: NDArray[np.int64]) -> None:
        """Take the next rows, int64 (n, width, classes)."""
        self._add(np.pad(sums, ((0, 0), (1, 1), (0, 0)), constant_values=_OUTSIDE))

    def finish(self) -> None:
        """Look at the last rows, too."""
        self._add(self._border)

    def runs_by_class(self) -> list[NDArray[np.void]]:
        """Return the runs of each class in reading order."""
        return [np.concatenate(runs) for runs in self._runs]

    def _add(self, padded: NDArray[np.int64]) -> None:
        self._rows = rows = np.concatenate([self._rows, padded])
        num_rows = len(rows) - 4
        if num_rows <= 0:
            return
        highest = np.maximum(np.maximum(rows[:, :-2], rows[:, 2:]), rows[:, 1:-1])
        highest = np.maximum(np.maximum(highest[:-2], highest[2:]), highest[1:-1])
        # Of the rows but the first and last, with a column outside on both sides.
        is_top = np.pad(rows[1:-1, 1:-1] == highest, ((0, 0), (1, 1), (0, 0)))
        for index, lowest in enumerate(self._lowest):
            runs = _runs(rows[..., index], is_top[..., index], lowest)
            runs["y"] += self._y
            self._runs[index].append(runs)
        self._y += num_rows
        self._rows = rows[num_rows:]


def _runs(rows: NDArray[np.int64], is_top: NDArray[np.bool_], lowest: int) -> NDArray[np.void]:
    """Return the runs of one class in `rows` (n + 4, width + 2), but not in the two outermost rows of each side.

    `is_top` (n + 2, width + 2) tells, of all rows but the outermost, which pixels have no higher neighbour.
    """
    ys, xs = np.nonzero(is_top[1:-1] & (rows[2:-2] >= lowest))
    totals = rows[ys + 2, xs]
    slope = np.zeros(len(ys), np.bool_)
    for dy, dx in _NEIGHBOURS:
        slope |= (rows[ys + 2 + dy, xs + dx] == totals) & ~is_top[ys + 1 + dy, xs + dx]
    # Tops that are neighbours are equal.
    continues = (np.diff(ys, prepend=-1) == 0) & (np.diff(xs, prepend=-1) == 1)
    first = np.flatnonzero(~continues)
    runs = np.zeros(len(first), _RUN)
    if len(first):
        last = np.append(first[1:], len(ys)) - 1
        runs["y"], runs["first"], runs["last"], runs["total"] = ys[first], xs[first] - 1, xs[last] - 1, totals[first]
        runs["slope"] = np.logical_or.reduceat(slope, first)
    return runs


def _plateaus(runs: NDArray[np.void], width: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Join runs in reading order into plateaus; leave out those with a higher pixel beside them.

    Returns
    -------
    tuple
        Mean position of each plateau's pixels, float64 (N, 2) y, x, and its value, int64 (N,).
    """
    y, first, last = (runs[name].astype(np.int64) for name in ("y", "first", "last"))
    # The runs of the row above that touch one, also at a corner, follow each other.
    pitch = width + 2
    begin = np.searchsorted(y * pitch + last, (y - 1) * pitch + first - 1, side="left")
    end = np.searchsorted(y * pitch + first, (y - 1) * pitch + last + 1, side="right")
    counts = end - begin
    below = np.repeat(np.arange(len(runs)), counts)
    above = np.arange(len(below)) - np.repeat(np.cumsum(counts) - counts - begin, counts)
    touching = coo_array((np.ones(len(below), np.bool_), (below, above)), shape=(len(runs), len(runs)))
    number, labels = connected_components(touching, directed=False)

    def total(values: NDArray[np.int64]) -> NDArray[np.int64]:
        sums = np.zeros(number, np.int64)
        np.add.at(sums, labels, values)
        return sums

    length = last - first + 1
    num_pixels, sum_y, sum_x = total(length), total(y * length), total((first + last) * length // 2)
    value = np.zeros(number, np.int64)
    value[labels] = runs["total"]
    is_maximum = total(runs["slope"].astype(np.int64)) == 0
    positions = np.stack([sum_y / num_pixels, sum_x / num_pixels], axis=1)
    return positions[is_maximum], value[is_maximum]
