"""What the processes of tests/training/test_distributed.py do."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from segkit.errors import InputError, InterruptedRunError, ResourceError, SegkitError
from segkit.training.distributed import Group, open_group
from segkit.training.losses import LossName, class_loss
from segkit.training.validation import Validation
from tests.training.fields import ARGUMENTS, CPU, FieldTask, Training, build_seeded

STEPS = 50
WITHOUT_NORM = ARGUMENTS.model_copy(update={"norm": "none"})


def train_fields(run: Path, loss: LossName, group: Group, **changes: Any) -> Training:
    """Train without batch norm, which sees only a process's own samples.

    By SGD: Adam divides by the size of a gradient, and blows up rounding errors where it is tiny.
    """
    task = FieldTask(build_seeded(WITHOUT_NORM), class_term=class_loss(loss, total=group.total))
    training = Training(run, task)
    by_sgd: dict[str, Any] = {"optimiser__name": "sgd", "optimiser__learning_rate": 0.05}
    training.start(group=group, epochs=1, steps_per_epoch=STEPS, **by_sgd, **changes)
    return training


def save_weights(training: Training, path: str) -> None:
    save_file({name: value.contiguous() for name, value in training.weights[-1].items()}, path)


def train_with_losses(folder: str, *losses: LossName) -> list[list[float]]:
    """Train with each loss; return what the steps told and leave the weights."""
    told = []
    with open_group(CPU) as group:
        for loss in losses:
            training = train_fields(Path(folder) / loss, loss, group)
            save_weights(training, f"{loss}.safetensors")
            told.append([info["loss"] for _, _, info in training.steps])
    return told


def train_in_parts(folder: str) -> None:
    """Train with two parts of each process's share of a batch."""
    with open_group(CPU) as group:
        training = train_fields(Path(folder), "cross_entropy", group, compute__micro_batches=2)
        save_weights(training, "weights.safetensors")


def validate_with_batch_norm(folder: str, ema: str) -> list[list[list[float]]]:
    """Return the statistics of batch norms that each process validates with, after each of two epochs."""
    seen: list[list[list[float]]] = []
    with open_group(CPU) as group:

        def validate(network: nn.Module) -> Validation:
            means = [one for name, one in network.named_buffers() if name.endswith("running_mean")]
            seen.append(group.map(lambda _: torch.cat(means).tolist(), range(2), lambda _: None))
            return Validation(score=0.5, by_class={"disk": 0.5})

        Training(Path(folder), FieldTask(validation=validate)).start(group=group, epochs=2, ema=float(ema))
    return seen


def diverge(folder: str) -> dict[str, Any]:
    """Train with a loss that is not finite in the last process's share of the third batch."""
    with open_group(CPU) as group:
        training = Training(Path(folder))

        def loss(logits: Tensor, target: Tensor) -> Tensor:
            value = (logits[:, 1] - (target == 1).float()).square().mean()
            is_wrong = group.rank == group.count - 1 and len(training.steps) == 2
            return group.total(value * float("inf") if is_wrong else value)

        training.task.class_term = loss
        found = caught(lambda: training.start(group=group))
        return {**found, "steps": len(training.steps)}


def stop_in_the_last(folder: str) -> dict[str, Any]:
    """Train until the last process gets a signal in the third step."""
    with open_group(CPU) as group:
        training = Training(Path(folder))

        @contextlib.contextmanager
        def hold() -> Iterator[Callable[[], int]]:
            yield lambda: 15 if group.rank == group.count - 1 and len(training.steps) >= 3 else 0

        try:
            training.start(group=group, hold=hold)
        except InterruptedRunError as error:
            return {"steps": len(training.steps), "code": error.exit_code, "is_told_elsewhere": error.is_told_elsewhere}
    return {}


def talk() -> dict[str, Any]:
    """Say all that processes can say to each other."""
    found: dict[str, Any] = {}
    with open_group(CPU) as group:
        found["place"] = [group.rank, group.count, group.is_first]
        done: list[int] = []
        found["map"] = group.map(lambda item: [item, item * item, group.rank], range(5), done.append)
        found["done"] = done
        found["empty"] = group.map(lambda item: item, [], done.append)
        found["fewer"] = group.map(lambda item: item, ["alone"], done.append)
        found["first"] = group.from_first(lambda: {"rank": group.rank})
        found["largest"] = group.largest(group.rank * 10)
        weight = torch.tensor([1.0 + group.rank], requires_grad=True)
        summed = group.total(weight * 3)
        (summed**2).sum().backward()  # type: ignore[no-untyped-call]
        assert weight.grad is not None
        found["total"] = [summed.item(), weight.grad.item()]
        found["together"] = group.together(lambda: group.rank)
        # Errors; after each of them the processes understand each other as before.
        found["first fails"] = caught(lambda: group.from_first(lambda: fail(InputError("no data", ["a", "b"]))))
        found["all fail"] = caught(lambda: group.together(lambda: fail(InputError("no data"))))
        found["last fails"] = caught(lambda: group.together(lambda: fail(InputError("lost"), only=group.rank == 1)))
        found["bug"] = caught(lambda: group.together(lambda: fail(KeyError("name"), only=group.rank == 1)))
        found["after"] = group.from_first(lambda: "still here")
    return found


def fail(error: Exception, *, only: bool = True) -> None:
    if only:
        raise error


def caught(function: Callable[[], object]) -> dict[str, Any]:
    try:
        function()
    except SegkitError as error:
        return {
            "kind": type(error).__name__,
            "message": error.message,
            "problems": error.problems,
            "code": error.exit_code,
            "is_told_elsewhere": error.is_told_elsewhere,
        }
    except Exception as error:  # noqa: BLE001 (a bug, here)
        return {"kind": type(error).__name__}
    return {}


def lose_the_last(folder: str) -> dict[str, Any]:
    """Train until the last process is killed in the third step."""
    try:
        with open_group(CPU) as group:
            training = Training(Path(folder))
            remember = training.on_step

            def on_step(done: int, total: int, info: Any) -> None:
                remember(done, total, info)
                if done == 3 and group.rank == group.count - 1:
                    os._exit(0)

            training.on_step = on_step  # type: ignore[method-assign]
            training.start(group=group)
    except ResourceError as error:
        return {"message": error.message, "is_told_elsewhere": error.is_told_elsewhere}
    return {}
