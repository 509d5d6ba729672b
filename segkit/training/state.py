"""Everything that changes while a network is trained, to be saved and restored as a whole."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from segkit.errors import ModelError
from segkit.training import checkpoint
from segkit.training.averaging_weights import Ema
from segkit.training.validation import Validation

CHECKPOINTS = "checkpoints"
Row = Mapping[str, float | None]


@dataclass(kw_only=True)
class TrainingState:
    """The state after `step` steps.

    Attributes
    ----------
    network, optimiser, scaler, ema
        What learns; `ema` is None where no running average is kept.
    metric
        The name of the score in `history`.
    history
        The rows of metrics.csv, one for each epoch that is finished and validated.
    losses, seconds, waited
        Of the epoch under way: the loss of each step, and the seconds spent on them and on waiting for data.
    saved_step
        The step of the newest checkpoint.
    """

    network: nn.Module
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    ema: Ema | None
    metric: str
    step: int = 0
    history: list[Row] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0
    waited: float = 0.0
    saved_step: int = -1

    def scores(self) -> list[float]:
        """Return the validation score of each finished epoch."""
        return [score_of(row, self.metric) for row in self.history]

    def best_epoch(self) -> int | None:
        """Return the number, from 1 on, of the first epoch with the highest score."""
        scores = self.scores()
        return scores.index(max(scores)) + 1 if scores else None

    def keep(self, run: Path) -> None:
        """Write a checkpoint into the run's folder."""
        best = self.best_epoch()
        checkpoint.save_checkpoint(
            run / CHECKPOINTS,
            self.step,
            {
                "format": checkpoint.FORMAT,
                "network": self.network.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "scaler": self.scaler.state_dict(),
                "ema": None if self.ema is None else self.ema.state_dict(),
                "step": self.step,
                "history": [dict(row) for row in self.history],
                "losses": list(self.losses),
                "seconds": self.seconds,
                "waited": self.waited,
            },
            best=None if best is None else int(self.history[best - 1]["step"] or 0),
        )
        self.saved_step = self.step

    def restore(self, path: Path, content: Mapping[str, Any]) -> None:
        """Take over what a checkpoint holds.

        Raises
        ------
        ModelError
            It is of another network or optimiser; the first differences are listed.
        """
        problems = mismatches(self.network.state_dict(), content["network"])
        if (content["ema"] is None) != (self.ema is None):
            problems.append("it has a running average of the weights (ema), or lacks one")
        try:
            if problems:
                raise ValueError("the networks differ")
            self.network.load_state_dict(content["network"])
            self.optimiser.load_state_dict(content["optimiser"])
            self.scaler.load_state_dict(content["scaler"])
            if self.ema is not None:
                self.ema.load_state_dict(content["ema"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise ModelError(
                f"{path}: does not fit this configuration. Resume with the run's own configuration.",
                problems[:5] or [" ".join(str(error).split())[:200]],
            ) from error
        self.step = content["step"]
        self.history = list(content["history"])
        self.losses, self.seconds, self.waited = list(content["losses"]), content["seconds"], content["waited"]
        self.saved_step = self.step

    def finish_step(self, loss: float, *, seconds: float, waited: float) -> None:
        """Count a step."""
        self.step += 1
        self.losses.append(loss)
        self.seconds += seconds
        self.waited += waited

    def finish_epoch(self, row: Row) -> None:
        """Add the row of the epoch that has been under way."""
        self.history.append(row)
        self.losses, self.seconds, self.waited = [], 0.0, 0.0


def mismatches(expected: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]) -> list[str]:
    """Return a line for each tensor that is missing, too many or of another shape."""
    lines = [f"{name}: is missing" for name in expected if name not in found]
    lines += [f"{name}: is not part of this network" for name in found if name not in expected]
    lines += [
        f"{name}: has the shape {tuple(found[name].shape)}, and {tuple(tensor.shape)} is needed"
        for name, tensor in expected.items()
        if name in found and found[name].shape != tensor.shape
    ]
    return lines


def score_of(row: Row, metric: str) -> float:
    """Return the validation score in a row of metrics.csv; -1 where it has none."""
    score = row[f"val_{metric}"]
    return -1.0 if score is None else score


def by_class(metric: str, validation: Validation) -> dict[str, float | None]:
    """Return a validation's scores by name: METRIC, METRIC/CLASS for each class, and what stands beside."""
    of_classes = {f"{metric}/{name}": value for name, value in validation.by_class.items()}
    return {metric: validation.score, **of_classes, **validation.beside}


def epochs_since_best(scores: Sequence[float]) -> int:
    """Return how many epochs have passed since the first one with the highest score."""
    return len(scores) - 1 - list(scores).index(max(scores)) if scores else 0
