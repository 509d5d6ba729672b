"""What the loop can do beside learning: stop and go on anywhere, average, stop early, save memory."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segkit.errors import DivergedError, InterruptedRunError, ModelError, ResourceError
from segkit.models.model_file import load_model
from segkit.training import fit as fit_module
from segkit.training.checkpoint import load_newest
from segkit.training.distributed import ALONE
from segkit.training.gradients import Gradients, checkpoint_blocks
from segkit.training.validation import Validation
from tests.training.fields import ARGUMENTS, FieldTask, Training, build_seeded, equal, field_patches, settings

OPTIONS: dict[str, dict[str, Any]] = {
    "ema": {"ema": 0.9},
    "sgd": {"optimiser__name": "sgd", "optimiser__nesterov": True, "optimiser__l1": 1e-5},
    "plateau": {"optimiser__schedule": "plateau", "optimiser__decay_epochs": 1},
    "bfloat16": {"compute__precision": "bfloat16"},
    "float16": {"compute__precision": "float16", "optimiser__learning_rate": 2e-3},
    "micro-batches": {"compute__micro_batches": 3},
    "workers": {"workers": 2},
}


class Dies(BaseException):
    """Stands for kill -9: nobody catches it, and nothing is saved on its way."""


def dying_after(training: Training, step: int) -> None:
    remember = training.on_step

    def on_step(done: int, total: int, info: Any) -> None:
        remember(done, total, info)
        if done == step:
            raise Dies

    training.on_step = on_step  # type: ignore[method-assign]


def asking_after(training: Training, step: int) -> fit_module.Hold:
    """Return a `hold` in which a signal comes during that step."""

    @contextlib.contextmanager
    def hold() -> Iterator[Callable[[], int]]:
        yield lambda: 15 if len(training.steps) >= step else 0

    return hold


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_stopped_by_a_signal_it_goes_on_with_the_very_next_step(tmp_path: Path, options: dict[str, Any]) -> None:
    whole = Training(tmp_path / "whole")
    expected = whole.start(epochs=3, **options)
    stopped = Training(tmp_path / "stopped")
    for step in (2, 9):
        with pytest.raises(
            InterruptedRunError, match=f"stopped after step {step} of 12. Go on with --resume"
        ) as caught:
            stopped.start(epochs=3, resume=step > 2, hold=asking_after(stopped, step), **options)
        assert caught.value.exit_code == 143
        assert load_newest(stopped.run / "checkpoints")[0].name == f"step-0000000{step}.pt"
    result = stopped.start(epochs=3, resume=True, **options)
    assert [done for done, _, _ in stopped.steps] == list(range(1, 13))  # no step is done twice
    assert all(equal(one, other) for one, other in zip(stopped.weights, whole.weights, strict=True))
    assert [row["train_loss"] for row in result.history] == [row["train_loss"] for row in expected.history]
    assert [row["val_loss"] for row in result.history] == [row["val_loss"] for row in expected.history]
    assert load_model(stopped.run).sha256 == load_model(whole.run).sha256


def test_killed_between_checkpoints_it_does_the_same_steps_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit_module, "SECONDS_BETWEEN_CHECKPOINTS", 0)
    whole = Training(tmp_path / "whole")
    whole.start(epochs=2)
    killed = Training(tmp_path / "killed")
    dying_after(killed, 6)
    with pytest.raises(Dies):
        killed.start(epochs=2)
    assert load_newest(killed.run / "checkpoints")[1]["step"] == 5  # a checkpoint after each step, here
    resumed = Training(killed.run)
    resumed.start(epochs=2, resume=True)
    assert [done for done, _, _ in resumed.steps] == [6, 7, 8]
    assert equal(resumed.weights[-1], whole.weights[-1])


def test_a_checkpoint_of_another_network_or_without_its_average_is_refused(tmp_path: Path) -> None:
    Training(tmp_path).start(epochs=1)
    wider = FieldTask(build_seeded(ARGUMENTS.model_copy(update={"base_channels": 6})))
    with pytest.raises(ModelError, match=r"step-00000004.pt: does not fit this configuration") as caught:
        Training(tmp_path, wider).start(epochs=2, resume=True)
    assert len(caught.value.problems) == 5
    assert "encoder.0.0.weight: has the shape (4, 1, 3, 3), and (6, 1, 3, 3) is needed" in caught.value.problems
    with pytest.raises(ModelError, match="does not fit"):
        Training(tmp_path).start(epochs=2, resume=True, ema=0.9)


def scored(*scores: float) -> Callable[[nn.Module], Validation]:
    remaining = iter(scores)

    def validate(_: nn.Module) -> Validation:
        score = next(remaining)
        return Validation(score=score, by_class={"disk": score})

    return validate


def test_it_stops_early_and_keeps_the_best(tmp_path: Path) -> None:
    training = Training(tmp_path, FieldTask(validation=scored(0.1, 0.5, 0.4, 0.5, 0.9)))
    result = training.start(epochs=9, steps_per_epoch=1, patience=2)
    assert (len(result.history), result.best_epoch, result.score, result.stopped_early) == (4, 2, 0.5, True)
    assert equal(dict(load_model(tmp_path).network.named_parameters()), training.weights[1])
    # Resumed, it has nothing to do: nothing would be better in no epoch.
    again = Training(tmp_path, FieldTask(validation=scored()))
    assert again.start(epochs=9, steps_per_epoch=1, patience=2, resume=True).stopped_early
    assert again.steps == []


def test_the_running_average_is_what_is_measured_and_kept(tmp_path: Path) -> None:
    measured: list[dict[str, Tensor]] = []

    def validate(network: nn.Module) -> Validation:
        measured.append({name: value.detach().clone() for name, value in network.named_parameters()})
        return Validation(score=0.5, by_class={"disk": 0.5})

    training = Training(tmp_path, FieldTask(validation=validate))
    training.start(epochs=1, steps_per_epoch=3, ema=0.5)
    start = dict(build_seeded().named_parameters())
    # The decay of the n-th update is min(0.5, (1 + n) / (10 + n)).
    average = {name: value.detach() for name, value in start.items()}
    for decay, weights in zip((0.1, 2 / 11, 3 / 12), training.weights, strict=True):
        average = {name: decay * value + (1 - decay) * weights[name] for name, value in average.items()}
    for name, value in measured[0].items():
        torch.testing.assert_close(value, average[name])
    assert equal(dict(load_model(tmp_path).network.named_parameters()), measured[0])


def test_a_batch_in_parts_has_nearly_the_gradients_of_the_whole(tmp_path: Path) -> None:
    # Batch norm sees the parts, and Dice is not a mean over samples: without both it is the same.
    def mean_of_squares(logits: Tensor, target: Tensor) -> Tensor:
        return (logits[:, 1] - (target == 1).float()).square().mean()

    weights = []
    for parts in (1, 2, 4):
        network = build_seeded(ARGUMENTS.model_copy(update={"norm": "none"}))
        training = Training(tmp_path / str(parts), FieldTask(network, class_term=mean_of_squares))
        training.start(epochs=1, steps_per_epoch=3, compute__micro_batches=parts)
        weights.append(training.weights[-1])
    for other in weights[1:]:
        for name, value in weights[0].items():
            torch.testing.assert_close(other[name], value, rtol=0, atol=1e-5)


def test_maps_that_are_computed_again_change_no_weight(tmp_path: Path) -> None:
    plain, sparing = Training(tmp_path / "plain"), Training(tmp_path / "sparing")
    plain.start(epochs=1)
    sparing.start(epochs=1, compute__gradient_checkpointing=True)
    assert equal(plain.weights[-1], sparing.weights[-1])
    # Neither the statistics of batch norms, which see the maps twice.
    assert load_model(plain.run).sha256 == load_model(sparing.run).sha256


def test_maps_are_not_kept_for_the_backward_pass() -> None:
    kept: list[int] = []

    def count(network: nn.Module) -> int:
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(lambda one: kept.append(one.numel()) or one, lambda one: one):
            network(torch.rand(2, 1, 64, 64))
        return sum(kept)

    network = build_seeded()
    before = count(network)
    checkpoint_blocks(network)
    assert count(network) < before / 2


def test_out_of_memory_the_batch_is_divided_until_it_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    task = FieldTask()
    before = {name: value.clone() for name, value in task.network.state_dict().items()}
    forward = task.network.forward

    def limited(images: Tensor, *rest: Any) -> Tensor:
        if len(images) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(images, *rest)

    monkeypatch.setattr(task.network, "forward", limited)
    gradients = Gradients(task, settings().compute, torch.device("cpu"), ALONE)
    notes: list[str] = []
    gradients.fit_memory(8, notes.append)
    assert gradients.micro_batches == 4
    assert "a batch of 8 does not fit" in notes[0]
    assert "4 parts" in notes[0]
    assert equal(task.network.state_dict(), before)
    assert all(one.grad is None for one in task.network.parameters())

    def hopeless(*_: Any) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(task.network, "forward", hopeless)
    with pytest.raises(ResourceError, match=r"a single patch does not fit .*patches.size_px"):
        gradients.fit_memory(8, notes.append)


def test_parts_that_were_asked_for_are_not_called_a_lack_of_memory() -> None:
    gradients = Gradients(FieldTask(), settings(compute__micro_batches=2).compute, torch.device("cpu"), ALONE)
    notes: list[str] = []
    gradients.fit_memory(8, notes.append)
    assert (gradients.micro_batches, notes) == (2, [])


def test_validation_patches_are_no_more_at_once_than_those_of_a_step(tmp_path: Path) -> None:
    """Else the first epoch might end out of memory, though each of its steps had enough."""
    at_once: list[tuple[bool, int]] = []

    def count(network: nn.Module, inputs: tuple[Tensor, ...], _: object) -> None:
        at_once.append((network.training, len(inputs[0])))

    for parts in (1, 4):
        task = FieldTask(validation=lambda _: Validation(score=0.5, by_class={"disk": 0.5}))
        task.network.register_forward_hook(count)
        at_once.clear()
        Training(tmp_path / str(parts), task).start(epochs=1, compute__micro_batches=parts)
        largest = {training: max(n for one, n in at_once if one is training) for training in (True, False)}
        assert largest == {True: 4 // parts, False: min(2, 4 // parts)}
    gradients = Gradients(task, settings().compute, torch.device("cpu"), ALONE)
    one, both = (gradients.validation_loss(task.network.eval(), field_patches(), at_once=n) for n in (1, 2))
    assert one == pytest.approx(both, rel=1e-5)


def test_a_float16_step_that_leaves_the_range_is_passed_over(tmp_path: Path) -> None:
    calls = 0

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        value = (logits[:, 1].float() - (target == 1).float()).square().mean()
        # Finite itself, with a gradient that is not.
        return value + (value - value).sqrt() if calls == 2 else value

    training = Training(tmp_path, FieldTask(class_term=loss))
    training.start(epochs=1, compute__precision="float16")
    assert equal(training.weights[0], training.weights[1])
    assert not equal(training.weights[1], training.weights[2])
    # In float32 that is the end.
    calls = 0
    with pytest.raises(DivergedError, match="gradient's norm"):
        Training(tmp_path / "float32", FieldTask(class_term=loss)).start(epochs=1)
