"""Every command that the README and the configurations show is run, in the README's order, on small stand-ins.

Trainings take one step an epoch, networks have few maps, the sample is small; everything else is as it is typed.
"""

import csv
import os
import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import typer
from numpy.typing import NDArray
from PIL import Image

from segkit.cli.app import app
from segkit.slides.pyramid import PyramidWriter
from segkit.viewer import openseadragon
from tests.test_readme import README, ROOT, blocks

SIDE = 256
COMMANDS = [
    line
    for block in blocks(README, "sh")
    for line in block.splitlines()
    if line.startswith("segkit ") and "--settings" not in line
]
GREY = {"isbi2012_em"}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a folder with everything that the README's commands name, as the current directory."""
    place = tmp_path_factory.mktemp("readme")
    (place / "configs").symlink_to(ROOT / "configs")
    crop_sample(place / "sample_data")
    crop_sample(place / "my_labels", annotation="points", only="field_01")
    with (place / "my_labels" / "points.csv").open("a") as table:
        table.write("field_01,20,30,mitotic_figure\n")
    for name in ("isbi2012_em", "glioma_nuclei", "crc_nuclei", "amibr_mitosis", "dsb2018"):
        crop_sample(place / name, names={"field_01": "img31"}, annotation=None, grey=name in GREY)
    tissue = read(next((place / "sample_data" / "images").glob("field_01.*")))
    for path in ("sample_data/slide/tissue.tif", "slides/field_01.tif", "slide.svs", "CMU-1-Small-Region.svs"):
        write_slide(place / path, tissue)
    before = Path.cwd()
    os.chdir(place)
    yield place
    os.chdir(before)


def read(path: Path) -> NDArray[np.uint8]:
    return np.asarray(Image.open(path))


def crop_sample(
    folder: Path,
    *,
    names: dict[str, str] | None = None,
    annotation: str | None = "",
    grey: bool = False,
    only: str | None = None,
) -> None:
    """Copy the sample data's images, cut to a corner, with the annotations that a stand-in needs."""
    source = ROOT / "sample_data"
    names = names or {}
    for kind in ("images", "masks", "labels"):
        (folder / kind).mkdir(parents=True)
        for path in sorted((source / kind).iterdir()):
            if only not in (None, path.stem):
                continue
            pixels = read(path)[:SIDE, :SIDE]
            if kind == "masks" and annotation is None:
                pixels = (pixels > 0).astype(np.uint8)
            if kind == "images" and grey:
                pixels = pixels[..., 1]
            Image.fromarray(pixels).save(folder / kind / f"{names.get(path.stem, path.stem)}.png")
    for table in ("points.csv", "splits.csv"):
        with (source / table).open(newline="") as handle:
            rows = list(csv.DictReader(handle))
        with (folder / table).open("w", newline="") as handle:
            writer = csv.DictWriter(handle, list(rows[0]))
            writer.writeheader()
            for row in rows:
                if only not in (None, row["image"]):
                    continue
                if "x" not in row or max(float(row["x"]), float(row["y"])) < SIDE:
                    writer.writerow({**row, "image": names.get(row["image"], row["image"])})
    if annotation is None:
        return
    description = (source / "dataset.yaml").read_text()
    if annotation:
        description = f"mpp: 0.5\nannotation: {annotation}\n"
    (folder / "dataset.yaml").write_text(description)


def write_slide(path: Path, tissue: NDArray[np.uint8]) -> None:
    """Write a small pyramid whose level 0 has 0.25 um, level 1 0.5 um per pixel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mpp = 0.5 if "sample_data" in path.parts or "slides" in path.parts else 0.25
    rows = tissue if mpp == 0.5 else tissue.repeat(2, axis=0).repeat(2, axis=1)
    with PyramidWriter(path, *rows.shape[:2], mpp=mpp, channels=3, tile_px=SIDE, reduce="mean") as pyramid:
        pyramid.write_rows(rows)


def shortened(words: list[str]) -> list[str]:
    """Let a training take one step an epoch and two epochs at most."""
    if words[0] == "view":
        return ["0" if before == "--port" else word for before, word in zip(["", *words], words, strict=False)]
    if words[0] == "find-lr":
        return [*words, "--steps", "20", "--set", "patches.batch=2"]
    if words[0] != "train":
        return words
    words = ["2" if before == "--epochs" else word for before, word in zip(["", *words], words, strict=False)]
    if "--resume" in words:
        return words
    quick = ["steps_per_epoch=1", "patches.batch=4"] + ([] if "--epochs" in words else ["epochs=1"])
    if "model.form=dnn1" not in words:  # the paper's network has as many maps as it has
        quick.append("model.base_channels=4")
    return [*words, *(word for one in quick for word in ("--set", one))]


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_readme_runs(
    workplace: Path, line: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"FIELDS": 4, "FIELD_PX": 128, "SLIDE_PX": 512}.items():  # the real ones take a minute
        monkeypatch.setattr(f"segkit.workflows.sample.{name}", value)
    words = shortened(shlex.split(line, comments=True)[1:])
    if words[0] == "view":
        if not openseadragon.is_installed():
            pytest.skip("OpenSeadragon is not installed: segkit view --install-viewer")
        monkeypatch.setattr("segkit.cli.view._wait_for_end", lambda: None)
    with pytest.raises(SystemExit) as ended:
        typer.main.get_command(app)(words)
    assert ended.value.code == 0, capfd.readouterr().err[-2000:]
    assert workplace == Path.cwd()
