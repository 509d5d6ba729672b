"""A learning rate from a sweep over many."""

import itertools
from dataclasses import dataclass
from pathlib import Path

import torch

from segkit import files
from segkit.config import TrainConfig
from segkit.report.learning_rate import draw_lr_curve
from segkit.training.lr_finder import find_rate, rate_sweep
from segkit.training.rate_sweep import sweep_rates
from segkit.workflows.callbacks import OnNote, OnProgress, quiet_note, quiet_progress
from segkit.workflows.prepare import prepare
from segkit.workflows.settings import device_of
from segkit.workflows.tasks import build_task

TABLE = "learning_rates.csv"
PICTURE = "learning_rates.png"


@dataclass(frozen=True, kw_only=True)
class RateResult:
    """The proposed rate, None where the sweep shows none; why; the curve as picture and table.

    The table has a row for each step: its rate, its loss, and the smoothed loss, which decides (empty where there is
    none: see `segkit.training.lr_finder.find_rate`).
    """

    rate: float | None
    reason: str
    picture: Path
    table: Path


def find_lr(
    config: TrainConfig,
    out: Path,
    *,
    low: float = 1e-6,
    high: float = 1.0,
    steps: int = 100,
    on_progress: OnProgress = quiet_progress,
    on_note: OnNote = quiet_note,
) -> RateResult:
    """Train a fresh network for some steps at rates from `low` to `high`, and propose one; leaves curve and table.

    Parameters
    ----------
    config
        As for `train`; its learning rate and schedule are of no meaning.
    out
        The folder of the results.
    low, high, steps
        The rates of the sweep, each the same factor above the one before.
    """
    files.prepare_folder(out)
    prepared = prepare(config, on_progress=on_progress, on_note=on_note)
    config = prepared.config
    torch.manual_seed(config.seed)
    task = build_task(prepared, on_progress=on_progress, on_note=on_note)
    rates = rate_sweep(low, high, steps)
    losses = sweep_rates(
        task,
        config,
        task.samples_of_round(0, out),
        rates,
        device=device_of(config.compute),
        on_step=lambda done, total, loss: on_progress("sweep", done, total, {"loss": loss, "rate": rates[done - 1]}),
    )
    proposal = find_rate(rates, losses)
    rows = [
        {"learning_rate": rate, "loss": loss, "smoothed_loss": smoothed}
        for rate, loss, smoothed in itertools.zip_longest(rates[: len(losses)], losses, proposal.smoothed)
    ]
    files.write_csv(out / TABLE, rows, ["learning_rate", "loss", "smoothed_loss"])
    draw_lr_curve(
        rates[: len(losses)],
        losses,
        proposal.rate,
        out / PICTURE,
        smoothed=proposal.smoothed,
        steepest=proposal.steepest,
        lowest=proposal.lowest,
        reason=proposal.reason,
    )
    return RateResult(rate=proposal.rate, reason=proposal.reason, picture=out / PICTURE, table=out / TABLE)
