"""The loop itself: it learns, it keeps the best epoch, it stops before it uses numbers that are not finite."""

import contextlib
import csv
import math
import multiprocessing
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segkit.errors import DivergedError
from segkit.models.model_file import DetectionSpec, ModelSpec, PatchCNNArguments, build_network, load_model
from segkit.models.patch_cnn import PatchCNN
from segkit.training import fit as fit_module
from segkit.training.checkpoint import load_newest
from segkit.training.diverged import load_batch
from segkit.training.gradients import Gradients, Normalise
from segkit.training.losses import cross_entropy, dice_cross_entropy
from segkit.training.samples import Batch, open_batches
from segkit.training.validation import Validation
from tests.tiny import LEARNED
from tests.training.fields import ARGUMENTS, SPEC, FieldTask, Training, build_seeded, equal, field_samples


@pytest.fixture
def training(tmp_path: Path) -> Training:
    return Training(tmp_path / "run")


def test_an_easy_task_is_learned(training: Training) -> None:
    result = training.start(epochs=4, steps_per_epoch=15)
    assert result.score > LEARNED
    first, last = training.epochs[0][0], training.epochs[-1][0]
    assert last["train_loss"] < first["train_loss"]  # type: ignore[operator]
    assert last["val_loss"] < first["val_loss"]  # type: ignore[operator]


def test_steps_and_epochs_are_told_and_written_down(training: Training) -> None:
    result = training.start()
    assert [(done, total) for done, total, _ in training.steps] == [(step, 8) for step in range(1, 9)]
    assert [info["epoch"] for _, _, info in training.steps] == [1] * 4 + [2] * 4
    assert [info["learning_rate"] for _, _, info in training.steps][:3] == [0.01, 0.02, 0.02]
    losses = [info["loss"] for _, _, info in training.steps]
    assert [row["train_loss"] for row in result.history] == pytest.approx([sum(losses[:4]) / 4, sum(losses[4:]) / 4])
    assert [row for row, _, _ in training.epochs] == result.history
    with (training.run / "metrics.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert list(rows[0]) == [
        *("epoch", "step", "learning_rate", "train_loss", "val_loss", "val_dice", "val_dice/disk"),
        *("seconds", "samples_per_second", "data_wait_share"),
    ]
    assert [(row["epoch"], row["step"]) for row in rows] == [("1", "4"), ("2", "8")]
    assert [float(row["val_dice"]) for row in rows] == [validation.score for _, validation, _ in training.epochs]
    assert load_newest(training.run / "checkpoints")[1]["history"] == result.history


def test_speed_and_the_share_of_waiting_are_those_of_the_clock(
    training: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch takes 3 s to come and 1 s to be learned from: nothing else of the loop asks the clock in between."""
    now = 0.0

    def perf_counter() -> float:
        return now

    class Slow:
        def __init__(self, batches: Iterator[Batch]) -> None:
            self._batches = batches

        def __next__(self) -> Batch:
            nonlocal now
            now += 3
            return next(self._batches)

    @contextlib.contextmanager
    def slow_batches(*arguments: Any, **settings: Any) -> Iterator[Slow]:
        with open_batches(*arguments, **settings) as batches:
            yield Slow(batches)

    backward = Gradients.backward

    def slow_backward(self: Gradients, *arguments: Any) -> Tensor:
        nonlocal now
        now += 1
        return backward(self, *arguments)

    monkeypatch.setattr(time, "perf_counter", perf_counter)
    monkeypatch.setattr(fit_module, "open_batches", slow_batches)
    monkeypatch.setattr(Gradients, "backward", slow_backward)
    result = training.start()
    assert [row["data_wait_share"] for row in result.history] == [0.75, 0.75]
    speed = 4 / 4  # patches in a batch, seconds
    assert [row["samples_per_second"] for row in result.history] == [speed, speed]
    assert [info["samples/s"] for _, _, info in training.steps] == [speed] * 8


@pytest.mark.parametrize(("scores", "best"), [([0.3, 0.6, 0.5, 0.6], 2), ([0.0, 0.0], 1), ([0.1, 0.2, 0.3], 3)])
def test_the_first_of_the_best_epochs_is_kept(training: Training, scores: list[float], best: int) -> None:
    remaining = iter(scores)

    def pretend(_: nn.Module) -> Validation:
        score = next(remaining)
        return Validation(score=score, by_class={"disk": score})

    training.task.validation = pretend
    result = training.start(epochs=len(scores), steps_per_epoch=1)
    assert (result.best_epoch, result.score, result.by_class) == (best, scores[best - 1], {"disk": scores[best - 1]})
    model = load_model(training.run)
    assert model.spec.training == {"seed": 3, "best_epoch": best}
    assert model.spec.scores == {"dice": scores[best - 1], "dice/disk": scores[best - 1]}
    assert equal(dict(model.network.named_parameters()), training.weights[best - 1])
    assert [number for number, (_, _, is_best) in enumerate(training.epochs, 1) if is_best][-1] == best


def test_a_class_that_is_nowhere_has_no_score(training: Training) -> None:
    training.task.validation = lambda _: Validation(score=0.0, by_class={"disk": None})
    result = training.start()
    assert result.by_class == {"disk": None}
    assert '"disk"' not in (training.run / "metrics.csv").read_text()
    assert load_model(training.run).spec.scores == {"dice": 0.0, "dice/disk": None}


def after(calls: int, spoil: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the usual loss, spoiled from the call with number `calls` on."""
    counted = 0

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        nonlocal counted
        counted += 1
        value = dice_cross_entropy(logits, target)
        return spoil(value) if counted >= calls else value

    return loss


NOT_FINITE = {
    "the loss is nan": lambda value: value * math.nan,
    "the loss is inf": lambda value: value + math.inf,
    # The value is as it should be, and its derivative is infinity times 0.
    "the gradient's norm is nan": lambda value: value + (value - value).sqrt(),
}


@pytest.mark.parametrize("what", NOT_FINITE)
def test_a_number_that_is_not_finite_stops_before_the_step(training: Training, what: str) -> None:
    # An epoch calls the loss for 4 steps and for the validation: call 7 is the second epoch's second step.
    training.task.class_term = after(7, NOT_FINITE[what])
    with pytest.raises(DivergedError, match=f"diverged at step 6: {what} .*learning_rate") as caught:
        training.start()
    assert caught.value.exit_code == 6
    assert len(training.weights) == 5
    assert equal(training.weights_now(), training.weights[-1])
    path, state, damaged = load_newest(training.run / "checkpoints")
    assert (path.name, damaged, len(state["history"])) == ("step-00000004.pt", [], 1)
    batch = load_batch(training.run / "diverged_step_6.safetensors")
    assert f"{training.run / 'diverged_step_6.safetensors'}" in str(caught.value)
    image, target = field_samples().draw(5, 2)
    assert torch.equal(batch.images[2], torch.from_numpy(image).permute(2, 0, 1))
    assert torch.equal(batch.targets[2], torch.from_numpy(target).permute(2, 0, 1))
    assert all(value.isfinite().all() for value in state["network"].values())


def test_weights_that_are_not_finite_are_not_kept(training: Training) -> None:
    """The last step of an epoch can spoil the weights after the last look at a training loss."""

    def spoil(value: Tensor) -> Tensor:
        return value if torch.is_grad_enabled() else value * math.nan

    training.task.class_term = after(6, spoil)
    with pytest.raises(DivergedError, match="at step 8: the validation loss is nan"):
        training.start()
    assert load_newest(training.run / "checkpoints")[0].name == "step-00000004.pt"
    assert load_model(training.run).spec.training["best_epoch"] == 1


def test_loader_processes_end_with_a_training_that_fails(training: Training) -> None:
    training.task.class_term = after(2, NOT_FINITE["the loss is nan"])
    with pytest.raises(DivergedError) as caught:
        training.start(workers=2)
    assert caught.value.__traceback__ is not None  # which keeps the loop's variables, as a notebook does
    assert multiprocessing.active_children() == []


def test_gradients_are_clipped_to_the_norm(training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
    norms = []
    step = torch.optim.AdamW.step

    def measure(self: torch.optim.AdamW, *arguments: Any) -> Any:
        gradients = [one.grad for group in self.param_groups for one in group["params"]]
        norms.append(torch.cat([gradient.flatten() for gradient in gradients]).norm().item())
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", measure)
    training.start(optimiser__clip_norm=0.01)
    assert norms == pytest.approx([0.01] * 8, rel=1e-3)
    norms.clear()
    Training(training.run.with_name("free")).start(optimiser__clip_norm=0.0)
    assert min(norms) > 0.01


def test_pixels_are_normalised_by_channel() -> None:
    images = torch.tensor([[[[255]], [[0]], [[51]]]], dtype=torch.uint8)
    assert Normalise([0.5, 0.25, 0], [0.5, 0.25, 1])(images).flatten().tolist() == pytest.approx([1, -1, 0.2])


def test_a_paper_form_is_compared_with_the_middle_of_the_mask(tmp_path: Path) -> None:
    seen: list[tuple[torch.Size, torch.Size]] = []

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        seen.append((logits.shape, target.shape))
        return dice_cross_entropy(logits, target)

    task = FieldTask(build_seeded(ARGUMENTS.model_copy(update={"form": "paper"})), class_term=loss)
    assert Training(tmp_path, task).start(epochs=4, steps_per_epoch=15).score > LEARNED
    assert set(seen[:-1]) <= {((4, 2, 16, 16), (4, 16, 16)), ((2, 2, 16, 16), (2, 16, 16))}


def test_a_training_in_parts_is_that_of_one_piece(training: Training, tmp_path: Path) -> None:
    whole = Training(tmp_path / "whole")
    expected = whole.start(epochs=4)
    # The learning rate is that of all epochs, also where the loop ends before; what lies behind is not done again.
    for until in (1, 3, 3, 2, 4):
        result = training.start(epochs=4, resume=until > 1, until=until)
    rates = [info["learning_rate"] for _, _, info in training.steps]
    assert rates == [info["learning_rate"] for _, _, info in whole.steps]
    assert all(equal(one, other) for one, other in zip(training.weights, whole.weights, strict=True))
    assert (result.best_epoch, result.score) == (expected.best_epoch, expected.score)
    assert load_model(training.run).sha256 == load_model(whole.run).sha256


def test_the_loop_may_end_after_an_epoch_that_there_is_none_of(training: Training) -> None:
    assert len(training.start(epochs=2, until=7).history) == 2


def test_what_a_validation_finds_is_kept_with_the_best_model(tmp_path: Path) -> None:
    """Thresholds, for one; and the score carries the name of what was measured."""
    arguments = PatchCNNArguments(
        in_channels=1, num_classes=2, form="linear", patch_px=32, base_channels=1, depth=1, dropout=0
    )
    detection = DetectionSpec(match_radius="6px", smooth_radius="3px", nms_radius="6px", stride=2, thresholds=[0.5])
    spec = ModelSpec.model_validate(
        {
            **SPEC.model_dump(), "architecture": "patch_cnn", "task": "points", "arguments": arguments,
            "detection": detection,
        }
    )  # fmt: skip
    network = build_network(arguments, device="cpu")
    assert isinstance(network, PatchCNN)
    found = iter([(0.4, 0.1), (0.6, 0.25), (0.5, 0.9)])

    def validate(_: nn.Module) -> Validation:
        score, threshold = next(found)
        changes = {"detection": detection.model_copy(update={"thresholds": [threshold]})}
        return Validation(score=score, by_class={"disk": score}, changes=changes, story={"tried": [threshold]})

    task = FieldTask(network, spec, "f1", cross_entropy, validate)  # type: ignore[arg-type]
    result = Training(tmp_path, task).start(epochs=3, steps_per_epoch=1)
    model = load_model(tmp_path)
    assert (result.best_epoch, result.score, result.by_class) == (2, 0.6, {"disk": 0.6})
    assert model.spec.detection == detection.model_copy(update={"thresholds": [0.25]})
    assert model.spec.scores == {"f1": 0.6, "f1/disk": 0.6}
    assert (model.spec.training["best_epoch"], model.spec.training["tried"]) == (2, [0.25])
    assert [row["val_f1"] for row in result.history] == [0.4, 0.6, 0.5]
