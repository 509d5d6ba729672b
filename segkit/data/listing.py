"""List the files of a data folder and pair images with annotations by name."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, get_args

from segkit.data.point_files import MAX_FILE_BYTES
from segkit.data.rasters import LOSSY_SUFFIXES, RASTER_SUFFIXES
from segkit.errors import InputError
from segkit.slides import IMAGE_SUFFIXES
from segkit.slides.geojson import read_geojson

Split = Literal["train", "val", "test"]
Annotation = Literal["masks", "labels", "geojson", "points"]
SPLITS: Final[tuple[Split, ...]] = get_args(Split)
ANNOTATIONS: Final[tuple[Annotation, ...]] = get_args(Annotation)

ANNOTATION_SUFFIXES: Final = {
    "masks": RASTER_SUFFIXES | LOSSY_SUFFIXES,
    "labels": RASTER_SUFFIXES | LOSSY_SUFFIXES,
    "geojson": frozenset({".geojson", ".json"}),
    "points": frozenset({".csv", ".geojson", ".json"}),
}
USUAL_SUFFIX: Final = {"masks": ".png", "labels": ".png", "geojson": ".geojson", "points": ".csv"}
POINT_TABLE: Final = "points.csv"
POINT_BOXES: Final = "points.json"


@dataclass
class Listing:
    """The files of a data folder by name, and what is wrong with them.

    Attributes
    ----------
    images, annotations
        Files by name (the file name without its suffix). The points of several images may be in one file.
    tables
        The annotation files that are about several images.
    splits
        Split by name, where train/, val/ or test/ sub-folders say it.
    problems, notes
        Why the folder cannot be used; what was left out.
    """

    images: dict[str, Path] = field(default_factory=dict)
    annotations: dict[str, Path] = field(default_factory=dict)
    tables: set[Path] = field(default_factory=set)
    splits: dict[str, Split] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def name_of(path: Path) -> str:
    """Return the name that pairs files: without the suffix, and without `.ome` before it."""
    return path.stem.removesuffix(".ome")


def find_annotation(root: Path) -> Annotation | None:
    """Return the first kind of annotation that is there: masks, labels, geojson, points.

    A geojson/ that holds points and no polygons counts as points.
    """
    bases = [root, *(root / split for split in SPLITS)]
    for kind in ("masks", "labels", "geojson"):
        folders = [base / kind for base in bases if (base / kind).is_dir()]
        if folders:
            return "points" if kind == "geojson" and _hold_points_only(folders) else kind
    return "points" if any(find_points(base) for base in bases) else None


def find_points(base: Path) -> Path | None:
    """Return the first file or folder of points that is there.

    points.csv for all images, points/ or geojson/ with a file for each, points.json, another JSON file with the keys
    images and annotations.
    """
    if (base / POINT_TABLE).is_file():
        return base / POINT_TABLE
    folders = [base / name for name in ("points", "geojson") if (base / name).is_dir()]
    return next(iter([*folders, *_box_files(base)]), None)


def list_files(root: Path, annotation: Annotation | None) -> Listing:
    """List images/ and the annotations of `root`, or of its train/, val/ and test/ sub-folders.

    With `annotation` None only the images are listed. One file of points beside train/, val/ and test/ may be about
    the images of all of them.
    """
    listing = Listing()
    inside = [split for split in SPLITS if (root / split / "images").is_dir()]
    if (root / "images").is_dir():
        if inside:
            listing.problems.append(f"{root}: holds images/ and {inside[0]}/images/. Keep one of the two layouts.")
        _list_base(listing, root, root, annotation, None)
    elif inside:
        for split in inside:
            _list_base(listing, root, root / split, annotation, split)
    else:
        listing.problems.append(f"{root}: has no folder images/. Put the images there, e.g. images/a.png.")
    return listing


def _list_base(listing: Listing, root: Path, base: Path, annotation: Annotation | None, split: Split | None) -> None:
    images = _list_folder(listing, base / "images", IMAGE_SUFFIXES)
    if not images:
        listing.problems.append(f"{base / 'images'}: holds no images ({_suffixes_in(base / 'images')}).")
    _add(listing, listing.images, images)
    if split is not None:
        listing.splits.update(dict.fromkeys(map(name_of, images), split))
    if annotation is None:
        return
    source = _find_points_of(listing, root, base) if annotation == "points" else base / annotation
    if source is None:
        return
    if source.is_file():
        listing.tables.add(source)
        listing.annotations.update(dict.fromkeys(map(name_of, images), source))
    else:
        annotations = _list_folder(listing, source, ANNOTATION_SUFFIXES[source.name])
        _add(listing, listing.annotations, annotations)
        _compare_names(listing, source, images, annotations, USUAL_SUFFIX[source.name])


def _find_points_of(listing: Listing, root: Path, base: Path) -> Path | None:
    """Return the file or folder with the points of the images in `base`: its own, or a file in `root` for all."""
    shared = find_points(root)
    source = shared if shared is not None and shared.is_file() else find_points(base)
    if source is None:
        columns = "with the columns image, x, y and, if there are several classes, label"
        listing.problems.append(f"{base / POINT_TABLE}: is missing. Put the points there, {columns}.")
    elif source not in listing.tables and source.suffix.lower() == ".json":
        others = [path.name for path in _box_files(source.parent) if path != source]
        if others:
            names = ", ".join([source.name, *others])
            remedy = f"Rename the one to use to {POINT_BOXES}"
            listing.problems.append(f"{source.parent}: {names} all hold images and annotations. {remedy}.")
    return source


def _hold_points_only(folders: Sequence[Path]) -> bool:
    has_points = False
    files = (path for folder in folders for path in sorted(folder.iterdir()))
    for path in files:
        if path.suffix.lower() in ANNOTATION_SUFFIXES["geojson"] and path.is_file():
            try:
                features = read_geojson(path)
            except InputError:
                return False  # reported when the annotations are read
            if any(feature.polygons for feature in features):
                return False
            has_points = has_points or any(len(feature.points) for feature in features)
    return has_points


def _box_files(base: Path) -> list[Path]:
    """Return points.json, or all JSON files beside images/ that seem to hold boxes of several images."""
    if (base / POINT_BOXES).is_file():
        return [base / POINT_BOXES]
    return [path for path in sorted(base.glob("*.json")) if path.is_file() and _seems_to_hold_boxes(path)]


def _seems_to_hold_boxes(path: Path) -> bool:
    """Return whether both keys occur: a damaged file then is found, too, and its damage reported."""
    try:
        content = path.read_bytes() if path.stat().st_size <= MAX_FILE_BYTES else b""
    except OSError:
        return False
    return b'"images"' in content and b'"annotations"' in content


def _list_folder(listing: Listing, folder: Path, suffixes: frozenset[str]) -> list[Path]:
    if not folder.is_dir():
        return []
    visible = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    files = [path for path in visible if path.suffix.lower() in suffixes and path.is_file()]
    left_out = [path.name for path in visible if path not in set(files)]
    if left_out:
        shown = ", ".join(left_out[:5]) + (f" and {len(left_out) - 5} more" if len(left_out) > 5 else "")
        listing.notes.append(f"{folder}: left out, as of no known format: {shown}.")
    return files


def _add(listing: Listing, known: dict[str, Path], files: Sequence[Path]) -> None:
    for path in files:
        other = known.setdefault(name_of(path), path)
        if other != path:
            listing.problems.append(f"{path}: has the same name as {other}. Give every image its own name.")


def _compare_names(
    listing: Listing, folder: Path, images: Sequence[Path], annotations: Sequence[Path], suffix: str
) -> None:
    image_names = {name_of(path) for path in images}
    annotated = {name_of(path) for path in annotations}
    if images and not folder.is_dir():
        listing.problems.append(f"{folder}: is missing. Put an annotation of every image there.")
        return
    for path in images:
        if name_of(path) not in annotated:
            listing.problems.append(f"{path}: has no annotation {folder.name}/{name_of(path)}{suffix}.")
    for path in annotations:
        if name_of(path) not in image_names:
            listing.problems.append(f"{path}: has no image of this name in images/.")


def _suffixes_in(folder: Path) -> str:
    found = sorted({path.suffix for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")})
    return f"only {', '.join(found)}: save them as PNG or TIFF" if found else "it is empty"
