"""Fixtures that several rooms' tests share."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# Before torch is loaded, also by the processes that tests start: two threads of one test wait for each other without
# sleeping, which takes forever where other work shares the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parent.parent

# How long an example takes depends on the machine and its load, and says nothing about the code.
settings.register_profile("segkit", deadline=None)
settings.load_profile("segkit")


@pytest.fixture(autouse=True, scope="session")
def quick_disk() -> Iterator[None]:
    """Do not wait for the disk: power does not fail in a test, and on a busy disk that wait is most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


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


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data folder that a tiny network learns in a second; not to be changed."""
    from tests.tiny import make_data

    return make_data(tmp_path_factory.mktemp("tiny") / "disks")


@pytest.fixture(scope="session")
def tiny_run(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run folder of a training on `tiny_data`; not to be changed."""
    from segkit.workflows.train import train
    from tests.tiny import tiny_config

    config = tiny_config(tiny_data, "epochs=4", "steps_per_epoch=15")
    return train(config, out=tmp_path_factory.mktemp("tiny") / "run").run


@pytest.fixture(scope="session")
def tiny_point_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data folder of points that a tiny patch CNN learns in a second; not to be changed."""
    from tests.tiny import make_point_data

    return make_point_data(tmp_path_factory.mktemp("tiny") / "points")


@pytest.fixture(scope="session")
def tiny_point_run(tiny_point_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run folder of a training on `tiny_point_data`; not to be changed."""
    from segkit.workflows.train import train
    from tests.tiny import tiny_point_config

    config = tiny_point_config(tiny_point_data, "epochs=4", "steps_per_epoch=15")
    return train(config, out=tmp_path_factory.mktemp("tiny") / "point_run").run
