"""What the processes of tests/workflows/test_train_ranks.py do."""

import contextlib
from pathlib import Path
from typing import Any

from segkit.config import TrainConfig, build_config
from segkit.models.model_file import load_model
from segkit.workflows.folds import train_folds
from segkit.workflows.train import TrainResult, train


def train_run(config: str, out: str) -> dict[str, Any]:
    """Train with the settings in a file."""
    return told(train(build_config(TrainConfig, file=Path(config)), out=Path(out)))


def train_two_folds(config: str) -> list[dict[str, Any]]:
    """Train two folds into a folder that is named by the time, in the folder of both processes."""
    with contextlib.chdir(".."):
        return [told(one) for one in train_folds(build_config(TrainConfig, file=Path(config)), 2).folds]


def told(result: TrainResult) -> dict[str, Any]:
    return {"run": str(result.run), "score": result.score, "sha256": load_model(result.model).sha256}
