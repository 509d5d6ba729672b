"""The connected components of one block of a map: objects where they end within it, pieces of objects where not."""

from typing import Any, Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from segkit.inference.contours import Chains, find_segments, follow, ring_order, tidied

LARGEST_BLOCK_PX: Final = 2**14
"""Points are stored in half pixels as int16."""


def trace_block(
    mask: NDArray[np.uint8], foreground: NDArray[np.uint8], num_classes: int
) -> dict[str, NDArray[np.generic]]:
    """Find the connected components (4-neighbourhood) of each class in one block of a map, with their outlines.

    Those that touch the block's border are open: they may go on beyond it, and `joining.ObjectJoiner` puts them
    together. All numbers are in the block's pixels, points and sums alike, as if its first pixel were (0, 0).

    Parameters
    ----------
    mask
        Class ids, uint8 (h, w); 0 is the background and has no components.
    foreground
        Probability of the foreground, 0..255, uint8 (h, w).
    num_classes
        Background included.

    Returns
    -------
    dict[str, NDArray]
        `class` uint8 (n,), and `sums` int64 (n, 4): number of pixels, sums of their y, x and foreground;
        `segments` int32 (n, 2): number of straight (1 px) and diagonal (sqrt(1/2) px) segments of the outline within
        the block. Open components first, each kind in the order of their first pixels.
        `chain_owner` int32 (C,): the component that a chain of points outlines; `chain_length` int32 (C,),
        `chain_closed` bool (C,), `points` int16 (P, 2): see `contours.Chains`; sorted by component. Chains that are
        not closed end half-way between two pixels of the block's border.
        `top`, `bottom` int32 (w,), `left`, `right` int32 (h,): the components along the border, counted from 1, 0 for
        the background.

    Raises
    ------
    ValueError
        A class that does not exist, or shapes that do not fit (a programmer's mistake).
    """
    if mask.shape != foreground.shape or not mask.size or max(mask.shape) > LARGEST_BLOCK_PX:
        raise ValueError(f"a block has 1 to {LARGEST_BLOCK_PX} px a side, got {mask.shape} and {foreground.shape}")
    counts = np.bincount(mask.ravel(), minlength=num_classes)
    if len(counts) > num_classes:
        raise ValueError(f"the mask has class {len(counts) - 1}, and there are {num_classes} classes")
    labels = _label(mask, np.flatnonzero(counts[1:]) + 1)
    areas = measure(mask, foreground, labels)
    return {"class": mask.ravel()[areas.first], "sums": areas.sums, **trace_outlines(mask, labels, areas)}


class Areas(NamedTuple):
    """The areas that a block is divided into, open ones first, each kind in the order of their first pixels.

    Attributes
    ----------
    first
        intp (n,), each one's first pixel, as an index into the flat block.
    sums
        int64 (n, 4): number of pixels, sums of their y, x and foreground.
    number
        int32, the areas' numbers, from 1, by label; 0 by label 0.
    """

    first: NDArray[np.intp]
    sums: NDArray[np.int64]
    number: NDArray[np.int32]


def measure(values: NDArray[Any], foreground: NDArray[np.uint8], labels: NDArray[Any]) -> Areas:
    """Return the areas of a block (h, w), labelled 1 .. n in whatever order; open ones have pixels on its border.

    Works on runs: pixels of a row whose `values` are equal to their neighbours'. All pixels of a run have one label.
    """
    begins = np.ones(values.shape, bool)
    np.not_equal(values[:, 1:], values[:, :-1], out=begins[:, 1:])
    start = np.flatnonzero(begins)
    length = np.diff(start, append=values.size)
    probability = np.add.reduceat(foreground.ravel(), start, dtype=np.int64)
    label = labels.ravel()[start]
    is_inside = label > 0
    start, length, probability, label = start[is_inside], length[is_inside], probability[is_inside], label[is_inside]
    y, x = np.divmod(start, values.shape[1])

    border = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    count = int(label.max(initial=0))
    is_finished = np.ones(count + 1, bool)
    is_finished[border] = False
    # Of an index that occurs several times the last value stays: going backwards, the first run.
    first = np.empty(count + 1, np.intp)
    first[label[::-1]] = start[::-1]
    order = np.lexsort((first[1:], is_finished[1:]))
    number = np.zeros(count + 1, np.int32)
    number[order + 1] = np.arange(1, count + 1, dtype=np.int32)

    terms = (length, length * y, length * x + length * (length - 1) // 2, probability)
    # Sums of whole numbers below 2^53 are exact.
    sums = [np.bincount(number[label] - 1, weights=term, minlength=count) for term in terms]
    return Areas(first[1:][order], np.stack(sums, axis=1).astype(np.int64).reshape(count, 4), number)


def trace_outlines(values: NDArray[Any], labels: NDArray[Any], areas: Areas) -> dict[str, NDArray[np.generic]]:
    """Return `segments`, chains, points and borders of a block's areas, as `trace_block` does.

    Outlines lie where `values` differ, 0 being background; that is where labels do.
    """
    count_areas, number = len(areas.first), areas.number
    segments = find_segments(values)
    height, width = values.shape
    inside = np.array([(0, 0), (0, 1), (1, 1), (1, 0)])[segments.enters]
    owner = number[labels[segments.y + inside[:, 0], segments.x + inside[:, 1]]] - 1
    lengths = [np.bincount(owner[kind], minlength=count_areas) for kind in (~segments.diagonal, segments.diagonal)]

    order, count, closed = follow(segments.following(height, width))
    first = np.cumsum(count) - count
    # An open chain ends where its last segment leaves the last cell.
    length = count + ~closed
    points = np.empty((length.sum(), 2), np.int32)
    ends = (np.cumsum(length) - 1)[~closed]
    starting = np.ones(len(points), bool)
    starting[ends] = False
    points[starting] = segments.starts()[order]
    points[ends] = segments.ends()[order[(first + count - 1)[~closed]]]
    chains = tidied(Chains(owner[order[first]], length, closed, points))
    chains = chains.take(ring_order(chains))
    border = {"top": labels[0], "bottom": labels[-1], "left": labels[:, 0], "right": labels[:, -1]}
    return {
        "segments": np.stack(lengths, axis=1).astype(np.int32),
        "chain_owner": chains.owner.astype(np.int32),
        "chain_length": chains.length.astype(np.int32),
        "chain_closed": chains.closed,
        "points": chains.points.astype(np.int16),
        **{name: number[line] for name, line in border.items()},
    }


def _label(mask: NDArray[np.uint8], classes: NDArray[np.intp]) -> NDArray[np.int32]:
    """Number the components of the classes from 1 on, in whatever order, int32 (h, w)."""
    labels = np.zeros(mask.shape, np.int32)
    count = 0
    for index in classes.tolist():
        area = mask == index
        found, numbers = cv2.connectedComponents(area.view(np.uint8), connectivity=4, ltype=cv2.CV_32S)
        np.add(labels, numbers + count if count else numbers, out=labels, where=area)
        count += found - 1
    return labels
