"""Fixtures of the workflows' tests."""

from pathlib import Path

import pytest

from segkit.workflows.predict import SlideResult
from tests.tiny import write_slide
from tests.workflows.predictions import IMAGE, one, run


@pytest.fixture(scope="session")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_slide(tmp_path_factory.mktemp("slides") / "tissue.tif", IMAGE)


@pytest.fixture(scope="session")
def predicted(slide: Path, tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> SlideResult:
    """A prediction in small tiles, with the probability; not to be changed."""
    out = tmp_path_factory.mktemp("predicted")
    return one(run([slide], tiny_run, out, "tile=64", "probability=true"))
