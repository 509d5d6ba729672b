"""What is usually advised for training a U-Net, tried one by one on ISBI 2012 at equal epochs.

    python benchmarks/good_practice.py --data DIR/isbi2012_em [--epochs 10] [--steps 50] [--out docs/good_practice.md]

All trainings have the same patches, steps and seed and differ from the first one (batch norm, He's weights, no dropout,
augmentation `em`, AdamW) in what their block of the table is about; learning rates are segkit's own for each optimiser.
The first one is trained with other seeds, too: differences below what these make say nothing. Trainings are left in
--runs and not repeated, so that a run of this script that was stopped goes on. The whole takes about 40 minutes on two
cores. The sentences are made from the numbers.
"""

import argparse
import csv
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))

from making import REPOSITORY, machine

DIVERGED = 6  # exit code
LEARNED_NOTHING = 0.05
"""A training whose training loss falls by less than this share of itself."""
Settings = dict[str, object]
SGD: Settings = {"optimiser.name": "sgd"}
BLOCKS: dict[str, dict[str, Settings]] = {
    "Seed": {"seed 0": {}, "seed 1": {"seed": 1}, "seed 2": {"seed": 2}},
    "Batch norm": {"batch norm": {}, "no norm": {"model.norm": "none"}},
    "First weights": {
        "he": {},
        "xavier": {"model.init": "xavier"},
        "normal (0.01)": {"model.init": "normal"},
        "zeros": {"model.init": "zeros"},
    },
    "Dropout": {"dropout 0": {}, "dropout 0.3": {"model.dropout": 0.3}},
    "Augmentation": {"em": {}, "none": {"augment.preset": "none"}},
    "Optimiser": {
        "AdamW": {},
        "Adam": {"optimiser.name": "adam", "optimiser.weight_decay": 0},
        "SGD": {**SGD, "optimiser.momentum": 0},
        "SGD, momentum 0.9": {**SGD, "optimiser.momentum": 0.9},
        "SGD, Nesterov 0.9": {**SGD, "optimiser.momentum": 0.9, "optimiser.nesterov": "true"},
        "RMSprop": {"optimiser.name": "rmsprop"},
        "Adagrad": {"optimiser.name": "adagrad"},
    },
}


class Result(NamedTuple):
    """What a training came to: epochs, best Dice on the validation images, losses of the last epoch and the first."""

    epochs: int
    dice: float
    best_epoch: int
    train_loss: float
    val_loss: float
    first_loss: float
    seconds: float


class Row(NamedTuple):
    """A variant with its result, None where it diverged."""

    block: str
    name: str
    result: Result | None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder isbi2012_em")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--steps", type=int, default=50, help="in an epoch")
    parser.add_argument("--patch", type=int, default=160)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--base-channels", type=int, default=12)
    parser.add_argument("--depth", type=int, default=3)
    parser.add_argument("--blocks", nargs="+", choices=list(BLOCKS), default=list(BLOCKS))
    parser.add_argument("--runs", type=Path, default=REPOSITORY / "runs" / "good_practice")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "docs" / "good_practice.md")
    given = parser.parse_args()
    if not given.data.is_dir():
        sys.exit(f"{given.data}: no such folder. Give --data, the folder of ISBI 2012 (make: REAL_DATA=DIR).")
    common: Settings = {
        "data.annotation": "masks", "data.classes": "[membrane, cell]", "model.base_channels": given.base_channels,
        "model.depth": given.depth, "model.dropout": 0, "patches.size_px": given.patch, "patches.batch": given.batch,
        "augment.preset": "em", "epochs": given.epochs, "steps_per_epoch": given.steps, "seed": 0,
    }  # fmt: skip
    started, rows = time.monotonic(), []
    for block in given.blocks:
        for name, settings in BLOCKS[block].items():
            rows.append(Row(block, name, trained(given.data, common | settings, given.runs)))
            print(f"{time.monotonic() - started:.0f} s: {rows[-1]}", file=sys.stderr, flush=True)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(document(given, rows))
    print(f"{given.out}: {len(rows)} rows")


def trained(data: Path, settings: Settings, runs: Path) -> Result | None:
    """Return the result of a training with these settings, which is done unless it is there."""
    changes = {key: value for key, value in settings.items() if key not in {"data.annotation", "data.classes"}}
    run = runs / "-".join(f"{key.rpartition('.')[2]}={value}" for key, value in sorted(changes.items()))
    has_begun = any((run / "checkpoints").glob("step-*.pt"))
    command = [sys.executable, "-m", "segkit", "train", "--data", str(data)]
    command += ["--resume", str(run)] if has_begun else ["--out", str(run)]
    command += [f"--set={key}={value}" for key, value in settings.items()]
    if not (run / "run.json").exists():
        ended = subprocess.run(command, check=False, capture_output=True, text=True)
        if ended.returncode == DIVERGED:
            return None
        if ended.returncode:
            sys.exit(ended.stderr)
    with (run / "metrics.csv").open(encoding="utf-8", newline="") as handle:
        epochs = list(csv.DictReader(handle))
    scores = [float(epoch["val_dice"]) for epoch in epochs]
    return Result(
        epochs=len(epochs),
        dice=max(scores),
        best_epoch=scores.index(max(scores)) + 1,
        train_loss=float(epochs[-1]["train_loss"]),
        val_loss=float(epochs[-1]["val_loss"]),
        first_loss=float(epochs[0]["train_loss"]),
        seconds=sum(float(epoch["seconds"]) for epoch in epochs),
    )


def document(given: argparse.Namespace, rows: list[Row]) -> str:
    spread = spread_of(rows)
    lines = [
        "# Good practice, measured",
        "",
        f"U-Net (base {given.base_channels}, depth {given.depth}) on ISBI 2012, patches of {given.patch} px, batches "
        f"of {given.batch}, {given.epochs} epochs of {given.steps} steps for every training; {machine()}. One training "
        "for each row, which differs from the first one (batch norm, He's weights, no dropout, augmentation `em`, "
        "AdamW) in what its block is about. Learning rates are those of `optimiser.learning_rate: auto`, training "
        "losses are those of augmented patches. Seconds are wall time, whatever else was running "
        "and however long it was paused. Made by `make bench-good-practice`, the sentences too. An answer of "
        "cell everywhere has a validation Dice of "
        f"{dice_of_cell_everywhere(given.data):.4f}.",
        "",
        "| | | validation Dice (best epoch) | last training loss | last validation loss | s |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for number, row in enumerate(rows):
        block = row.block if number == 0 or rows[number - 1].block != row.block else ""
        if row.result is None:
            lines.append(f"| {block} | {row.name} | diverged | | | |")
            continue
        one = row.result
        lines.append(
            f"| {block} | {row.name} | {one.dice:.4f} ({one.best_epoch}) | {one.train_loss:.4f} | {one.val_loss:.4f} | "
            f"{one.seconds:.0f} |"
        )
    lines.append("")
    blocks = {block: [row for row in rows if row.block == block] for block in dict.fromkeys(row.block for row in rows)}
    lines += [f"- **{block}**: {sentence(of_block, spread)}" for block, of_block in blocks.items()]
    return "\n".join([*lines, ""])


def dice_of_cell_everywhere(data: Path) -> float:
    """Return the Dice that needs no network, over all validation images together."""
    import numpy as np
    from PIL import Image

    with (data / "splits.csv").open(encoding="utf-8", newline="") as handle:
        names = [row["image"] for row in csv.DictReader(handle) if row["split"] == "val"]
    masks = [path for name in names for path in (data / "masks").glob(f"{Path(name).stem}.*")]
    share = float(np.mean([np.asarray(Image.open(path)) > 0 for path in masks]))
    return 2 * share / (1 + share)


def spread_of(rows: list[Row]) -> float | None:
    """Return by how much the Dice of trainings differs that only have other seeds; None where there are none."""
    scores = [row.result.dice for row in rows if row.block == "Seed" and row.result]
    return max(scores) - min(scores) if len(scores) > 1 else None


def sentence(rows: list[Row], spread: float | None) -> str:
    """Return what the numbers of a block show."""
    found = {row.name: row.result for row in rows if row.result}
    parts = [f"`{row.name}` diverged" for row in rows if row.result is None]
    if rows[0].block == "Seed":
        scores = [one.dice for one in found.values()]
        return f"validation Dice is {statistics.mean(scores):.4f} in the mean and differs by {spread or 0:.4f} at most."
    ranked = sorted(found, key=lambda name: -found[name].dice)
    if len(ranked) > 1:
        best, last = ranked[0], ranked[-1]
        gap = found[best].dice - found[last].dice
        order = " > ".join(f"`{name}` {found[name].dice:.4f}" for name in ranked)
        parts.append(f"validation Dice {order}, {gap:.4f} from first to last{beside(gap, spread)}")
        # How far a network is better on what it has learned from.
        overfit = {name: found[name].val_loss - found[name].train_loss for name in found}
        most, least = max(overfit, key=overfit.__getitem__), min(overfit, key=overfit.__getitem__)
        parts.append(
            f"the validation loss lies {overfit[most]:+.4f} from the training loss with `{most}` and "
            f"{overfit[least]:+.4f} with `{least}`"
        )
    for name, one in found.items():
        if one.epochs > 1 and one.first_loss - one.train_loss < LEARNED_NOTHING * one.first_loss:
            parts.append(
                f"`{name}` learned next to nothing: its training loss went from {one.first_loss:.4f} in the first "
                f"epoch to {one.train_loss:.4f} in the last"
            )
    return "; ".join(parts) + "."


def beside(gap: float, spread: float | None) -> str:
    if spread is None:
        return ""
    if gap <= spread:
        return f", no more than between seeds ({spread:.4f})"
    return f", {gap / spread:.1f} times that between seeds ({spread:.4f})" if spread else ", and none between seeds"


if __name__ == "__main__":
    main()
