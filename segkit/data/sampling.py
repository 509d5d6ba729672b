"""Draw training patches: any class as often as another where that is wanted, and reproducibly.

Sample `index` of step `step` is a pure function of (seed, step, index): how many workers draw the samples, in
which order, or whether the run was resumed in between makes no difference.
"""

from collections.abc import Sequence
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from segkit.data.class_index import BlockIndex, ClassIndex, RegionTarget, RowIndex
from segkit.data.mined import Mined, WeightedPlaces
from segkit.geometry import Box, mirror_indices
from segkit.masks import IGNORE

ObjectBoxes = NDArray[np.int64]
"""The objects of an image: (N, 5) top row, left column, height, width in pixels, class index."""


class RegionImage(Protocol):
    """An image that is read by region, such as `segkit.data.slide_fields.SlideImage`."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""

    def cut(self, box: Box) -> NDArray[np.uint8]:
        """Return the pixels of a box, (height, width, channels) uint8, mirrored where it leaves the image."""


Image = NDArray[np.uint8] | RegionImage
Target = NDArray[np.uint8] | RegionTarget


def sample_rng(seed: int, step: int, index: int) -> np.random.Generator:
    """Return the random numbers of sample `index` in step `step` of the run with `seed`.

    Philox 4x64 is a counter-based generator: the seed is its key, step and index are the high words of its counter,
    so streams of different samples never overlap.
    """
    return np.random.Generator(np.random.Philox(key=[seed, 0], counter=[0, 0, index, step]))


class PatchSource:
    """Draws patches with their surroundings from images in memory, mapped files or slides.

    Parameters
    ----------
    images
        (H, W, C) uint8 arrays of any sizes with equal C, or images that are read by region.
    targets
        (H, W, P) uint8 arrays, or maps that are read by region. Plane 0 holds class indices below `num_classes`;
        `IGNORE` (255) is never drawn as a class.
    patch_px
        Side of the patches in pixels.
    balanced
        Share of patches around a pixel of a class; the classes that occur are equally likely, then the pixels of
        the class. The rest lie anywhere, each position within the images being equally likely.
    num_classes
        Number of classes.
    objects
        The objects of each image, see `object_boxes`. With them a class's objects are equally likely, and not its
        pixels: small ones are seen as often as large ones. Classes without objects are drawn by pixels.
    hard
        Places in each image, whose surroundings are a share `hard_share` of the patches; nothing there, none.
    hard_share
        `balanced` and it make at most 1.
    beyond_px
        How far patches may leave their images, >= 0. Images are mirrored there; what targets are, they say.
    """

    def __init__(
        self,
        images: Sequence[Image],
        targets: Sequence[Target],
        *,
        patch_px: int,
        balanced: float,
        num_classes: int,
        objects: Sequence[ObjectBoxes] | None = None,
        hard: Sequence[Mined] = (),
        hard_share: float = 0.0,
        beyond_px: int = 0,
    ) -> None:
        assert images, "no images"
        assert all(len(target.shape) == 3 for target in targets)
        assert all(image.shape[:2] == target.shape[:2] for image, target in zip(images, targets, strict=True))
        assert num_classes <= IGNORE
        assert balanced + hard_share <= 1 + 1e-9
        assert beyond_px >= 0
        self.images = images
        self.targets = targets
        self.patch_px = patch_px
        self.balanced = balanced
        self._beyond_px = beyond_px
        self._indices: list[ClassIndex] = [
            RowIndex(target, num_classes) if isinstance(target, np.ndarray) else BlockIndex(target, num_classes)
            for target in targets
        ]
        self._class_pixels = np.cumsum([one.counts for one in self._indices], axis=0).T
        self._classes = [index for index, pixels in enumerate(self._class_pixels) if pixels[-1] > 0]
        self._objects = _by_class(objects or [], num_classes)
        self._hard, self._hard_share = WeightedPlaces(hard), hard_share
        positions = [len(self._starts(image.shape[0])) * len(self._starts(image.shape[1])) for image in images]
        self._positions = np.cumsum(positions)

    def draw(self, rng: np.random.Generator, context_px: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return a square of `context_px` pixels around a drawn patch, mirrored where it leaves the image.

        Parameters
        ----------
        rng
            The only source of randomness, e.g. `sample_rng`.
        context_px
            Side of the square, at least `patch_px`; the patch lies in its middle.

        Returns
        -------
        image, target
            (context_px, context_px, C) and (context_px, context_px, P) uint8; they may be views of the images.
        """
        assert context_px >= self.patch_px
        number, y, x = self._place(rng)
        margin = (context_px - self.patch_px) // 2
        box = Box(y - margin, x - margin, context_px, context_px)
        return cut(self.images[number], box), cut(self.targets[number], box)

    def _place(self, rng: np.random.Generator) -> tuple[int, int, int]:
        """Draw a patch's image and origin."""
        kind = rng.random()
        if kind < self.balanced:
            return self._around_class(rng) if self._classes else self._anywhere(rng)
        if kind < self.balanced + self._hard_share and self._hard.count:
            number, position = self._hard.draw(rng)
            return self._around(rng, number, *(int(value) for value in np.floor(position)))
        return self._anywhere(rng)

    def _anywhere(self, rng: np.random.Generator) -> tuple[int, int, int]:
        """Draw a patch's image and origin evenly among all positions."""
        position = int(rng.integers(self._positions[-1]))
        number = int(np.searchsorted(self._positions, position, side="right"))
        height, width = self.targets[number].shape[:2]
        inside = position - (int(self._positions[number - 1]) if number else 0)
        rows, columns = self._starts(height), self._starts(width)
        y, x = divmod(inside, len(columns))
        return number, rows[y], columns[x]

    def _around_class(self, rng: np.random.Generator) -> tuple[int, int, int]:
        """Draw a class, one of its objects or pixels, and a patch around its middle."""
        index = self._classes[int(rng.integers(len(self._classes)))]
        objects = self._objects[index]
        if len(objects):
            number, top, left, height, width, _ = objects[int(rng.integers(len(objects)))].tolist()
            return self._around(rng, number, top + height // 2, left + width // 2)
        pixels = self._class_pixels[index]
        rank = int(rng.integers(pixels[-1]))
        number = int(np.searchsorted(pixels, rank, side="right"))
        rank -= int(pixels[number - 1]) if number else 0
        return self._around(rng, number, *self._indices[number].pixel(index, rank))

    def _around(self, rng: np.random.Generator, number: int, row: int, column: int) -> tuple[int, int, int]:
        """Draw a patch that has this pixel in its middle half where the image allows it."""
        height, width = self.targets[number].shape[:2]
        jitter = rng.integers(-(self.patch_px // 4), self.patch_px // 4 + 1, 2)
        y = row - self.patch_px // 2 + int(jitter[0])
        x = column - self.patch_px // 2 + int(jitter[1])
        return number, self._clamp(y, height), self._clamp(x, width)

    def _starts(self, size: int) -> range:
        """Return where a patch may begin in an image of this height or width; one that is too small has one place."""
        first, last = -self._beyond_px, size - self.patch_px + self._beyond_px
        centred = -((self.patch_px - size) // 2)
        return range(first, last + 1) if first <= last else range(centred, centred + 1)

    def _clamp(self, start: int, size: int) -> int:
        starts = self._starts(size)
        return min(max(start, starts[0]), starts[-1])


def cut(image: Image | Target, box: Box) -> NDArray[np.uint8]:
    """Return the pixels of a box of an array, or of what is read by region, mirrored where it leaves the image."""
    return cut_mirrored(image, box) if isinstance(image, np.ndarray) else image.cut(box)


def cut_mirrored(array: NDArray[np.uint8], box: Box) -> NDArray[np.uint8]:
    """Return `array[box]`, mirrored where the box leaves the array; a view where it does not."""
    height, width = array.shape[:2]
    if Box(0, 0, height, width).contains(box):
        return array[box.slices]
    rows = mirror_indices(box.y, box.height, height)
    columns = mirror_indices(box.x, box.width, width)
    # Only the rows and columns that are used are copied; taking along one axis at a time is several times faster
    # than indexing with a grid.
    top, left = rows.min(), columns.min()
    part = array[top : rows.max() + 1, left : columns.max() + 1]
    mirrored: NDArray[np.uint8] = part.take(rows - top, axis=0).take(columns - left, axis=1)
    return mirrored


def objects_of(mask: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Return ids of the connected regions (4 neighbours) of each foreground class, int32 (H, W), 0 elsewhere.

    Regions of different classes that touch have different ids; pixels that are not labelled have none.
    """
    labels = np.zeros(mask.shape, np.int32)
    found = 0
    for index in np.flatnonzero(np.bincount(mask.ravel(), minlength=256)[:IGNORE]).tolist():
        if index:
            count, regions = cv2.connectedComponents((mask == index).astype(np.uint8), connectivity=4)
            labels += np.where(regions > 0, regions.astype(np.int32) + found, 0)
            found += count - 1
    return labels


def object_boxes(labels: NDArray[np.integer], mask: NDArray[np.uint8] | None = None) -> ObjectBoxes:
    """Return the bounding boxes of the objects of a label image.

    Parameters
    ----------
    labels
        (H, W) ids, 0 and below: none; e.g. of a labels file, or of `objects_of`.
    mask
        Class indices, (H, W) uint8: an object has the class that most of its pixels have. None: all are class 1.

    Returns
    -------
    boxes
        (N, 5) top row, left column, height, width, class index; objects without a labelled class are left out.
    """
    ids = np.maximum(labels, 0)
    if ids.max(initial=0) > ids.size:  # ids that are no counts: `find_objects` makes a list as long as the largest
        ids = np.unique(ids, return_inverse=True)[1].reshape(ids.shape) + (0 if (ids == 0).any() else 1)
    rows = []
    for number, place in enumerate(ndimage.find_objects(ids), start=1):
        if place is not None:
            index = 1
            if mask is not None:
                counts = np.bincount(mask[place][ids[place] == number], minlength=256)[:IGNORE]
                index = int(counts[1:].argmax()) + 1 if counts[1:].any() else 0
            if index:
                top, left = place[0].start, place[1].start
                rows.append((top, left, place[0].stop - top, place[1].stop - left, index))
    return np.array(rows, np.int64).reshape(-1, 5)


def _by_class(objects: Sequence[ObjectBoxes], num_classes: int) -> list[NDArray[np.int64]]:
    """Return, for each class, (N, 6) image number and box of its objects."""
    tables = [np.insert(boxes, 0, number, axis=1) for number, boxes in enumerate(objects)]
    table = np.concatenate(tables) if tables else np.zeros((0, 6), np.int64)
    return [table[table[:, 5] == index] for index in range(num_classes)]
