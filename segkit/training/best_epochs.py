"""The models of the best epochs, kept for averaging their weights.

Weights that one training passes through near its end lie in one wide minimum, whose middle is often better than each
of them (Izmailov et al. 2018). Whether it is, the validation says: the average becomes the model only if it scores
better.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import nn

from segkit.models.model_file import MODEL_NAME, ModelSpec, load_model, save_model
from segkit.training.averaging_weights import average_state_dicts
from segkit.training.state import by_class
from segkit.training.trainable import Trainable
from segkit.training.validation import Validation

FOLDER = Path("checkpoints") / "best"


def keep_best(run: Path, network: nn.Module, spec: ModelSpec, scores: Sequence[float], *, count: int) -> None:
    """Keep the network of the last epoch if that is among the best ones so far; remove those that no longer are."""
    best = _best(scores, count)
    last = len(scores)
    if last in best:
        save_model(_path(run, last), network, spec)
    for path in (run / FOLDER).glob("epoch-*.safetensors"):
        found = re.fullmatch(r"epoch-(\d{5,})", path.stem)
        if found and int(found[1]) not in best:
            path.unlink()


def average_of_best(
    task: Trainable, run: Path, scores: Sequence[float], *, count: int, on_note: Callable[[str], None]
) -> tuple[nn.Module, ModelSpec, Validation, list[int]] | None:
    """Return the average of the best epochs' networks with what it is worth, if that is more than the best one.

    Returns
    -------
    network, spec, validation, epochs
        `network` is the task's own, whose weights are replaced. None if the average is no better, or there is only
        one epoch to average.
    """
    # An epoch that was done again may not have had its score of before, where a device does not compute the same twice:
    # then one is missing.
    epochs = [epoch for epoch in sorted(_best(scores, count)) if _path(run, epoch).is_file()]
    if len(epochs) < 2:
        return None
    models = [load_model(_path(run, epoch)) for epoch in epochs]
    network = task.network
    network.load_state_dict(average_state_dicts([model.network.state_dict() for model in models]))
    network.eval()
    validation = task.validate(network)
    named = ", ".join(map(str, epochs))
    best = max(scores)
    verdict = "it is the model" if validation.score > best else "the best epoch stays the model"
    on_note(f"average of the epochs {named}: {task.metric} {validation.score:.4f}, best epoch {best:.4f}: {verdict}")
    if validation.score <= best:
        return None
    spec = models[0].spec.model_copy(
        update={
            "scores": by_class(task.metric, validation),
            "training": {
                **models[0].spec.training,
                "best_epoch": _best(scores, 1)[0],
                "averaged_epochs": epochs,
                **validation.story,
            },
            **validation.changes,
        }
    )
    return network, spec, validation, epochs


def restore_best(run: Path, scores: Sequence[float]) -> None:
    """Make the best epoch's network the model again, where that is an average from before the run had more epochs."""
    path = _path(run, _best(scores, 1)[0])
    if "averaged_epochs" in load_model(run).spec.training and path.is_file():
        model = load_model(path)
        save_model(run / MODEL_NAME, model.network, model.spec)


def _best(scores: Sequence[float], count: int) -> list[int]:
    """Return the numbers, from 1 on, of the epochs with the highest scores; of equal ones the earlier."""
    return [number + 1 for number in sorted(range(len(scores)), key=lambda number: (-scores[number], number))[:count]]


def _path(run: Path, epoch: int) -> Path:
    return run / FOLDER / f"epoch-{epoch:05d}.safetensors"
