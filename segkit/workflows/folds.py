"""K trainings, each validated on another part of the images, and their networks as one model."""

import functools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from segkit import files
from segkit.config import TrainConfig
from segkit.errors import InterruptedRunError
from segkit.models.model_list import write_model_list
from segkit.training.distributed import open_group
from segkit.training.fit import Hold, hold_nothing
from segkit.workflows import runs
from segkit.workflows.callbacks import OnNote, OnProgress, quiet_note, quiet_progress
from segkit.workflows.settings import device_of_process
from segkit.workflows.train import CACHE, TrainResult, train

TABLE = "folds.csv"


@dataclass(frozen=True, kw_only=True)
class FoldsResult:
    """What the trainings left: their folder, which `--model` takes for all of them, and each one's result.

    `mean` and `deviation` are those of the validation scores over the folds.
    """

    run: Path
    metric: str
    mean: float
    deviation: float
    folds: Sequence[TrainResult]


def train_folds(
    config: TrainConfig,
    folds: int,
    *,
    out: Path | None = None,
    hold: Hold = hold_nothing,
    on_progress: OnProgress = quiet_progress,
    on_note: OnNote = quiet_note,
) -> FoldsResult:
    """Train `folds` models, each validated on another part of the images that are not for testing.

    The folder gets fold-1, fold-2, .., each a run, a table of their scores and a list of their models, so that
    `predict --model FOLDER` averages them. Given again, folds that are finished stay, and one that was begun goes on.

    Raises
    ------
    UsageError
        A fold in the folder was begun with other settings.
    """
    with open_group(device_of_process(config.compute)) as group:
        folder = group.from_first(lambda: files.prepare_folder(out or runs.new_run_folder(None, config.data.dir)))
        results = []
        for fold in range(1, folds + 1):
            if group.is_first:
                on_note(f"fold {fold} of {folds}")
            run = folder / f"fold-{fold}"
            data = config.data.model_copy(update={"folds": folds, "fold": fold})
            has_begun = group.from_first(functools.partial(runs.has_checkpoint, run))
            try:
                trained = train(
                    config.model_copy(update={"data": data}),
                    out=None if has_begun else run,
                    resume=run if has_begun else None,
                    cache=folder / CACHE,  # all folds have the same images
                    group=group,
                    hold=hold,
                    on_progress=on_progress,
                    on_note=on_note,
                )
            except InterruptedRunError as error:
                error.message += f" (this fold alone), or with all folds by the same command with --out {folder}"
                raise
            results.append(trained)
        scores = [one.score for one in results]
        metric = results[0].metric
        if group.is_first:
            rows = [
                {"fold": number, "best_epoch": one.best_epoch, metric: one.score}
                for number, one in enumerate(results, start=1)
            ]
            files.write_csv(folder / TABLE, rows, list(rows[0]))
            write_model_list(folder, [one.model for one in results])
    return FoldsResult(
        run=folder,
        metric=metric,
        mean=statistics.fmean(scores),
        deviation=statistics.stdev(scores),
        folds=results,
    )
