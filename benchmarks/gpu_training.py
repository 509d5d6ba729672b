"""The sections of gpu.py that train."""

import contextlib
import re
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from gpu_common import (
    Bench,
    Line,
    Trained,
    fill_card,
    forget,
    peak_bytes,
    recall,
    remember,
    seconds_of,
    train_with,
)
from torch import Tensor

import segkit.training.fit
from segkit.models.model_file import UNetArguments, build_network
from segkit.training.checkpoint import load_newest
from segkit.training.gradients import Gradients, Normalise
from segkit.training.losses import dice_cross_entropy
from segkit.training.optimisation import ParameterGroup, build_optimiser
from segkit.training.state import TrainingState

SHARE_OF_PEAK = 0.4
"""A filled card has room for this much of the peak of a whole batch."""
SAME_LOSS = 0.02
"""Relative difference of a loss up to which trainings that add up in another order count as the same."""


def weights_of(trained: Trained) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = load_newest(trained.run / "checkpoints")[1]["network"]
    return weights


def largest_difference(one: Trained, other: Trained) -> float:
    """Return the largest difference of a weight; NaN counts."""
    first, second = weights_of(one), weights_of(other)
    assert first.keys() == second.keys()
    return max(float((value.double() - second[name].double()).abs().max()) for name, value in first.items())


def loss_difference(one: Trained, other: Trained) -> float:
    """Return the relative difference of the last losses, the larger one of training and validation."""
    pairs = [(one.rows[-1][key], other.rows[-1][key]) for key in ("train_loss", "val_loss")]
    return max(abs(a - b) / max(abs(a), 1e-12) for a, b in pairs)


# Memory


def out_of_memory(bench: Bench) -> Iterator[Line]:
    """The card is filled before a training, so that its batch does not fit.

    Without batch norm, and with a loss that is a mean over pixels, the parts of a batch do what the batch does.
    """
    batch = bench.either(4, 16)
    settings = {
        "model.norm": "none", "loss.name": "cross_entropy", "augment.preset": "none", "epochs": 1,
        "steps_per_epoch": bench.either(3, 10), "patches.batch": batch, "patches.size_px": bench.either(64, 512),
        "model.base_channels": bench.either(4, 32), "model.depth": bench.either(2, 4),
        "workers": bench.either(0, 4),
    }  # fmt: skip
    forget(bench)
    free = train_with(bench, bench.folder / "free", **settings)
    peak = peak_bytes(bench)
    dummy = fill_card(bench, int(SHARE_OF_PEAK * peak))
    try:
        with pretended_limit(bench) as notes:
            full = train_with(bench, bench.folder / "full", **settings)
    finally:
        del dummy
        forget(bench)
    found = [re.search(r"network in (\d+) parts", note) for note in [*full.notes, *notes]]
    parts = max([1, *(int(one[1]) for one in found if one)])
    asked = train_with(bench, bench.folder / "asked", **settings, compute__micro_batches=parts)
    difference = loss_difference(free, full)
    yield Line(
        f"training, batch {batch}, card filled to {SHARE_OF_PEAK:.0%} of the {peak / 1e9:.1f} GB peak",
        f"{parts} parts; losses differ by {difference:.2g} of their value from the whole batch's, weights by "
        f"{largest_difference(asked, full):.2g} from compute.micro_batches={parts} "
        f"(by {largest_difference(free, full):.2g} from the whole batch's)",
        parts > 1 and difference < SAME_LOSS,
    )


@contextlib.contextmanager
def pretended_limit(bench: Bench) -> Iterator[list[str]]:
    """On a CPU, let no more than one patch fit; yield what is said of it, which on a card the training says."""
    notes: list[str] = []
    if bench.device != "cpu":
        yield notes
        return

    class Small(Gradients):
        def connect(self) -> None:
            self.fit_memory(4, notes.append)
            super().connect()

        def _fits(self, count: int) -> bool:
            return count <= 1

    segkit.training.fit.Gradients = Small  # type: ignore[misc]
    try:
        yield notes
    finally:
        segkit.training.fit.Gradients = Gradients  # type: ignore[misc]


# The same twice


def repeated(bench: Bench) -> Iterator[Line]:
    """Two trainings with the same seed."""
    settings = {
        "model.base_channels": bench.either(4, 16), "model.depth": bench.either(2, 4),
        "patches.size_px": bench.either(64, 256), "patches.batch": bench.either(2, 8), "epochs": 1,
        "steps_per_epoch": bench.either(4, 50), "workers": bench.either(0, 4),
    }  # fmt: skip
    for precision in bench.either(("float32",), ("bfloat16", "float32")):
        for is_deterministic in (False, True):
            torch.use_deterministic_algorithms(is_deterministic, warn_only=True)
            how = "deterministic algorithms" if is_deterministic else "as usual"
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                one, other = (
                    train_with(
                        bench, bench.folder / f"{precision}-{is_deterministic}-{name}", **settings,
                        compute__precision=precision,
                    )
                    for name in "ab"
                )  # fmt: skip
            torch.use_deterministic_algorithms(False)
            difference, of_losses = largest_difference(one, other), loss_difference(one, other)
            without = sorted(
                {str(each.message).split()[0] for each in caught if "deterministic implementation" in str(each.message)}
            )
            missing = f"; without such a form: {', '.join(without)}" if without else ""
            same = "the same weights" if difference == 0 else f"weights differ by {difference:.2g} at most"
            yield Line(
                f"two trainings of {settings['steps_per_epoch']} steps, {how}, {precision}",
                f"{same}, losses by {of_losses:.2g} of their value{missing}",
                # Without such algorithms sums of atomic additions may end in other digits; the course must not.
                difference == 0 if is_deterministic else of_losses < SAME_LOSS,
            )


# Speed


def size_of(bench: Bench) -> tuple[int, int, int]:
    """Return base channels, depth and side of the patches."""
    sizes: tuple[int, int, int] = bench.either((4, 2, 64), (32, 4, 512))
    return sizes


def precision_of(bench: Bench) -> torch.dtype:
    return torch.float32 if bench.device == "cpu" else torch.bfloat16


def ceiling(bench: Bench) -> Iterator[Line]:
    """Samples per second of a training step on batches that lie on the device."""
    base, depth, side = size_of(bench)
    device, rates = torch.device(bench.device), {}
    for batch in bench.either((2, 4), (8, 32, 128)):
        try:
            rates[str(batch)] = batch / seconds_of(
                bench, step_of(device, precision_of(bench), base, depth, side, batch), bench.either(0.1, 2.0)
            )
            said = f"{rates[str(batch)]:,.1f} samples/s, peak {peak_bytes(bench) / 1e9:.1f} GB"
        except torch.OutOfMemoryError as error:
            said = f"does not fit ({str(error)[:80]})"
        forget(bench)
        yield Line(f"training step alone, base {base}, depth {depth}, {side} px, batch {batch}", said)
    remember(bench, "ceiling", rates)


def step_of(device: torch.device, dtype: torch.dtype, base: int, depth: int, side: int, batch: int) -> Any:
    """Return a function that takes a step, with nothing of the loop around it."""
    arguments = UNetArguments(in_channels=3, num_classes=2, base_channels=base, depth=depth, form="modern", dropout=0.0)
    network: Any = build_network(arguments, device="cpu").to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    normalise = Normalise([0.5] * 3, [0.25] * 3).to(device)
    optimiser = build_optimiser(
        [ParameterGroup(list(network.parameters()))], name="adamw", learning_rate=1e-3, weight_decay=1e-4
    )
    images = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8, device=device)
    targets = torch.randint(0, 2, (batch, side, side), dtype=torch.uint8, device=device)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            logits = network(normalise(images))
        dice_cross_entropy(logits, targets).backward()
        optimiser.step()

    return step


def with_fit(bench: Bench) -> Iterator[Line]:
    """`train` with both backends of augmentation, from PNG files, beside the step alone."""
    from training import make_pictures

    data, best = bench.folder / "data", recall(bench, "ceiling")
    make_pictures(data)
    base, depth, side = size_of(bench)
    for backend in ("device", "cpu"):
        for batch, steps in bench.either({2: 6}, {8: 90, 32: 45, 128: 24}).items():
            with measured_steps(bench, steps // 3) as steps_taken:
                trained = train_with(
                    bench, bench.folder / f"{backend}{batch}", data, model__base_channels=base, model__depth=depth,
                    patches__size_px=side, patches__batch=batch, epochs=1, steps_per_epoch=steps,
                    augment__preset="histology", augment__backend=backend,
                    compute__precision="float32" if bench.device == "cpu" else "bfloat16",
                )  # fmt: skip
            yield Line(f"train, {side} px, batch {batch}, augment.backend={backend}", steps_taken.said(batch, best))
            parts = [note for note in trained.notes if "does not fit" in note]
            if parts:
                yield Line(f"train, {side} px, batch {batch}", parts[0])
            forget(bench)


class Steps:
    """What is known of the steps of a training: seconds, seconds of waiting for data, the card's utilisation in %."""

    def __init__(self, first: int) -> None:
        self.first = first  # those before are warming up
        self.taken: list[tuple[float, float]] = []
        self.utilisation: list[int] = []
        self.unknown = ""

    @property
    def measured(self) -> list[tuple[float, float]]:
        """Return those that are not warming up."""
        return self.taken[self.first :]

    def said(self, batch: int, best: dict[str, float]) -> str:
        """Return what the table says."""
        seconds, waited = (sum(column) for column in zip(*self.measured, strict=True))
        rate = batch * len(self.measured) / seconds
        share = f" = {rate / best[str(batch)]:.0%} of the step alone" if str(batch) in best else ""
        busy = self.unknown or f"{sum(self.utilisation) / max(len(self.utilisation), 1):.0f} %"
        return f"{rate:,.1f} samples/s{share}; waiting for data {waited / seconds:.1%}; utilisation {busy}"


@contextlib.contextmanager
def measured_steps(bench: Bench, first: int) -> Iterator[Steps]:
    """Yield what is learned of each step of the training inside, from the step `first` on."""
    steps, finish_step, ended = Steps(first), TrainingState.finish_step, threading.Event()

    def noting(self: TrainingState, loss: float, *, seconds: float, waited: float) -> None:
        finish_step(self, loss, seconds=seconds, waited=waited)
        steps.taken.append((seconds, waited))

    def look() -> None:
        while not ended.wait(0.1):
            if not steps.measured:
                continue
            try:
                steps.utilisation.append(torch.cuda.utilization(bench.device))
            except Exception as error:  # noqa: BLE001 (pynvml is none of the package's dependencies, and may fail)
                steps.unknown = f"not measured ({type(error).__name__})"
                return

    if bench.device == "cpu":
        steps.unknown = "not measured (CPU)"
    watcher = threading.Thread(target=look, daemon=True)
    TrainingState.finish_step = noting  # type: ignore[method-assign]
    try:
        if not steps.unknown:
            watcher.start()
        yield steps
    finally:
        TrainingState.finish_step = finish_step  # type: ignore[method-assign]
        ended.set()
        if watcher.is_alive():
            watcher.join()
