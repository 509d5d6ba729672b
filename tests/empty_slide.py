"""A slide of any size without pixels, for what is decided before any is read."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from segkit.geometry import Box
from segkit.slides import Slide


class EmptySlide(Slide):
    """A slide that nobody may read; each level is smaller than the one before `by` a factor."""

    def __init__(self, height: int, width: int, *, mpp: float | None = 0.5, halvings: int = 0, by: int = 2) -> None:
        sizes = [(max(1, height // by**n), max(1, width // by**n)) for n in range(halvings + 1)]
        super().__init__(Path("a.svs"), sizes=sizes, channels=3, mpp=mpp, backend="tiff", properties={})

    def _read(self, box: Box, level: int) -> NDArray[np.uint8]:
        pytest.fail("pixels were read")

    def close(self) -> None:
        pass
