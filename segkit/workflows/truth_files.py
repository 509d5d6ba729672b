"""The truth of an evaluation: a data folder, or a plain folder of files."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from segkit.config import AUTO
from segkit.data.classes import ClassNames
from segkit.data.description import Description, read_description
from segkit.data.layout import WITHOUT_MPP, Dataset, Item, shorten
from segkit.data.listing import SPLITS, Annotation, find_annotation, list_files
from segkit.data.split_table import SPLITS_FILE, SplitRow, read_split_table
from segkit.errors import InputError
from segkit.slides import open_slide
from segkit.workflows import runs
from segkit.workflows.callbacks import OnNote
from segkit.workflows.dataset_items import groups_of, items_with
from segkit.workflows.given_files import Form, files_in, hold_points, note_on_changed, require_pairs
from segkit.workflows.missing import Missing

_FORMS: Final[dict[Annotation, Form]] = {"masks": "raster", "labels": "raster", "geojson": "polygons"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrueFile:
    """The truth of one image: its file, the image's where there is one, the image's group.

    `attributes` are what else splits.csv says of it, (column, value).
    """

    name: str
    path: Path
    image: Path | None = None
    group: str | None = None
    attributes: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TruthFolder:
    """Where the truth lies and of what kind it is.

    `is_data`: it is a data folder, with images, and `described` what its dataset.yaml says. `split`: of which its
    images are meant, or `all`. `missing`: what becomes of truths without a prediction.
    """

    root: Path
    kind: Annotation
    is_data: bool
    described: Description
    split: str = "all"
    missing: Missing = field(default_factory=Missing)

    @property
    def class_names(self) -> ClassNames:
        """The classes as dataset.yaml names them, None where it does not."""
        return None if self.described.classes == AUTO else self.described.classes

    def mpp_of(self, true: TrueFile) -> float | None:
        """Return micrometres per pixel of an image, None where neither dataset.yaml nor the image says them."""
        if self.described.mpp != AUTO:
            return self.described.mpp
        if true.image is None or true.image.suffix.lower() in WITHOUT_MPP:
            return None
        with open_slide(true.image) as slide:
            return slide.mpp


def find_truth(truth: Path) -> TruthFolder:
    """Find out what kind of truth a folder holds.

    A data folder: what is learned from it. A folder labels/, geojson/ or points/ in one: that of the data folder. A
    folder masks/ and any other folder: its files, NAME.png or NAME.tif (class ids; in a folder called labels ids of
    objects), NAME.geojson or NAME.csv, whatever images there are.

    Raises
    ------
    InputError
        There is no such folder, or it holds nothing of these, or several.
    ConfigError
        Its dataset.yaml cannot be read.
    """
    runs.require_folder(truth, "of the truth")
    around = truth.resolve().parent
    inner: dict[str, Annotation] = {"labels": "labels", "geojson": "geojson", "points": "points"}
    if truth.resolve().name in inner and (around / "images").is_dir():
        return _data_folder(around, inner[truth.resolve().name])
    if any((base / "images").is_dir() for base in (truth, *(truth / split for split in SPLITS))):
        return _data_folder(truth, None)
    kinds: tuple[Annotation, ...] = ("masks", "labels", "geojson")
    inside = next((kind for kind in kinds if (truth / kind).is_dir()), None)
    if inside is not None:
        return TruthFolder(root=truth / inside, kind=_kind(truth / inside), is_data=False, described=Description())
    return TruthFolder(root=truth, kind=_kind(truth), is_data=False, described=Description())


def _data_folder(root: Path, kind: Annotation | None) -> TruthFolder:
    described = read_description(root)
    found = kind or (find_annotation(root) if described.annotation == AUTO else described.annotation)
    if found is None:
        raise InputError(f"{root}: has images and no annotations of them (masks/, labels/, geojson/ or points.csv).")
    if found == "geojson" and find_annotation(root) == "points":
        found = "points"
    return TruthFolder(root=root, kind=found, is_data=True, described=described)


def _kind(folder: Path) -> Annotation:
    forms: tuple[Form, ...] = ("raster", "polygons", "points")
    there = {form: files for form in forms if (files := files_in(folder, form, "truths"))}
    # What predict leaves of an image is taken as its mask, and its table of points as what belongs to these.
    plain = {form: [path for path in files.values() if path.parent == folder] for form, files in there.items()}
    several = [form for form in forms if plain.get(form)]
    if len(several) > 1:
        shown = " and ".join(plain[form][0].name for form in several)
        raise InputError(f"{folder}: holds truths of several kinds ({shown}). Keep one kind in a folder.")
    if not there:
        raise InputError(
            f"{folder}: holds no masks (NAME.png, NAME.tif), no GeoJSON, no points, and no images/ with annotations."
        )
    form = next(iter(there))
    if form == "raster":
        return "labels" if folder.resolve().name == "labels" else "masks"
    if form == "polygons" and not hold_points(there[form].values()):
        return "geojson"
    return "points"


def pair_truths(
    truth: TruthFolder, predicted: Mapping[str, Path], prediction: Path, what: str, on_note: OnNote
) -> list[TrueFile]:
    """Return the truths that there are predictions of, sorted by name.

    Truths without a prediction are refused, or left out where `truth.missing` allows it. In a plain folder each
    prediction needs a truth; in a data folder an image of its name. It is said if what was predicted has changed since.

    Parameters
    ----------
    truth
        Of masks, labels or polygons.
    predicted, prediction
        The predictions by name, and the folder that they lie in.
    what
        What was predicted, for messages.

    Raises
    ------
    InputError
        A prediction has no truth, or a truth has no prediction and may not be left out; the data folder cannot be used.
    """
    if not truth.is_data:
        files = files_in(truth.root, _FORMS[truth.kind], "truths")
        names = require_pairs(predicted, files, prediction, truth.root, truth.missing)
        if note := note_on_changed(predicted, dict.fromkeys(names)):
            on_note(note)
        return [TrueFile(name=name, path=files[name]) for name in names]
    listing = list_files(truth.root, truth.kind)
    table = truth.root / SPLITS_FILE
    rows: dict[str, SplitRow] = {}
    problems = list(listing.problems)
    if table.exists():
        rows, wrong = read_split_table(table, listing.images)
        problems += wrong
    if problems:
        raise InputError(f"{truth.root}: cannot be used as a data folder:", shorten(sorted(problems)))
    items = tuple(
        Item(
            name,
            image,
            listing.annotations[name],
            row.split if row else listing.splits.get(name),
            row.group if row else None,
            row.attributes if row else (),
        )
        for name, image in sorted(listing.images.items())
        for row in [rows.get(name)]
    )
    dataset = Dataset(root=truth.root, annotation=truth.kind, classes=(), mpp=None, ignore=None, values={}, items=items)
    return [
        TrueFile(
            name=item.name,
            path=listing.annotations[item.name],
            image=item.image,
            group=item.group,
            attributes=item.attributes,
        )
        for item in items_with(predicted, prediction, dataset, what, on_note, split=truth.split, missing=truth.missing)
    ]


def groups_of_truths(truths: Collection[TrueFile]) -> list[str] | None:
    """Return the group of each image, see `segkit.workflows.dataset_items.groups_of`."""
    return groups_of(list(truths))
