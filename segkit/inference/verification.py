"""A dense score map compared with windows that are computed by themselves, at random positions."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.geometry import CELL_PX, Box
from segkit.inference.sources import PixelSource
from segkit.inference.window import WindowPredictor
from segkit.points import FULL_SCORE


def positions(
    height: int, width: int, number: int, seed: int = 0, *, wanted: NDArray[np.bool_] | None = None
) -> NDArray[np.int64]:
    """Draw random positions of a map, by rows and then by columns; the same every time.

    Parameters
    ----------
    height, width
        Of the map.
    number
        How many; fewer than that are different where the map is small.
    seed
        Another one gives others.
    wanted
        bool (rows, columns): the cells of `CELL_PX` that are computed, all others are left alone; None: all are.

    Returns
    -------
    NDArray[np.int64]
        (N, 2) y, x in map pixels. N is `number`, or 0 where no cell is wanted.
    """
    if wanted is None:
        boxes = [Box(0, 0, height, width)]
    else:
        corners = (CELL_PX * np.argwhere(wanted)).tolist()
        boxes = [Box(y, x, CELL_PX, CELL_PX).intersect(Box(0, 0, height, width)) for y, x in corners]
    # All pixels of the boxes in a line, each as likely as another.
    ends = np.cumsum([box.area for box in boxes], dtype=np.int64)
    places = np.random.default_rng(seed).integers(0, ends[-1], number) if len(ends) else np.zeros(0, np.int64)
    which = np.searchsorted(ends, places, side="right")
    top, left, box_height, box_width = np.array(boxes, np.int64).reshape(-1, 4)[which].T
    rows, columns = np.divmod(places - ends[which] + box_height * box_width, box_width)
    found = np.stack([top + rows, left + columns], axis=1)
    return found[np.lexsort((found[:, 1], found[:, 0]))]


def take(
    scores_HWK: NDArray[np.uint16], region: Box, block: Box, positions: NDArray[np.int64]
) -> dict[str, NDArray[Any]]:
    """Return the scores at those positions that lie in a block.

    Parameters
    ----------
    scores_HWK
        uint16 (h, w, K): the scores of `region`, in which the block lies; both in map pixels.
    positions
        From the function of that name.

    Returns
    -------
    dict
        `index`: int64 (n,), their numbers among the positions; `scores`: uint16 (n, K).
    """
    y, x = positions.T
    index = np.flatnonzero((y >= block.y) & (y < block.bottom) & (x >= block.x) & (x < block.right)).astype(np.int64)
    return {"index": index, "scores": scores_HWK[y[index] - region.y, x[index] - region.x]}


def largest_difference(
    found: Iterable[Mapping[str, NDArray[Any]] | None],
    positions: NDArray[np.int64],
    source: PixelSource,
    naive: WindowPredictor,
    stride: int,
    *,
    origin: tuple[int, int] = (0, 0),
) -> float:
    """Return the largest difference of a probability, in steps of 1 / 65,535; 0.0 without positions.

    Parameters
    ----------
    found
        From `take`, of each block; None for a block that was left out.
    positions
        Those that were taken.
    source
        The pixels that the map was made from.
    naive
        The same networks with the method `naive`.
    stride
        Of the map.
    origin
        (y, x) of the map's first pixel in the source.
    """
    largest = 0
    for block in found:
        if block is None:
            continue
        places = (positions[block["index"]] * stride + np.array(origin, np.int64)).tolist()
        for (y, x), scores in zip(places, block["scores"].tolist(), strict=True):
            window = source.read(Box(y, x, 1, 1).expand(naive.grid.halo))
            alone = naive.predict(window[None], [(slice(0, 1), slice(0, 1))])[0].scores[0, 0]
            largest = max(largest, _distance(scores, alone.tolist()))
    return largest / FULL_SCORE


def _distance(one: Sequence[int], other: Sequence[int]) -> int:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))
