"""Read every file of a data folder and report all that is wrong, or suspicious, before time is spent on training."""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from segkit.config import DataConfig
from segkit.data.layout import MPP_TOLERANCE, Dataset, Item, read_image, read_mask, shorten, survey
from segkit.data.listing import SPLITS
from segkit.data.points import read_points, repeated_points
from segkit.errors import InputError
from segkit.masks import IGNORE
from segkit.slides import open_slide

USUAL_PATCH_PX: Final = 256  # what `patches.size_px: auto` takes where the images are large enough
MANY_EMPTY: Final = 0.5  # share of masks without any foreground from which a hint is due
UNASSIGNED: Final = "none"


@dataclass(frozen=True, slots=True)
class SplitFacts:
    """Number of images and groups of a split, pixels by class index, and pixels that are not labelled.

    Where points are learned from there are no `class_pixels`, but `class_points` by class index: hard negatives first.
    """

    num_images: int
    num_groups: int
    class_pixels: tuple[int, ...]
    ignored_pixels: int
    class_points: tuple[int, ...] | None = None

    @property
    def class_shares(self) -> tuple[float, ...]:
        """Share of each class in the labelled pixels, 0 to 1."""
        total = max(sum(self.class_pixels), 1)
        return tuple(pixels / total for pixels in self.class_pixels)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a data folder holds.

    Attributes
    ----------
    annotation, classes, mpp
        As in `Dataset`.
    num_images
        All images, of which `num_empty` have no foreground pixel, or no point of a class.
    heights, widths
        Smallest and largest size in pixels.
    channels
        Number of images by number of channels (1 grey, 3 colour).
    splits
        By split; key "none" for images without one.
    """

    annotation: str
    classes: tuple[str, ...]
    mpp: float | None
    num_images: int
    num_empty: int
    heights: tuple[int, int]
    widths: tuple[int, int]
    channels: dict[int, int]
    splits: dict[str, SplitFacts]


@dataclass(frozen=True, slots=True)
class CheckReport:
    """The result of `check_dataset`: `problems` prevent the use of the folder, `warnings` do not; both sorted.

    `facts` and `dataset` are None where the folder's structure could not be understood.
    """

    root: Path
    problems: list[str]
    warnings: list[str]
    facts: Facts | None
    dataset: Dataset | None

    def require_usable(self) -> Dataset:
        """Return the data set; InputError with the problems where there are any."""
        if self.dataset is None or self.problems:
            raise InputError(f"{self.root}: cannot be used as a data folder:", shorten(self.problems))
        return self.dataset


@dataclass(frozen=True, slots=True)
class _Finding:
    """What was found in one image and its annotation; `class_counts` are pixels or points by class index."""

    item: Item
    problems: tuple[str, ...]
    shape: tuple[int, int, int] | None = None
    mpp: float | None = None
    digest: bytes = b""
    class_counts: tuple[int, ...] | None = None
    ignored_pixels: int = 0


def check_dataset(config: DataConfig, on_progress: Callable[[int, int], None] | None = None) -> CheckReport:
    """Read every image and annotation of a data folder, in a few threads.

    Parameters
    ----------
    config
        The folder and how to read it.
    on_progress
        Called with the number of images that are done and that of all.

    Notes
    -----
    Problems: all of `load_dataset`, unreadable files, sizes that differ, values that are no class, points outside of
    their image, the same picture in two splits. Warnings: grey and colour images mixed, images smaller than the usual
    patch, classes that training never sees, many masks without foreground, several points at one place, the same
    picture twice, scales that contradict dataset.yaml.
    """
    dataset, problems = survey(config)
    if dataset is None or not dataset.items:
        return CheckReport(config.dir, sorted(problems), [], None, dataset)
    findings = []
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for finding in pool.map(partial(_examine, dataset), dataset.items):
            findings.append(finding)
            if on_progress is not None:
                on_progress(len(findings), len(dataset.items))
    found = [problem for finding in findings for problem in finding.problems]
    twins = _twins(findings)
    # A damaged mask is met twice, when the classes are looked for and here: it is one problem.
    problems = sorted({*problems, *found, *(text for text, is_leak in twins if is_leak)})
    warnings = [
        *dataset.notes,
        *(text for text, is_leak in twins if not is_leak),
        *_suspicious_images(dataset, findings),
        *(repeated_points(dataset) if dataset.annotation == "points" else _suspicious_masks(dataset, findings)),
        *_classes_not_learned(dataset, findings),
    ]
    return CheckReport(config.dir, problems, sorted(warnings), _facts(dataset, findings), dataset)


def _examine(dataset: Dataset, item: Item) -> _Finding:
    try:
        with open_slide(item.image) as slide:
            mpp = slide.mpp
        image = read_image(item)
    except InputError as error:
        return _Finding(item, (str(error),))
    digest = hashlib.blake2b(repr(image.shape).encode() + np.ascontiguousarray(image).data, digest_size=16).digest()
    height, width, channels = image.shape
    # Without classes or an annotation there is a problem already, and nothing to compare.
    if not dataset.classes or not _has_annotation(dataset, item):
        return _Finding(item, (), (height, width, channels), mpp, digest)
    try:
        counts = _count_classes(dataset, item, height, width)
    except InputError as error:
        return _Finding(item, (str(error),), (height, width, channels), mpp, digest)
    class_counts = counts[: len(dataset.classes)]
    return _Finding(item, (), (height, width, channels), mpp, digest, class_counts, counts[IGNORE])


def _count_classes(dataset: Dataset, item: Item, height: int, width: int) -> tuple[int, ...]:
    """Return the number of pixels or points by class index, up to `IGNORE`."""
    if dataset.annotation == "points":
        counts = np.bincount(read_points(item, dataset, height, width).classes, minlength=IGNORE + 1)
    else:
        counts = np.bincount(read_mask(item, dataset).ravel(), minlength=IGNORE + 1)
    return tuple(map(int, counts))


def _has_annotation(dataset: Dataset, item: Item) -> bool:
    return item.name in dataset.points if dataset.annotation == "points" else item.annotation is not None


def _twins(findings: Iterable[_Finding]) -> list[tuple[str, bool]]:
    """Return a line for each picture that occurs more than once, and whether it lies in different splits."""
    by_digest: dict[bytes, list[Item]] = defaultdict(list)
    for finding in findings:
        if finding.shape is not None:
            by_digest[finding.digest].append(finding.item)
    return [_describe_twins(items) for items in by_digest.values() if len(items) > 1]


def _describe_twins(items: Sequence[Item]) -> tuple[str, bool]:
    first, *others = items
    names = ", ".join(f"{item.name} ({item.split})" if item.split else item.name for item in others)
    if len({item.split for item in items}) > 1:
        return (
            f"{first.image}: the same picture is in different splits: {first.name} ({first.split}), {names}. "
            "Keep it in one.",
            True,
        )
    text = f"{first.image}: the same picture as {names}."
    if first.split is None and first.group is None:
        text += " Give them one group in splits.csv, or they may come into training and validation."
    return text, False


def _suspicious_images(dataset: Dataset, findings: Sequence[_Finding]) -> list[str]:
    warnings = []
    channels = Counter(finding.shape[2] for finding in findings if finding.shape is not None)
    if len(channels) > 1:
        warnings.append(
            f"{dataset.root / 'images'}: {channels[1]} grey and {channels[3]} colour images; grey is repeated in all "
            "three channels."
        )
    small = [finding for finding in findings if finding.shape and min(finding.shape[:2]) < USUAL_PATCH_PX]
    if small and dataset.annotation != "points":  # the patches of points are as large as the network says
        sizes = {finding.item: finding.shape[:2] for finding in small if finding.shape}
        smallest = min(sizes, key=lambda item: min(sizes[item]))
        height, width = sizes[smallest]
        warnings.append(
            f"{smallest.image}: {width} x {height} pixels; patches are {min(height, width)} px wide because of it, "
            f"and not {USUAL_PATCH_PX}, unless `patches.size_px` is given ({len(small)} images are that small)."
        )
    return warnings + [
        f"{finding.item.image}: says {finding.mpp:g} um per pixel, and the data set {dataset.mpp:g}. "
        "Bring it to the scale of the others, or correct `mpp`."
        for finding in findings
        if finding.mpp and dataset.mpp and abs(finding.mpp / dataset.mpp - 1) > MPP_TOLERANCE
    ]


def _suspicious_masks(dataset: Dataset, findings: Sequence[_Finding]) -> list[str]:
    num_read = sum(finding.class_counts is not None for finding in findings)
    num_empty = _count_empty(findings)
    many = num_empty > MANY_EMPTY * num_read
    return [f"{dataset.root}: {num_empty} of {num_read} masks have no foreground at all."] if many else []


def _classes_not_learned(dataset: Dataset, findings: Sequence[_Finding]) -> list[str]:
    read = [finding for finding in findings if finding.class_counts is not None]
    if not read:
        return []
    has_splits = any(item.split for item in dataset.items)
    training = [finding for finding in read if finding.item.split == "train"] if has_splits else read
    if not training:
        return [f"{dataset.root}: no image is in the split train, so there is nothing to train on."]
    where = "no training image" if has_splits else "no image"
    totals = np.sum([finding.class_counts or () for finding in training], axis=0)
    # Points of class 0 are hard negatives, which nobody needs: background is everywhere else.
    first = 1 if dataset.annotation == "points" else 0
    return [
        f"{dataset.root}: class {name} occurs in {where}, so it cannot be learned."
        for name, total in list(zip(dataset.classes, totals, strict=True))[first:]
        if total == 0
    ]


def _count_empty(findings: Iterable[_Finding]) -> int:
    return sum(finding.class_counts is not None and not any(finding.class_counts[1:]) for finding in findings)


def _facts(dataset: Dataset, findings: Sequence[_Finding]) -> Facts | None:
    shapes = [finding.shape for finding in findings if finding.shape is not None]
    if not shapes:
        return None
    heights, widths, channels = zip(*shapes, strict=True)
    splits: dict[str, SplitFacts] = {
        split or UNASSIGNED: _split_facts(dataset, [finding for finding in findings if finding.item.split == split])
        for split in (*SPLITS, None)
        if any(finding.item.split == split for finding in findings)
    }
    return Facts(
        annotation=dataset.annotation,
        classes=dataset.classes,
        mpp=dataset.mpp,
        num_images=len(findings),
        num_empty=_count_empty(findings),
        heights=(min(heights), max(heights)),
        widths=(min(widths), max(widths)),
        channels=dict(sorted(Counter(channels).items())),
        splits=splits,
    )


def _split_facts(dataset: Dataset, findings: Sequence[_Finding]) -> SplitFacts:
    counts = [finding.class_counts for finding in findings if finding.class_counts is not None]
    totals = tuple(sum(column) for column in zip(*counts, strict=True)) or (0,) * len(dataset.classes)
    has_points = dataset.annotation == "points"
    return SplitFacts(
        num_images=len(findings),
        num_groups=len({finding.item.group for finding in findings if finding.item.group is not None}),
        class_pixels=() if has_points else totals,
        ignored_pixels=sum(finding.ignored_pixels for finding in findings),
        class_points=totals if has_points else None,
    )
