"""Overlaps of objects in an image of any size, gathered block by block.

Only how many pixels show each pair of ids is kept, so memory grows with the number of objects and of pairs that
overlap, not with the image; the result is that of `objects.match_objects` on the whole, whatever the blocks.
"""

from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from segkit.evaluation.objects import Overlaps, Runs, match_objects, overlaps_of_runs, runs_of

Block = (
    tuple[NDArray[np.integer], NDArray[np.integer]]
    | tuple[NDArray[np.integer], NDArray[np.integer], NDArray[np.bool_] | None]
)
"""True and predicted ids of one shape and, in the third place, which pixels are not labelled, if any."""

_MAX_WAITING: Final = 500_000  # runs of pixels that wait for being put together: some 50 MB with what that takes


def match_blocks(blocks: Iterable[Block]) -> Overlaps:
    """Find the pairs of objects that overlap in an image that comes in blocks.

    Parameters
    ----------
    blocks
        Of one image, in any order, every pixel in exactly one; as for `objects.match_objects`. An object has the same
        id in all blocks that hold a part of it, and no other object has it. No blocks are an image without objects.

    Returns
    -------
    What `match_objects` returns for the whole image, in the same order.

    Raises
    ------
    ValueError
        The shapes of a block differ, or blocks hold ids of types that no integer type has all values of.
    """
    parts: list[Runs] = []
    num_runs = num_known = 0
    for block in blocks:
        parts.append(merge_runs([runs_of(*block)]))
        num_runs += len(parts[-1].lengths)
        # Waiting for as many again as are known keeps the time for it in proportion to what comes in.
        if num_runs > _MAX_WAITING + 2 * num_known:
            parts = [merge_runs(parts)]
            num_runs = num_known = len(parts[0].lengths)
    nothing = np.zeros((0, 0), np.int64)
    return overlaps_of_runs(merge_runs(parts)) if parts else match_objects(nothing, nothing)


def merge_runs(parts: Iterable[Runs]) -> Runs:
    """Put runs together, one for each combination of true id, predicted id and `ignored`."""
    true_ids, predicted_ids, ignored, lengths = (np.concatenate(one) for one in zip(*parts, strict=True))
    for ids in (true_ids, predicted_ids):
        if not np.issubdtype(ids.dtype, np.integer):
            raise ValueError(f"ids of all blocks must fit one integer type, and together they are {ids.dtype}")
    true_values, true = np.unique(true_ids, return_inverse=True)
    predicted_values, predicted = np.unique(predicted_ids, return_inverse=True)
    codes = (true * len(predicted_values) + predicted) * 2 + ignored
    codes, run = np.unique(codes, return_inverse=True)
    pairs = codes // 2
    return Runs(
        true_ids=true_values[pairs // max(1, len(predicted_values))],
        predicted_ids=predicted_values[pairs % max(1, len(predicted_values))],
        ignored=codes % 2 == 1,
        # float64 is exact far beyond the number of pixels of any image.
        lengths=np.bincount(run, weights=lengths).astype(np.int64),
    )
