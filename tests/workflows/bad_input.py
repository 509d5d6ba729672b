"""The four kinds of training on data that is spoilt in one way each."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segkit.config import TrainConfig, build_config
from segkit.errors import SegkitError
from segkit.workflows.train import TrainResult, train
from tests.tiny import make_data, make_point_data, tiny_config, tiny_point_config
from tests.workflows.label_data import make_label_data

KINDS = ("masks", "labels", "points", "heat")
SHORT = ("epochs=1", "steps_per_epoch=1", "workers=0", "patches.batch=4")
OF_KIND = {
    "masks": (),
    "labels": (),
    "points": ("model.depth=2",),
    "heat": ("model.network=unet", "patches.size_px=32", "points.near_radius=auto"),
}
MAKE: dict[str, Callable[[Path], Path]] = {
    "masks": make_data,
    "labels": make_label_data,
    "points": make_point_data,
    "heat": make_point_data,
}


def config_of(kind: str, data: Path, *assignments: str, file: Path | None = None) -> TrainConfig:
    """A configuration for a training of a kind, of a step."""
    tiny = tiny_point_config if kind in ("points", "heat") else tiny_config
    return tiny(data, *SHORT, *OF_KIND[kind], *assignments, file=file)


def notes_of(config: TrainConfig, out: Path) -> tuple[TrainResult, list[str]]:
    """What a training gives and says."""
    notes: list[str] = []
    return train(config, out=out, on_note=notes.append), notes


def resumed(run: Path) -> TrainResult:
    return train(build_config(TrainConfig, file=run / "config.yaml"), resume=run)


def spoilt(root: Path, edit: Callable[[Path], None], kind: str = "masks") -> Path:
    """A data folder of a kind, changed."""
    data = MAKE[kind](root / "data")
    edit(data)
    return data


def without_objects(split: str) -> Callable[[Path], None]:
    """Take what is annotated off the images of a split, or off all."""

    def edit(data: Path) -> None:
        rows = [line.split(",") for line in (data / "splits.csv").read_text().split()[1:]]
        names = {name for name, its in rows if split in (its, "all")}
        for path in [*data.glob("masks/*"), *data.glob("labels/*")]:
            if path.stem in names:
                Image.fromarray(np.asarray(Image.open(path)) * 0).save(path)
        table = data / "points.csv"
        if table.exists():
            table.write_text(
                "".join(f"{line}\n" for line in table.read_text().split() if line.split(",")[0] not in names)
            )

    return edit


def of_size(side: int) -> Callable[[Path], None]:
    """Make all images squares of so many pixels, each with an object in its first."""

    def edit(data: Path) -> None:
        for path in data.rglob("*.png"):
            pixels = np.array(Image.open(path))[:side, :side]
            if path.parent.name != "images":
                pixels[...] = 0
                pixels[0, 0] = 255
            Image.fromarray(pixels).save(path)
        if (data / "points.csv").exists():
            points = [f"{path.stem},0.5,0.5,cell\n" for path in data.glob("images/*")]
            (data / "points.csv").write_text("".join(["image,x,y,label\n", *points]))

    return edit


def one_image(data: Path) -> None:
    """Leave the first image alone."""
    (data / "splits.csv").unlink()
    for path in data.rglob("*.png"):
        if not path.stem.endswith("0"):
            path.unlink()
    table = data / "points.csv"
    if table.exists():
        table.write_text(
            "".join(f"{line}\n" for line in table.read_text().split() if line.startswith(("image", "disks0")))
        )


def is_clear(error: SegkitError) -> bool:
    """Tell whether a message is one line of whole sentences, with further lines only as a list of problems."""
    text = error.message
    return (
        "\n" not in text and text.endswith((".", ":")) and (text.endswith(":") == bool(error.problems) or "." in text)
    )


def refused(config: TrainConfig, out: Path, kind: type[SegkitError], match: str) -> SegkitError:
    """The error of a training that has to fail, before it leaves a checkpoint."""
    with pytest.raises(kind, match=f"(?s){match}") as caught:
        train(config, out=out)
    assert type(caught.value) is kind
    assert is_clear(caught.value), str(caught.value)
    assert not (out / "checkpoints").exists()
    return caught.value
