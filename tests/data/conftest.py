"""Fixtures of the data room's tests."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_pictures import save


@pytest.fixture
def make_data(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that makes a data folder: masks by name (arrays), an image of the same size for each."""

    def make(
        masks: Mapping[str, Any], *, splits: str | None = None, yaml: str | None = None, kind: str = "masks"
    ) -> Path:
        root = tmp_path / "data"
        for number, (name, mask) in enumerate(masks.items()):
            height, width = np.shape(mask)
            rng = np.random.default_rng(number)
            save(root / "images" / f"{name}.png", rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
            save(root / kind / f"{name}.png", mask)
        if splits is not None:
            (root / "splits.csv").write_text(splits)
        if yaml is not None:
            (root / "dataset.yaml").write_text(yaml)
        return root

    return make
