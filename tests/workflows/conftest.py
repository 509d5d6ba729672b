"""Fixtures of the workflows' tests."""

from pathlib import Path

import pytest

from segkit.errors import InterruptedRunError
from segkit.workflows.predict import SlideResult
from segkit.workflows.train import train
from tests.tiny import write_slide
from tests.workflows.bad_input import KINDS, MAKE, config_of
from tests.workflows.predictions import IMAGE, one, run
from tests.workflows.stopping import asking_at


@pytest.fixture(scope="session")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_slide(tmp_path_factory.mktemp("slides") / "tissue.tif", IMAGE)


@pytest.fixture(scope="session")
def predicted(slide: Path, tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> SlideResult:
    """A prediction in small tiles, with the probability; not to be changed."""
    out = tmp_path_factory.mktemp("predicted")
    return one(run([slide], tiny_run, out, "tile=64", "probability=true"))


@pytest.fixture(scope="session")
def data_of(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Data folders that can be trained on, by kind; not to be changed."""
    root = tmp_path_factory.mktemp("good")
    return {kind: MAKE[kind](root / kind) for kind in KINDS}


@pytest.fixture(scope="session")
def stopped_of(data_of: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs that were stopped in their second step, by kind; not to be changed."""
    runs = {kind: tmp_path_factory.mktemp("stopped") / kind for kind in KINDS}
    for kind, out in runs.items():
        with pytest.raises(InterruptedRunError):
            train(config_of(kind, data_of[kind], "steps_per_epoch=3"), out=out, hold=asking_at(out, 2))
    return runs
