"""The instances of one block of a map: whole ones where they end within it, pieces of them where not.

Seeds grow by `instances.grow_seeds` in a window, the block with a margin around it. Only what a pixel has around it
within `grow_px` decides which seed it belongs to, so blocks agree on that wherever they meet. What they may not agree
on is whether two seeds are one that is connected further out than the margin; so the block to the left or above says
for each two pixels on both sides of a border whether one instance goes on there, and `joining.ObjectJoiner` joins
pieces only there. Nothing depends on tiles, parts or the order of work, and instances whose seeds reach less far than
`SEED_REACH_PX` beyond a block are exactly those of the whole map at once.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segkit.geometry import Box
from segkit.inference.instances import grow_seeds, reach_px
from segkit.inference.pieces import measure, trace_outlines
from segkit.models.model_file import InstanceSpec

SEED_REACH_PX: Final = 64
"""How far seeds are followed beyond what grows into a block."""


class InstanceBlock(NamedTuple):
    """The instances in a block, uint16 or int32 (h, w), numbered from 1 in whatever order, 0 outside of them.

    `goes_right` (h,) and `goes_below` (w,) tell of the pixels on the right and the bottom border whether they and the
    ones beyond are of the same instance.
    """

    labels: NDArray[Any]
    goes_right: NDArray[np.bool_]
    goes_below: NDArray[np.bool_]


def margin_px(spec: InstanceSpec, alignment: int) -> int:
    """Return on how many map pixels around a block its instances depend, a multiple of the network's alignment."""
    # The pixels just beyond the border are looked at, too.
    return -(-(reach_px(spec) + 1 + SEED_REACH_PX) // alignment) * alignment


def averaged_spec(specs: Sequence[InstanceSpec]) -> InstanceSpec:
    """Return how averaged maps become objects: the mean of what the models were tuned to, lengths and areas rounded."""
    first = specs[0]
    if len(specs) == 1:
        return first
    means = {name: sum(getattr(spec, name) for spec in specs) / len(specs) for name in InstanceSpec.model_fields}
    return first.model_validate(
        {name: round(value) if isinstance(getattr(first, name), int) else value for name, value in means.items()}
    )


def find_instances(
    foreground: NDArray[np.uint8], distance: NDArray[np.uint8], place: Box, block: Box, spec: InstanceSpec
) -> InstanceBlock:
    """Return the instances in a block, small ones too.

    Parameters
    ----------
    foreground, distance
        As `instances.label_instances` takes them, uint8 (h, w), of `place`.
    place
        The block with its margin, `margin_px` or as far as the map reaches, in map pixels.
    block
        In map pixels.
    """
    grown = grow_seeds(foreground, distance, spec)
    inner = block.shift(-place.y, -place.x)
    labels = grown[inner.slices]
    goes_right, goes_below = np.zeros(block.height, np.bool_), np.zeros(block.width, np.bool_)
    if block.right < place.right:
        goes_right = (labels[:, -1] > 0) & (labels[:, -1] == grown[inner.y : inner.bottom, inner.right])
    if block.bottom < place.bottom:
        goes_below = (labels[-1] > 0) & (labels[-1] == grown[inner.bottom, inner.x : inner.right])
    is_here = np.bincount(labels.ravel()) > 0
    is_here[0] = False
    count = int(is_here.sum())
    number = (np.cumsum(is_here) * is_here).astype(np.uint16 if count < 2**16 else np.int32)
    return InstanceBlock(number[labels], goes_right, goes_below)


def trace_instances(
    mask: NDArray[np.uint8], foreground: NDArray[np.uint8], found: InstanceBlock, num_classes: int
) -> dict[str, NDArray[np.generic]]:
    """Return what is kept of a block's instances: what `pieces.trace_block` returns, with these differences.

    Areas are the instances as far as they lie in the block, also in several pieces. `class` is 1 for all, and `sums`
    int64 (n, 4 + num_classes) has the number of pixels of each class behind the others: which class an instance has is
    known when it is whole. `goes_right`, `goes_below`: see `InstanceBlock`.

    Parameters
    ----------
    mask, foreground
        Of the block, uint8 (h, w).
    found
        Its instances.
    num_classes
        Background included.

    Raises
    ------
    ValueError
        A class that does not exist (a programmer's mistake).
    """
    if mask.max(initial=0) >= num_classes:
        raise ValueError(f"the mask has class {mask.max()}, and there are {num_classes} classes")
    labels = found.labels
    areas = measure(labels, foreground, labels)
    count = len(areas.first)
    inside = labels > 0
    pairs = (areas.number[labels[inside]] - 1) * np.int64(num_classes) + mask[inside]
    of_class = np.bincount(pairs, minlength=count * num_classes).reshape(count, num_classes)
    return {
        "class": np.ones(count, np.uint8),
        "sums": np.concatenate([areas.sums, of_class], axis=1),
        **trace_outlines(labels, labels, areas),
        "goes_right": found.goes_right,
        "goes_below": found.goes_below,
    }


def picture_of(mask: NDArray[np.uint8], found: InstanceBlock) -> NDArray[np.uint8]:
    """Return the classes of the instances' pixels, uint8 (h, w), with a gap of a pixel where two of them touch."""
    labels = found.labels
    picture = np.where(labels > 0, np.maximum(mask, 1), 0).astype(np.uint8)
    # The pixel above, or to the left, of another instance's.
    picture[:-1][(labels[:-1] != labels[1:]) & (labels[1:] > 0)] = 0
    picture[:, :-1][(labels[:, :-1] != labels[:, 1:]) & (labels[:, 1:] > 0)] = 0
    return picture
