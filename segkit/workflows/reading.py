"""Images and their annotations read, once: into memory, or into mapped files where they would fill it."""

import functools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from segkit.data.cache import ArrayStore, CacheSetting, MappedFiles, choose_store
from segkit.data.instance_labels import read_instances
from segkit.data.layout import Dataset, Item, read_image, read_mask
from segkit.data.points import read_points
from segkit.data.rasters import MAX_PIXELS, require_readable_size
from segkit.data.slide_fields import PolygonTarget, SlideImage
from segkit.errors import InputError
from segkit.inference.sources import with_channels
from segkit.slides import open_slide
from segkit.training.instance_validation import LabelledObjects
from segkit.training.loading import usable_cores
from segkit.training.point_validation import LabelledPoints
from segkit.training.validation import LabelledImage
from segkit.workflows.callbacks import OnNote, OnProgress

LabelledT = TypeVar("LabelledT", LabelledImage, LabelledPoints, LabelledObjects)
T = TypeVar("T")

READ_NOTE = "read images"


class LabelledSlide(NamedTuple):
    """A training slide that is too large to be read whole, and the classes of its polygons."""

    name: str
    image: SlideImage
    mask: PolygonTarget


@dataclass(frozen=True, kw_only=True)
class Readings(Generic[LabelledT]):
    """The images of training and validation, with what is known of them.

    Attributes
    ----------
    train, val
        Images in memory or mapped into it; all have the same number of channels.
    slides
        Training slides that patches are cut out of by region.
    store
        Where arrays are kept that are made of them.
    """

    train: list[LabelledT]
    val: list[LabelledT]
    slides: list[LabelledSlide]
    store: ArrayStore


Make = Callable[[Item, NDArray[np.uint8], Dataset, ArrayStore], LabelledT]


def labelled_image(item: Item, image: NDArray[np.uint8], dataset: Dataset, store: ArrayStore) -> LabelledImage:
    """Return an image with its mask of class indices."""
    kind = f"mask {_meaning(dataset)}"
    return LabelledImage(item.name, image, store.keep(_files(item), kind, lambda: read_mask(item, dataset)))


def labelled_objects(item: Item, image: NDArray[np.uint8], dataset: Dataset, store: ArrayStore) -> LabelledObjects:
    """Return an image with its mask and the ids of its objects."""
    read = functools.cache(lambda: read_instances(item, dataset))
    mask = store.keep(_files(item), f"mask {_meaning(dataset)}", lambda: read()[0])
    labels = store.keep(_files(item), f"labels {_meaning(dataset)}", lambda: read()[1])
    return LabelledObjects(item.name, image, mask, labels)


def labelled_points(item: Item, image: NDArray[np.uint8], dataset: Dataset, store: ArrayStore) -> LabelledPoints:  # noqa: ARG001 (as the others)
    """Return an image with its points."""
    return LabelledPoints(item.name, image, read_points(item, dataset, *image.shape[:2]))


def read_labelled(
    dataset: Dataset,
    make: Make[LabelledT],
    *,
    bytes_per_pixel: int,
    cache: CacheSetting,
    usual_cache: Path | None,
    by_region: bool = False,
    processes: int = 1,
    on_progress: OnProgress,
    on_note: OnNote,
) -> Readings[LabelledT]:
    """Read the images of training and validation.

    Parameters
    ----------
    dataset
        With splits.
    make
        `labelled_image`, `labelled_objects` or `labelled_points`.
    bytes_per_pixel
        What the annotation and the target planes that are made of it take, for `data.cache = auto`.
    cache, usual_cache
        Where decoded images are kept, and where they are by `auto` if they would fill the memory: see `choose_store`.
    by_region
        Whether training slides with polygons that are too large to be read whole are returned as slides; else they
        are refused, as large images of the other kinds are.
    processes
        Training processes on this machine, each of which reads all images.
    on_progress, on_note
        Told how far it is, and where the images are kept.

    Raises
    ------
    InputError
        Images cannot be used, all of which are listed.
    ResourceError
        The folder of decoded images cannot be written, or is full.
    """
    items = [*dataset.of_split("train"), *dataset.of_split("val")]
    by_name = {item.name: item for item in items}
    with ThreadPoolExecutor(usable_cores()) as threads:
        sizes = list(threads.map(functools.partial(_attempt, _size), items))
        known = {item.name: size for item, size in zip(items, sizes, strict=True) if not isinstance(size, str)}
        # Colour and grey images together: all become colour, as `segkit check` says.
        channels = max((size[2] for size in known.values()), default=1)
        slides = {name for name in known if by_region and _can_be_cut(by_name[name], dataset, known[name])}
        whole = [item for item in items if item.name in known and item.name not in slides]
        num_bytes = sum(known[item.name][0] * known[item.name][1] for item in whole) * (channels + bytes_per_pixel)
        store, note = choose_store(cache, num_bytes, usual_cache, processes=processes)
        if note is not None:
            on_note(note)
        if isinstance(store, MappedFiles):
            _require_room(store, whole, known, channels, bytes_per_pixel)

        def read(item: Item) -> LabelledT | LabelledSlide:
            height, width, _ = known[item.name]
            if item.name in slides:
                assert item.annotation is not None
                target = PolygonTarget(item.annotation, dataset.classes, height, width)
                return LabelledSlide(item.name, SlideImage(item.image, channels), target)
            require_readable_size(item.image, height, width)
            image = store.keep([item.image], f"image {channels}", lambda: with_channels(read_image(item), channels))
            return make(item, image, dataset, store)

        found: list[LabelledT | LabelledSlide | str] = []
        attempts = threads.map(lambda item, size: size if isinstance(size, str) else _attempt(read, item), items, sizes)
        for number, one in enumerate(attempts, start=1):
            found.append(one)
            on_progress(READ_NOTE, number, len(items), {})
    problems = [one for one in found if isinstance(one, str)]
    if problems:
        raise InputError(f"{dataset.root}: cannot be trained on. `segkit check` tells more.", problems)
    num_train = len(dataset.of_split("train"))
    return Readings(
        train=[one for one in found[:num_train] if not isinstance(one, LabelledSlide | str)],
        val=[one for one in found[num_train:] if not isinstance(one, LabelledSlide | str)],
        slides=[one for one in found if isinstance(one, LabelledSlide)],
        store=store,
    )


def kept_planes(
    dataset: Dataset,
    images: Sequence[LabelledT],
    store: ArrayStore,
    kind: str,
    make: Callable[[LabelledT], NDArray[np.uint8]],
    *,
    on_progress: OnProgress,
) -> list[NDArray[np.uint8]]:
    """Return the target planes, (H, W, P) uint8, of each image.

    Parameters
    ----------
    dataset
        Whose images they are.
    store
        Where planes are kept, and found again by the next start.
    kind
        Says what planes they are, with all numbers that they depend on.
    make
        Makes them of an image; it is called in several threads.
    """
    by_name = {item.name: item for item in dataset.items}

    def keep(one: LabelledT) -> NDArray[np.uint8]:
        return store.keep(_files(by_name[one.name]), f"{kind} {_meaning(dataset)}", lambda: make(one))

    planes = []
    with ThreadPoolExecutor(usable_cores()) as threads:
        for number, one in enumerate(threads.map(keep, images), start=1):
            planes.append(one)
            on_progress("draw targets", number, len(images), {})
    return planes


def _attempt(read: Callable[[Item], T], item: Item) -> T | str:
    try:
        return read(item)
    except InputError as error:
        return str(error)


def _size(item: Item) -> tuple[int, int, int]:
    with open_slide(item.image) as slide:
        return slide.height, slide.width, slide.channels


def _can_be_cut(item: Item, dataset: Dataset, size: tuple[int, int, int]) -> bool:
    """Tell whether patches have to be cut out of a slide by region, and can be: it is for training and has polygons.

    Masks are read whole, and so are images that are validated on.
    """
    is_large = size[0] * size[1] > MAX_PIXELS
    return is_large and item.split == "train" and dataset.annotation == "geojson" and item.annotation is not None


def _files(item: Item) -> list[Path]:
    return [item.image] if item.annotation is None else [item.image, item.annotation]


def _meaning(dataset: Dataset) -> str:
    """Return what the values of masks mean, on which the class indices depend."""
    return repr((dataset.annotation, dataset.classes, sorted(dataset.values.items()), dataset.ignore))


def _require_room(
    store: MappedFiles,
    items: Sequence[Item],
    sizes: Mapping[str, tuple[int, int, int]],
    channels: int,
    bytes_per_pixel: int,
) -> None:
    missing = [item for item in items if not store.holds([item.image], f"image {channels}")]
    store.require_room(
        sum(sizes[item.name][0] * sizes[item.name][1] for item in missing) * (channels + bytes_per_pixel)
    )


def channel_statistics(images: Sequence[NDArray[np.uint8] | SlideImage]) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of each channel over all pixels, as shares of white (0..1).

    Of a slide, over 256 fields that are evenly spread.
    """
    channels = images[0].shape[2]
    counts = np.zeros((channels, 256))
    for image in images:
        for part in [image] if isinstance(image, np.ndarray) else image.fields():
            for channel in range(channels):
                counts[channel] += np.bincount(part[..., channel].ravel(), minlength=256)
    values = np.arange(256) / 255
    shares = counts / counts.sum(axis=1, keepdims=True)
    mean = shares @ values
    std = np.sqrt(np.maximum(shares @ values**2 - mean**2, 1e-4))
    return mean.tolist(), std.tolist()
