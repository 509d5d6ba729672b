"""What predict or sliding-window left of a slide, as far as it can be shown: found, compared with the slide, placed."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from segkit import files
from segkit.data.listing import name_of
from segkit.errors import InputError
from segkit.inference.detection_outputs import DETECTION_TABLE
from segkit.inference.object_outputs import OBJECT_POLYGONS
from segkit.slides import Slide
from segkit.slides.geojson import read_json

RECORD: Final = "run.json"
COMMANDS: Final = ("predict", "sliding-window")
MASK: Final = "mask"
PROBABILITY: Final = "probability"
SHOWN_SUFFIXES: Final = (".tif", ".ome.tif")
OTHER_SUFFIX: Final = ".ome.zarr"


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where a map lies on the slide: its left and top border, and the side of its pixels, in level-0 pixels."""

    x: float
    y: float
    downsample: float


@dataclass(kw_only=True)
class Results:
    """A folder of results, and what is known about it.

    Attributes
    ----------
    folder
        The folder.
    record
        Its run.json; empty where there is none.
    classes
        Names of the classes, background first; empty where they are not known.
    mpp
        Micrometres per level-0 pixel that the prediction used, None where unknown.
    region
        What was predicted, if not the whole slide: x, y, width and height in level-0 pixels.
    warnings
        What a person who looks at the slide should know.
    """

    folder: Path
    record: Mapping[str, Any]
    classes: list[str] = field(default_factory=list)
    mpp: float | None = None
    region: tuple[float, float, float, float] | None = None
    warnings: list[str] = field(default_factory=list)

    def map_path(self, name: str) -> Path | None:
        """Return the file of a map, None where there is none.

        Raises
        ------
        InputError
            There is one that cannot be shown.
        """
        found = next((path for suffix in SHOWN_SUFFIXES if (path := self.folder / f"{name}{suffix}").is_file()), None)
        other = self.folder / f"{name}{OTHER_SUFFIX}"
        if found is None and other.exists():
            raise InputError(f"{other}: is no TIFF. Predict with --format tiff or ome-tiff to look at it here.")
        return found

    def placement(self, map_width: int, slide: Slide) -> Placement:
        """Return where a map of this width lies: number i of its pixels in the middle of what it was computed from."""
        plan = self.record.get("plan")
        if plan is None:
            return Placement(x=0.0, y=0.0, downsample=slide.width / map_width)
        downsample, stride = float(plan["downsample"]), int(plan.get("stride", 1))
        region = plan.get("region") or {"x": 0, "y": 0}
        x, y = ((float(region[axis]) + 0.5 - stride / 2) * downsample for axis in ("x", "y"))
        return Placement(x=x, y=y, downsample=downsample * stride)


def find_results(out: Path, slide: Slide) -> Results:
    """Return what a folder of results, or the folder around it, holds of a slide.

    Raises
    ------
    InputError
        There is nothing of the slide, or its run.json is damaged.
    """
    folder = _folder_of(out, slide.path)
    path = folder / RECORD
    if not path.is_file():
        warning = (
            f"{folder}: has no {RECORD}, so it is not known what slide and classes it is of, and whether it is whole."
        )
        return Results(folder=folder, record={}, warnings=[warning])
    record = read_json(path)
    try:
        return _described(folder, record, slide)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise InputError(
            f"{path}: is not as segkit writes it ({type(error).__name__}: {error}). Predict again with --overwrite."
        ) from error


def _folder_of(out: Path, slide: Path) -> Path:
    if not out.is_dir():
        raise InputError(f"{out}: no such folder. Give the one that segkit predict or sliding-window wrote to.")
    inside = out / name_of(slide)
    for folder in (out, inside):
        if any((folder / name).exists() for name in _known_names()):
            return folder
    raise InputError(
        f"{out}: holds nothing of {slide.name}: neither {RECORD}, maps, {OBJECT_POLYGONS} or {DETECTION_TABLE}, nor a "
        f"folder {inside.name} with them. Give the folder that segkit predict or sliding-window wrote to."
    )


def _known_names() -> list[str]:
    maps = [f"{name}{suffix}" for name in (MASK, PROBABILITY) for suffix in (*SHOWN_SUFFIXES, OTHER_SUFFIX)]
    return [RECORD, OBJECT_POLYGONS, DETECTION_TABLE, *maps]


def _described(folder: Path, record: Mapping[str, Any], slide: Slide) -> Results:
    if record.get("command") not in COMMANDS:
        raise InputError(
            f"{folder / RECORD}: is of `segkit {record.get('command')}`. Give the folder that segkit predict or "
            "sliding-window wrote to."
        )
    models = record.get("models") or [record["model"]]  # the first versions used one model only
    plan = record["plan"]
    downsample = float(plan["downsample"])
    results = Results(
        folder=folder,
        record=record,
        classes=[str(name) for name in models[0]["classes"]],
        mpp=None if plan["mpp"] is None else float(plan["mpp"]) / downsample,
        warnings=_differences(folder, record, slide),
    )
    region = plan.get("region")
    if region is not None:
        x, y, width, height = (float(region[name]) * downsample for name in ("x", "y", "width", "height"))
        if x > 0 or y > 0 or width < slide.width - downsample or height < slide.height - downsample:
            results.region = (x, y, min(width, slide.width - x), min(height, slide.height - y))
    return results


def _differences(folder: Path, record: Mapping[str, Any], slide: Slide) -> list[str]:
    """Return what a prediction was made of, where that is not this slide, or is not sure to be."""
    size = record["slide"]["height"], record["slide"]["width"]
    if size != (slide.height, slide.width):
        return [
            f"{folder}: is of another slide. It was predicted on {size[1]} x {size[0]} px ({record['input']}), and "
            f"{slide.path} has {slide.width} x {slide.height} px: overlays do not lie where they belong."
        ]
    then = record["key"]["slide"]
    bytes_now = slide.path.stat().st_size
    if then["bytes"] != bytes_now:
        return [
            f"{slide.path}: is not the file of the prediction, or has changed since: it has {bytes_now} bytes, and "
            f"{record['input']} had {then['bytes']}."
        ]
    known = then.get("sha256_of_ends")
    if known is not None and known != files.sha256_of_ends(slide.path):
        return [
            f"{slide.path}: is not the file of the prediction, or has changed since: it has other bytes than "
            f"{record['input']} had."
        ]
    if known is not None and record["input"] != str(slide.path.resolve()):
        return [f"{slide.path}: was at {record['input']} when it was predicted. Its content is the same."]
    return []


def labels_in(table: Path) -> list[str]:
    """Return the labels of a detections.csv, sorted; what is wrong with the file is for its reader to say."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            return sorted({(row.get("label") or "").strip() for row in csv.DictReader(file)} - {""})
    except (OSError, UnicodeDecodeError, csv.Error):
        return []


def names_of_values(classes: Sequence[str], largest: int) -> list[str]:
    """Return a name for every value of a mask, background first."""
    named = list(classes) or ["background"]
    return [*named, *(f"class {number}" for number in range(len(named), largest + 1))]
