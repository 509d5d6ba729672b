"""List the files of a data folder and pair images with annotations by name."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, get_args

from segkit.data.rasters import LOSSY_SUFFIXES, RASTER_SUFFIXES
from segkit.slides import IMAGE_SUFFIXES

Split = Literal["train", "val", "test"]
Annotation = Literal["masks", "labels", "geojson"]
SPLITS: Final[tuple[Split, ...]] = get_args(Split)
ANNOTATIONS: Final[tuple[Annotation, ...]] = get_args(Annotation)

ANNOTATION_SUFFIXES: Final = {
    "masks": RASTER_SUFFIXES | LOSSY_SUFFIXES,
    "labels": RASTER_SUFFIXES | LOSSY_SUFFIXES,
    "geojson": frozenset({".geojson", ".json"}),
}
USUAL_SUFFIX: Final = {"masks": ".png", "labels": ".png", "geojson": ".geojson"}


@dataclass
class Listing:
    """The files of a data folder by name, and what is wrong with them.

    Attributes
    ----------
    images, annotations
        Files by name (the file name without its suffix).
    splits
        Split by name, where train/, val/ or test/ sub-folders say it.
    problems, notes
        Why the folder cannot be used; what was left out.
    """

    images: dict[str, Path] = field(default_factory=dict)
    annotations: dict[str, Path] = field(default_factory=dict)
    splits: dict[str, Split] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def name_of(path: Path) -> str:
    """Return the name that pairs files: without the suffix, and without `.ome` before it."""
    return path.stem.removesuffix(".ome")


def find_annotation(root: Path) -> Annotation | None:
    """Return the first kind of annotation that has a folder: masks, labels, geojson."""
    bases = [root, *(root / split for split in SPLITS)]
    return next((kind for kind in ANNOTATIONS if any((base / kind).is_dir() for base in bases)), None)


def list_files(root: Path, annotation: Annotation | None) -> Listing:
    """List images/ and the annotation's folder of `root`, or of its train/, val/ and test/ sub-folders.

    With `annotation` None only the images are listed.
    """
    listing = Listing()
    inside = [split for split in SPLITS if (root / split / "images").is_dir()]
    if (root / "images").is_dir():
        if inside:
            listing.problems.append(f"{root}: holds images/ and {inside[0]}/images/. Keep one of the two layouts.")
        _list_base(listing, root, annotation, None)
    elif inside:
        for split in inside:
            _list_base(listing, root / split, annotation, split)
    else:
        listing.problems.append(f"{root}: has no folder images/. Put the images there, e.g. images/a.png.")
    return listing


def _list_base(listing: Listing, base: Path, annotation: Annotation | None, split: Split | None) -> None:
    images = _list_folder(listing, base / "images", IMAGE_SUFFIXES)
    if not images:
        listing.problems.append(f"{base / 'images'}: holds no images ({_suffixes_in(base / 'images')}).")
    _add(listing, listing.images, images)
    if split is not None:
        listing.splits.update(dict.fromkeys(map(name_of, images), split))
    if annotation is not None:
        annotations = _list_folder(listing, base / annotation, ANNOTATION_SUFFIXES[annotation])
        _add(listing, listing.annotations, annotations)
        _compare_names(listing, base / annotation, images, annotations, USUAL_SUFFIX[annotation])


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
