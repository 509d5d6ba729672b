"""What lies in a folder of predictions, or of truths without images: files by name, and what is known of them."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from segkit import files
from segkit.data.listing import name_of
from segkit.data.rasters import RASTER_SUFFIXES
from segkit.errors import InputError, UsageError
from segkit.geometry import Box
from segkit.inference.detection_outputs import DETECTION_TABLE
from segkit.inference.object_outputs import OBJECT_POLYGONS
from segkit.slides.geojson import read_geojson
from segkit.workflows import runs
from segkit.workflows.inputs import SUMMARY
from segkit.workflows.missing import REMEDY, Missing, listed

Form = Literal["raster", "polygons", "points"]

MASKS: Final = ("mask.tif", "mask.ome.tif")
"""What `segkit predict` calls its class maps."""

UNREADABLE: Final = "mask.ome.zarr"
POLYGON_SUFFIXES: Final = frozenset({".geojson", ".json"})
POINT_SUFFIXES: Final = frozenset({".csv"})
PREDICTIONS: Final = "predictions"
METRICS: Final = "metrics.json"
MOST_CHANGED: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class SlideRecord:
    """What `predict` or `sliding-window` wrote down of a slide.

    `height`, `width` and `mpp` are those of its level 0; a pixel of the map is `downsample` level-0 pixels wide, and
    the map reaches from `origin` to `end` (y, x), in level-0 pixels. `tells_objects` says that the model tells objects
    of a class apart. `source` is where the slide lay, `num_bytes` and `sha256_of_ends` (see `segkit.files`) are of its
    file; None where nobody wrote them down.
    """

    height: int
    width: int
    mpp: float | None
    map_mpp: float | None
    downsample: float
    origin: tuple[float, float]
    end: tuple[float, float]
    classes: tuple[str, ...]
    tells_objects: bool
    source: Path | None = None
    num_bytes: int | None = None
    sha256_of_ends: str | None = None

    @property
    def box(self) -> Box:
        """The level-0 pixels whose centres lie in the map."""
        (y, x), (bottom, right) = ([math.ceil(at - 0.5) for at in ends] for ends in (self.origin, self.end))
        return Box(y, x, bottom - y, right - x)

    @property
    def is_part(self) -> bool:
        """Whether only a region of the slide was predicted."""
        ends = zip(self.end, (self.height, self.width), strict=True)
        return any(self.origin) or any(size - end > max(1.0, self.downsample) for end, size in ends)


def files_in(folder: Path, form: Form, what: str) -> dict[str, Path]:
    """Return the files of one form by name; none is no error.

    `raster`: NAME.png, NAME.tif, NAME/mask.tif; `polygons`: NAME.geojson, NAME/objects.geojson; `points`: NAME.csv,
    NAME/detections.csv.

    Parameters
    ----------
    folder
        Where they are.
    what
        What they are to the user, for messages: masks, objects.

    Raises
    ------
    InputError
        There is no such folder, or it holds several files of a name.
    UsageError
        It is what was left for one image.
    """
    runs.require_folder(folder, f"of {what}")
    suffixes = {"raster": RASTER_SUFFIXES, "polygons": POLYGON_SUFFIXES, "points": POINT_SUFFIXES}[form]
    left = {"raster": MASKS, "polygons": (OBJECT_POLYGONS,), "points": (DETECTION_TABLE,)}[form]
    record = runs.read_record(folder) or {}
    if record.get("command") in {"predict", "sliding-window"}:
        raise UsageError(
            f"{folder}: holds what was found in one image. Give the folder that it lies in, {folder.resolve().parent}."
        )
    visible = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".") and path.name != SUMMARY]
    named = [(name_of(path), path) for path in visible if path.suffix.lower() in suffixes and path.is_file()]
    named += [(path.name, path / name) for path in visible for name in left if (path / name).is_file()]
    found = dict(named)
    if twice := [f"{path}: has the same name as {found[name]}." for name, path in named if found[name] != path]:
        raise InputError(f"{folder}: holds several {what} of a name. Keep one of each:", twice)
    if form == "raster" and not found and any((path / UNREADABLE).exists() for path in visible):
        raise InputError(f"{folder}: holds {UNREADABLE}, which is not read here. Predict with --format tiff.")
    return found


def is_polygons(path: Path) -> bool:
    """Tell whether a file of truth or prediction is GeoJSON."""
    return path.suffix.lower() in POLYGON_SUFFIXES


def hold_points(paths: Iterable[Path]) -> bool:
    """Tell whether GeoJSON files hold points, and no polygon; the first that holds either decides."""
    for path in paths:
        for feature in read_geojson(path):
            if feature.polygons or len(feature.points):
                return not feature.polygons
    return False


def slide_record(prediction: Path) -> SlideRecord | None:
    """Return what stands in the run.json beside a prediction, None where there is none.

    Raises
    ------
    InputError
        It is not what `segkit predict` writes.
    """
    record = runs.read_record(prediction.parent) or {}
    if record.get("command") not in {"predict", "sliding-window"}:
        return None
    try:
        slide, plan = record["slide"], record["plan"]
        downsample, stride = float(plan["downsample"]), int(plan["stride"])
        region = plan["region"]
        content = record.get("key", {}).get("slide", {})
        return SlideRecord(
            height=int(slide["height"]),
            width=int(slide["width"]),
            mpp=plan["mpp"] and float(plan["mpp"]) / downsample,
            map_mpp=plan["mpp"] and float(plan["mpp"]) * stride,
            downsample=downsample * stride,
            origin=(region["y"] * downsample, region["x"] * downsample),
            end=(
                (region["y"] + region["height"]) * downsample,
                (region["x"] + region["width"]) * downsample,
            ),
            classes=tuple(map(str, record["models"][0]["classes"])),
            tells_objects="instances" in record,
            source=Path(record["input"]) if "input" in record else None,
            num_bytes=content.get("bytes"),
            sha256_of_ends=content.get("sha256_of_ends"),
        )
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, ZeroDivisionError) as error:
        raise InputError(
            f"{prediction.parent / runs.RECORD}: is not what segkit writes ({type(error).__name__}: {error}). Predict "
            "the slide again."
        ) from error


def note_on_changed(predicted: Mapping[str, Path], images: Mapping[str, Path | None]) -> str | None:
    """Return what is to be said of images that are not the files that were predicted; None: nothing.

    Compared are the numbers of bytes and the SHA-256 of the files' ends, as `segkit view` does: cheap for slides of any
    size, and blind to a change in the middle of a large file that keeps its length.

    Parameters
    ----------
    predicted
        The predictions by name. Of what they are is known where `segkit predict` or `sliding-window` left them.
    images
        The images that the truth is of, by name; None: not known, and the slide that was predicted is looked at where
        it was.
    """
    changed = []
    for name, image in images.items():
        record = slide_record(predicted[name])
        now = record.source if record is not None and image is None else image
        if record is None or record.sha256_of_ends is None or now is None or not now.is_file():
            continue
        if (now.stat().st_size, files.sha256_of_ends(now)) != (record.num_bytes, record.sha256_of_ends):
            changed.append(str(now))
    if not changed:
        return None
    rest = len(changed) - MOST_CHANGED
    return (
        f"{len(changed)} of {len(images)} images are not the files that were predicted, or have changed since (their "
        f"bytes differ): {', '.join(changed[:MOST_CHANGED])}{', ...' if rest > 0 else ''}. If the pictures are others, "
        "the numbers mean nothing"
    )


def classes_of_predictions(folder: Path, records: Sequence[SlideRecord | None]) -> tuple[str, ...] | None:
    """Return the classes of masks that segkit left, by index; None where nobody said them.

    Those of `predict` stand in each slide's record, those of `evaluate` in the metrics beside its predictions/.

    Raises
    ------
    InputError
        The predictions are of models with different classes.
    """
    known = {record.classes for record in records if record is not None}
    if len(known) > 1:
        shown = "; ".join(sorted(", ".join(classes) for classes in known))
        raise InputError(f"{folder}: holds predictions of different classes: {shown}. Measure them one by one.")
    if known:
        return known.pop() if all(record is not None for record in records) else None
    evaluation = folder.resolve().parent
    record = runs.read_record(evaluation) or {}
    if folder.resolve().name != PREDICTIONS or record.get("command") != "evaluate":
        return None
    metrics = read_object(evaluation / METRICS)
    classes = metrics.get("classes")
    named = isinstance(classes, list) and all(isinstance(one, dict) and "name" in one for one in classes)
    return tuple(str(one["name"]) for one in classes) if named and isinstance(classes, list) else None


def read_object(path: Path) -> Mapping[str, Any]:
    """Return the object in a JSON file, an empty one where there is none that can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def require_pairs(
    predicted: Iterable[str], true: Iterable[str], prediction: Path, truth: Path, missing: Missing | None = None
) -> list[str]:
    """Return the names that there are predictions and truths of, sorted.

    Parameters
    ----------
    predicted, true
        The names.
    prediction, truth
        The folders, for messages.
    missing
        What becomes of truths without a prediction; None: they are refused.

    Raises
    ------
    InputError
        A prediction is without a truth, or a truth without a prediction that may not be left out; or there is no pair.
    """
    predictions, truths = set(predicted), set(true)
    without, both = truths - predictions, truths & predictions
    missing = missing or Missing()
    is_refused = bool(without) and not (missing.allowed and both)
    problems = [f"{name}: no prediction in {prediction}" for name in without if is_refused]
    problems += [f"{name}: no truth in {truth}" for name in predictions - truths]
    if problems:
        remedy = f". Predict the images without a prediction, too, or {REMEDY}" if is_refused and both else ""
        raise InputError(f"predictions and truths do not pair by name{remedy}:", listed(problems))
    missing.names += sorted(without)
    return sorted(both)
