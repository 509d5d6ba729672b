"""Draw training patches: any class as often as another where that is wanted, and reproducibly.

Sample `index` of step `step` is a pure function of (seed, step, index): how many workers draw the samples, in
which order, or whether the run was resumed in between makes no difference.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from segkit.geometry import Box, mirror_indices
from segkit.masks import IGNORE


def sample_rng(seed: int, step: int, index: int) -> np.random.Generator:
    """Return the random numbers of sample `index` in step `step` of the run with `seed`.

    Philox 4x64 is a counter-based generator: the seed is its key, step and index are the high words of its counter,
    so streams of different samples never overlap.
    """
    return np.random.Generator(np.random.Philox(key=[seed, 0], counter=[0, 0, index, step]))


class PatchSource:
    """Draws patches with their surroundings from images that are in memory.

    Parameters
    ----------
    images
        (H, W, C) uint8 arrays of any sizes with equal C.
    masks
        (H, W) uint8 class indices below `num_classes`; `IGNORE` (255) is never drawn as a class.
    patch_px
        Side of the patches in pixels.
    balanced
        Share of patches around a pixel of a class; the classes that occur are equally likely, then the pixels of
        the class. The rest lie anywhere, each position within the images being equally likely.
    num_classes
        Number of classes.
    """

    def __init__(
        self,
        images: Sequence[NDArray[np.uint8]],
        masks: Sequence[NDArray[np.uint8]],
        *,
        patch_px: int,
        balanced: float,
        num_classes: int,
    ) -> None:
        assert images, "no images"
        assert all(image.shape[:2] == mask.shape for image, mask in zip(images, masks, strict=True))
        assert num_classes <= IGNORE
        self.images = images
        self.masks = masks
        self.patch_px = patch_px
        self.balanced = balanced
        # Row sums, and not the positions of all pixels, which would take eight times the masks themselves.
        self._class_rows = [
            [np.cumsum(np.count_nonzero(mask == index, axis=1)) for mask in masks] for index in range(num_classes)
        ]
        self._class_pixels = [np.cumsum([rows[-1] for rows in images_rows]) for images_rows in self._class_rows]
        self._classes = [index for index, pixels in enumerate(self._class_pixels) if pixels[-1] > 0]
        # Positions of a patch in an image; an image smaller than the patch has one.
        positions = [self._free(image.shape[0]) * self._free(image.shape[1]) for image in images]
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
        image, mask
            (context_px, context_px, C) and (context_px, context_px) uint8; they may be views of the images.
        """
        assert context_px >= self.patch_px
        if self._classes and rng.random() < self.balanced:
            number, y, x = self._around_class(rng)
        else:
            number, y, x = self._anywhere(rng)
        margin = (context_px - self.patch_px) // 2
        box = Box(y - margin, x - margin, context_px, context_px)
        return cut_mirrored(self.images[number], box), cut_mirrored(self.masks[number], box)

    def _anywhere(self, rng: np.random.Generator) -> tuple[int, int, int]:
        """Draw a patch's image and origin evenly among all positions."""
        position = int(rng.integers(self._positions[-1]))
        number = int(np.searchsorted(self._positions, position, side="right"))
        height, width = self.masks[number].shape
        inside = position - (int(self._positions[number - 1]) if number else 0)
        y, x = divmod(inside, self._free(width))
        return (
            number,
            y if height >= self.patch_px else self._centred(height),
            (x if width >= self.patch_px else self._centred(width)),
        )

    def _around_class(self, rng: np.random.Generator) -> tuple[int, int, int]:
        """Draw a class, one of its pixels, and a patch that has this pixel in its middle half where it can."""
        index = self._classes[int(rng.integers(len(self._classes)))]
        number, row, column = self._pixel(index, int(rng.integers(self._class_pixels[index][-1])))
        height, width = self.masks[number].shape
        jitter = rng.integers(-(self.patch_px // 4), self.patch_px // 4 + 1, 2)
        y = row - self.patch_px // 2 + int(jitter[0])
        x = column - self.patch_px // 2 + int(jitter[1])
        return number, self._clamp(y, height), self._clamp(x, width)

    def _pixel(self, index: int, rank: int) -> tuple[int, int, int]:
        """Return image, row and column of the class pixel of this rank in reading order over all images."""
        number = int(np.searchsorted(self._class_pixels[index], rank, side="right"))
        rank -= int(self._class_pixels[index][number - 1]) if number else 0
        rows = self._class_rows[index][number]
        row = int(np.searchsorted(rows, rank, side="right"))
        rank -= int(rows[row - 1]) if row else 0
        return number, row, int(np.flatnonzero(self.masks[number][row] == index)[rank])

    def _free(self, size: int) -> int:
        return max(size - self.patch_px, 0) + 1

    def _centred(self, size: int) -> int:
        return -((self.patch_px - size) // 2)

    def _clamp(self, start: int, size: int) -> int:
        return min(max(start, 0), size - self.patch_px) if size >= self.patch_px else self._centred(size)


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
