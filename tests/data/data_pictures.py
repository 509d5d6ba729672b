"""Small pictures for tests of data folders."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def save(path: Path, pixels: Any) -> Path:
    """Save uint8 or uint16 pixels as PNG (or whatever the suffix says), with the folders above."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels)).save(path)
    return path
