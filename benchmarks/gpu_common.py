"""What the sections of gpu.py share."""

import gc
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from making import REPOSITORY

if TYPE_CHECKING:
    import torch

SMALLEST_PIECE, LARGEST_PIECE = 2**25, 2**33  # bytes: memory that is in pieces cannot be taken as one
SAMPLE_DATA = REPOSITORY / "sample_data"


class Line(NamedTuple):
    """A row of the table; `verdict` is True or False for checks, None for measurements."""

    what: str
    result: str
    verdict: bool | None = None


class Bench(NamedTuple):
    """Where and how large: a folder for files, the device's name, and whether all is small."""

    folder: Path
    device: str
    quick: bool

    @property
    def shared(self) -> Path:
        """The folder of all sections."""
        return self.folder.parent

    def either(self, small: Any, full: Any) -> Any:
        """Return what suits `quick`, and what suits a card."""
        return small if self.quick else full


class Trained(NamedTuple):
    """A run folder, the rows of its metrics.csv, and what was said on the way."""

    run: Path
    rows: list[dict[str, Any]]
    notes: list[str]


def train_with(bench: Bench, out: Path, data: Path = SAMPLE_DATA, **settings: Any) -> Trained:
    """Train in this process, as `segkit train --data DATA --out OUT --set ...` does; `__` is the dot of a key."""
    from segkit.config import TrainConfig, build_config
    from segkit.training.checkpoint import load_newest
    from segkit.workflows.train import train

    values = {"compute.device": bench.device, **{key.replace("__", "."): value for key, value in settings.items()}}
    config = build_config(
        TrainConfig, assignments=[f"{key}={value}" for key, value in values.items()], flags={"data.dir": data}
    )
    notes: list[str] = []
    result = train(config, out=out, on_note=notes.append)
    return Trained(result.run, load_newest(result.run / "checkpoints")[1]["history"], notes)


def unet_run(bench: Bench) -> Path:
    """Return the run folder of a U-Net that finds nuclei; it is trained once.

    Random weights would make so many specks that predictions measure the writing of objects.
    """
    run = bench.shared / "unet"
    if not (run / "run.json").exists():
        sizes = bench.either((4, 2, 64, 4), (32, 4, 192, 8))
        train_with(
            bench, run, model__base_channels=sizes[0], model__depth=sizes[1], patches__size_px=sizes[2],
            patches__batch=sizes[3], epochs=1, steps_per_epoch=bench.either(40, 150), optimiser__learning_rate=3e-3,
        )  # fmt: skip
        forget(bench)
    return run


def points_run(bench: Bench) -> Path:
    """Return the run folder of a patch CNN that finds mitoses; it is trained once."""
    run = bench.shared / "points"
    if not (run / "run.json").exists():
        train_with(
            bench, run, data__annotation="points", patches__size_px=48, patches__batch=64,
            model__base_channels=bench.either(4, 12), points__mining_rounds=0, epochs=1,
            steps_per_epoch=bench.either(10, 150), optimiser__learning_rate=3e-3,
        )  # fmt: skip
        forget(bench)
    return run


def slide_of(bench: Bench, size: int) -> Path:
    """Return a mosaic of sample_data's slide, a pyramid of `size` px; it is written once."""
    from making import make_slide

    path = bench.shared / f"slide{size}.tif"
    if not path.exists():
        make_slide(path, size)
    return path


def forget(bench: Bench) -> None:
    """Give the device's memory back, as far as nothing holds it."""
    import torch

    gc.collect()
    if bench.device != "cpu":
        torch.cuda.init()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(bench.device)


def fill_card(bench: Bench, room: int) -> "list[torch.Tensor]":
    """Return tensors that leave `room` bytes of the card's memory; none on a CPU."""
    import torch

    forget(bench)
    held: list[torch.Tensor] = []
    while bench.device != "cpu":
        excess = torch.cuda.mem_get_info(bench.device)[0] - room
        if excess < SMALLEST_PIECE:
            break
        held.append(torch.empty(min(excess, LARGEST_PIECE), dtype=torch.uint8, device=bench.device))
    return held


def peak_bytes(bench: Bench) -> int:
    """Return the most bytes that tensors took on the card since `forget`; a made-up number on a CPU."""
    import torch

    return 1_000_000 if bench.device == "cpu" else torch.cuda.max_memory_allocated(bench.device)


def seconds_of(bench: Bench, work: Callable[[], object], at_least: float) -> float:
    """Return how long a piece of work takes: the mean over so many seconds, after two that prepare."""
    for _ in range(2):
        work()
    wait_for(bench)
    started, count = time.perf_counter(), 0
    while count < 3 or time.perf_counter() - started < at_least:
        work()
        wait_for(bench)
        count += 1
    return (time.perf_counter() - started) / count


def wait_for(bench: Bench) -> None:
    """Wait until the device has done all it was given."""
    import torch

    if bench.device != "cpu":
        torch.cuda.synchronize(bench.device)


def remember(bench: Bench, name: str, values: Mapping[str, float]) -> None:
    """Keep numbers for another part."""
    (bench.shared / f"{name}.json").write_text(json.dumps(values))


def recall(bench: Bench, name: str) -> dict[str, float]:
    """Return numbers that were kept, nothing where the part before has failed."""
    path = bench.shared / f"{name}.json"
    found: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}
    return found
