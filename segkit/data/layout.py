"""What is in a data folder: images, annotations, classes, splits.

    DIR/images/NAME.*          images, any format that segkit opens
    DIR/masks/NAME.png|tif     class ids (or 0 and 255), or
    DIR/labels/NAME.png|tif    instance ids, 0 = background, or
    DIR/geojson/NAME.geojson   polygons by classification, as QuPath exports them, or
    DIR/points.csv             image,x,y[,label], or
    DIR/points/NAME.csv        x,y[,label], or .geojson: points by classification (in geojson/, too), or
    DIR/points.json            images, annotations, categories: boxes of COCO or MIDOG, whose centres are the points
    DIR/splits.csv             (optional) image,split[,group,...]
    DIR/dataset.yaml           (optional) classes, mpp, annotation, ignore, hard_negatives, boxes

DIR/train/, val/ and test/ that hold images/ and masks/ each are understood, too. Everything wrong with a folder is
reported at once.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from segkit.config import AUTO, DataConfig
from segkit.data.classes import (
    Classes,
    ClassNames,
    class_of_polygon,
    label_classes,
    mask_classes,
    point_classes,
    polygon_classes,
)
from segkit.data.description import DESCRIPTION_FILE, Description, read_description
from segkit.data.listing import ANNOTATIONS, POINT_TABLE, Annotation, Listing, Split, find_annotation, list_files
from segkit.data.point_survey import FoundPoints, classify_points, collect_points
from segkit.data.rasters import distinct_values, map_values, read_values, require_readable_size
from segkit.data.split_table import SPLITS_FILE, SplitRow, read_split_table
from segkit.errors import ConfigError, InputError
from segkit.geometry import Box
from segkit.masks import IGNORE
from segkit.points import Points
from segkit.slides import open_slide
from segkit.slides.geojson import Feature, rasterise, read_geojson

MAX_SHOWN: Final = 20
UNKNOWN: Final = 254  # in masks of class indices while they are read: a value that is no class
# Files of these kinds carry no mpp that could be trusted (dots per inch of a screen at best): not opened for it.
WITHOUT_MPP: Final = frozenset({".png", ".jpg", ".jpeg"})
MPP_TOLERANCE: Final = 0.05  # relative difference from which two scales are not the same


@dataclass(frozen=True, slots=True)
class Item:
    """One image: its name (the pairing stem), its files, its split and group where they are known.

    `attributes` are what else splits.csv says of it, (column, value).
    """

    name: str
    image: Path
    annotation: Path | None
    split: Split | None
    group: str | None
    attributes: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A data folder that can be used.

    Attributes
    ----------
    root
        The folder.
    annotation
        The kind that is learned from.
    classes
        Class names by index, background first.
    mpp
        Micrometres per pixel of the images, where known.
    ignore
        The mask value of pixels that are not labelled.
    values
        Class index by mask value (labels: 1 stands for every id above 0; geojson, points: by index).
    items
        The images, sorted by name; either all or none have a split.
    notes
        What a user should know: files left out, splits made.
    points
        The points of every image by its name, as its file has them: `segkit.data.points.read_points` compares them
        with the image. Empty unless points are learned from.
    hard_negatives
        The labels that occur and count as background, sorted.
    """

    root: Path
    annotation: Annotation
    classes: tuple[str, ...]
    mpp: float | None
    ignore: int | None
    values: Mapping[int, int]
    items: tuple[Item, ...]
    notes: tuple[str, ...] = ()
    points: Mapping[str, Points] = field(default_factory=dict, repr=False, compare=False)
    hard_negatives: tuple[str, ...] = ()

    def of_split(self, split: Split) -> tuple[Item, ...]:
        """Return the images of one split."""
        return tuple(item for item in self.items if item.split == split)


def load_dataset(config: DataConfig, *, with_test: bool = True) -> Dataset:
    """List a data folder; no image is read, and masks only where their values tell the classes.

    Parameters
    ----------
    config
        Where it is, and what is said of it.
    with_test
        Whether masks of images of the split `test` are read, too: a training leaves them alone.

    Raises
    ------
    InputError
        The folder cannot be used; `problems` lists everything wrong with its structure, sorted.
    """
    dataset, problems = survey(config, with_test=with_test)
    if dataset is None or problems:
        raise InputError(f"{config.dir}: cannot be used as a data folder:", shorten(sorted(problems)))
    return dataset


def shorten(problems: Sequence[str]) -> list[str]:
    """Return at most `MAX_SHOWN` problems and a line that counts the rest."""
    rest = len(problems) - MAX_SHOWN
    return [*problems[:MAX_SHOWN], f"and {rest} more (`segkit check` shows all)"] if rest > 0 else list(problems)


def survey(config: DataConfig, *, with_test: bool = True) -> tuple[Dataset | None, list[str]]:
    """Return the data set as far as it can be understood, and everything wrong with its structure.

    For `with_test` see `load_dataset`.
    """
    root = config.dir
    if not root.is_dir():
        return None, [f"{root}: is no folder. Give the folder that holds images/."]
    problems: list[str] = []
    description = Description()
    try:
        description = read_description(root)
    except ConfigError as error:
        problems += [f"{root / DESCRIPTION_FILE}: {problem}" for problem in error.problems] or [error.message]
    is_described = not problems
    usual = description.annotation if description.annotation != AUTO else find_annotation(root)
    annotation = config.annotation if config.annotation != AUTO else usual
    listing = list_files(root, annotation)
    if annotation is None:
        folders = ", ".join(f"{kind}/" for kind in ANNOTATIONS)
        remedy = f"Put one for every image into one of {folders}, or points into {POINT_TABLE}"
        problems.append(f"{root}: has no annotations. {remedy}.")
        return None, problems + listing.problems
    rows, split_problems = _splits(root, listing)
    ignore = config.ignore if config.ignore is not None else description.ignore
    found, classes = FoundPoints(), Classes()
    # What is found without a description that cannot be read would be wrong, and be reported as more problems.
    if is_described:
        given = _given_classes(config, description, is_usual=(annotation == "points") == (usual == "points"))
        if annotation == "points":
            found = collect_points(listing, None if description.boxes == AUTO else description.boxes)
            classes = point_classes(found.labels, given, _given_hard_negatives(config, description))
        else:
            locked = set() if with_test else {name for name, row in rows.items() if row.split == "test"}
            classes = _classes(annotation, listing, locked, given, ignore)
    mpp, mpp_problems = _mpp(config, description, listing)
    problems += listing.problems + split_problems + found.problems + classes.problems + mpp_problems
    dataset = Dataset(
        root=root,
        annotation=annotation,
        classes=classes.names,
        mpp=mpp,
        ignore=ignore,
        values=classes.values,
        items=tuple(_item(name, listing, rows) for name in sorted(listing.images)),
        notes=(*listing.notes, *found.notes, *classes.notes),
        points=classify_points(found, classes.labels),
        hard_negatives=tuple(sorted(label for label, index in classes.labels.items() if index == 0)),
    )
    return dataset, problems


def image_size(item: Item) -> tuple[int, int]:
    """Return height and width of an image in pixels; InputError when it cannot be opened."""
    with open_slide(item.image) as slide:
        return slide.height, slide.width


def read_image(item: Item, channels: int | None = None) -> NDArray[np.uint8]:
    """Read a whole image at level 0.

    Parameters
    ----------
    item
        The image.
    channels
        3: grey is repeated three times. None: as the file is.

    Returns
    -------
    image
        (H, W, C) uint8, C = 1 or 3.

    Raises
    ------
    InputError
        It cannot be read, is too large to be read whole, or has three channels where one was asked for.
    """
    with open_slide(item.image) as slide:
        require_readable_size(item.image, slide.height, slide.width)
        image = slide.read(Box(0, 0, slide.height, slide.width))
    if channels == 3 and image.shape[-1] == 1:
        return np.repeat(image, 3, axis=-1)
    if channels is not None and channels != image.shape[-1]:
        raise InputError(f"{item.image}: has {image.shape[-1]} channels, and {channels} are needed.")
    return image


def read_mask(item: Item, dataset: Dataset) -> NDArray[np.uint8]:
    """Read the annotation of an image as class indices.

    Returns
    -------
    mask
        (H, W) uint8, class indices, `IGNORE` (255) where not labelled.

    Raises
    ------
    InputError
        It is missing or damaged, has another size than the image, or holds values that are no class; or points are
        learned from, which are no mask.
    """
    if dataset.annotation == "points":
        raise InputError(f"{dataset.root}: points are learned from, and masks are needed. Choose another `annotation`.")
    if item.annotation is None:
        raise InputError(f"{item.image}: has no annotation.")
    height, width = image_size(item)
    require_readable_size(item.image, height, width)
    if dataset.annotation == "geojson":
        return _draw_polygons(item.annotation, dataset.classes, height, width)
    values = read_values(item.annotation)
    if values.shape != (height, width):
        raise InputError(
            f"{item.annotation}: is {values.shape[1]} x {values.shape[0]} pixels, and its image "
            f"{item.image.name} is {width} x {height}."
        )
    if dataset.annotation == "labels":
        mask = np.where(values > 0, np.uint8(1), np.where(values < 0, np.uint8(UNKNOWN), np.uint8(0)))
    else:
        mask = map_values(values, dataset.values, UNKNOWN)
    if dataset.ignore is not None:
        mask[values == dataset.ignore] = IGNORE
    if (unknown := mask == UNKNOWN).any():
        raise InputError(_unknown_values(item.annotation, values[unknown], dataset))
    return mask


def _unknown_values(path: Path, unknown: NDArray[np.integer], dataset: Dataset) -> str:
    found = distinct_values(unknown)
    shown = ", ".join(map(str, found[:8])) + (", ..." if len(found) > 8 else "")
    known = ", ".join(f"{value} = {dataset.classes[index]}" for value, index in dataset.values.items())
    return f"{path}: holds the values {shown}, which are no classes ({known}) and not `ignore`."


def _draw_polygons(path: Path, classes: Sequence[str], height: int, width: int) -> NDArray[np.uint8]:
    index_of = {name: index for index, name in enumerate(classes)}

    def value_of(feature: Feature, _: int) -> int:
        label = class_of_polygon(feature)
        if label not in index_of:
            raise InputError(f"{path}: holds the classification {label}, which is none of {', '.join(classes)}.")
        return index_of[label]

    features = [feature for feature in read_geojson(path) if feature.polygons]
    return rasterise(features, height, width, value_of).astype(np.uint8)


def _splits(root: Path, listing: Listing) -> tuple[dict[str, SplitRow], list[str]]:
    path = root / SPLITS_FILE
    if listing.splits:
        rows = {name: SplitRow(split, None, 0) for name, split in listing.splits.items()}
        clash = f"{path}: the folders {', '.join(sorted(set(listing.splits.values())))} say the splits, too. Keep one."
        return rows, [clash] if path.exists() else []
    return read_split_table(path, listing.images) if path.exists() else ({}, [])


def _item(name: str, listing: Listing, rows: Mapping[str, SplitRow]) -> Item:
    row = rows.get(name)
    annotation = listing.annotations.get(name)
    if row is None:
        return Item(name, listing.images[name], annotation, None, None)
    return Item(name, listing.images[name], annotation, row.split, row.group, row.attributes)


def _given_classes(config: DataConfig, description: Description, *, is_usual: bool) -> ClassNames:
    """Return the classes of the configuration, else of the description, which names those of the usual annotation."""
    if config.classes != AUTO:
        return config.classes
    return None if description.classes == AUTO or not is_usual else description.classes


def _given_hard_negatives(config: DataConfig, description: Description) -> list[str] | None:
    if config.hard_negatives != AUTO:
        return config.hard_negatives
    return None if description.hard_negatives == AUTO else description.hard_negatives


def _classes(
    annotation: Annotation, listing: Listing, locked: Collection[str], given: ClassNames, ignore: int | None
) -> Classes:
    paths = [listing.annotations[name] for name in sorted(listing.annotations.keys() - locked)]
    if annotation == "labels":
        return label_classes(given)
    if not paths:
        return Classes()
    return mask_classes(paths, given, ignore) if annotation == "masks" else polygon_classes(paths, given)


def _mpp(config: DataConfig, description: Description, listing: Listing) -> tuple[float | None, list[str]]:
    if config.mpp != AUTO:
        return config.mpp, []
    if description.mpp != AUTO:
        return description.mpp, []
    found: dict[Path, float] = {}
    problems = []
    for path in listing.images.values():
        if path.suffix.lower() not in WITHOUT_MPP:
            try:
                with open_slide(path) as slide:
                    if slide.mpp is not None:
                        found[path] = slide.mpp
            except InputError as error:
                problems.append(str(error))
    if not found:
        return None, problems
    low, high = min(found, key=lambda path: found[path]), max(found, key=lambda path: found[path])
    if found[high] > found[low] * (1 + MPP_TOLERANCE):
        problems.append(
            f"{high}: {found[high]:g} um per pixel, and {low} has {found[low]:g}. Bring the images to one scale, or "
            "give `mpp`."
        )
    return found[low], problems
