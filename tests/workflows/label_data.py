"""The fields of `tests.tiny` as objects that are told apart."""

from pathlib import Path

import numpy as np
from PIL import Image

from tests.tiny import SPLITS, draw_field, make_data


def make_label_data(root: Path) -> Path:
    """Write a data folder of labels, 16 bit with gaps between the ids, and return it."""
    make_data(root)
    (root / "masks").rename(root / "labels")
    for number in range(len(SPLITS)):
        labels = draw_field(number)[1].astype(np.uint16) * 5
        labels[:, 36:] *= 300  # what is left and right of the middle are two
        Image.fromarray(labels).save(root / "labels" / f"field{number}.png")
    return root
