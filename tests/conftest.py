"""Fixtures that several rooms' tests share."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of real data sets, or skip: they are research data and not part of the project."""
    folder = Path(os.environ.get("SEGKIT_REAL_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no real data: set SEGKIT_REAL_DATA to the folder that holds the data sets")
    return folder


@pytest.fixture(scope="session")
def sample_data() -> Path:
    """Return the synthetic data that ships with the project."""
    return ROOT / "sample_data"
