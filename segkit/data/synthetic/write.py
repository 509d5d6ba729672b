"""Writing synthetic tissue as a data folder, with its truth, and as a slide."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image

from segkit.data.synthetic.noise import FloatMap
from segkit.data.synthetic.nuclei import CLASSES
from segkit.data.synthetic.optics import halo_px
from segkit.data.synthetic.slide import count_bands, write_slide
from segkit.data.synthetic.specimen import FIELD_RECIPES, MPP, Patient, draw_patient, grow, photograph
from segkit.errors import UsageError
from segkit.files import prepare_folder, write_bytes, write_csv, write_text
from segkit.geometry import Box

SAMPLE_SEED = 7  # of the sample_data that ships with the project
_FIELDS_PER_PATIENT = 2
_JPEG_QUALITY = 86
_MIN_FIELDS, _MIN_PX, _MAX_FIELD_PX, _MAX_SLIDE_PX = 3, 128, 4096, 16384
# Independent random streams of one seed.
_PATIENT_STREAM, _TISSUE_STREAM, _SENSOR_STREAM, _SLIDE_STREAM = 1, 2, 3, 4
_SLIDE_PATIENT = 0  # the fields' patients count from 1


@dataclass(frozen=True, slots=True)
class Field:
    """One synthetic field with its truth.

    Attributes
    ----------
    image
        (H, W, 3) uint8, RGB.
    mask
        (H, W) uint8, class ids.
    labels
        (H, W) uint16, instance ids 1..n, 0 = background.
    points
        (x, y, label) of mitotic figures and look-alikes; pixel centres at integers + 0.5.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    labels: NDArray[np.uint16]
    points: list[tuple[float, float, str]]


@dataclass(frozen=True, slots=True)
class FieldPlan:
    """Where a field comes from and which split it belongs to."""

    index: int
    name: str
    split: str
    patient: int


def generate(
    out: Path,
    *,
    seed: int = SAMPLE_SEED,
    fields: int = 16,
    field_px: int = 512,
    slide_px: int | None = 4096,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a data folder of synthetic H&E-stained tissue with complete truth.

    The same arguments give the same pixels (on one machine, with the same versions of the libraries).

    Parameters
    ----------
    out
        The folder to write; new or empty.
    seed
        Seed of everything, 0 or more.
    fields
        Number of fields, at least 3 (one for each split).
    field_px
        Height and width of a field, 128 to 4096 pixels.
    slide_px
        Height and width of the slide, at least 512 pixels; None for no slide.
    on_progress
        Called with the steps done and their total.

    Raises
    ------
    UsageError
        An argument is out of its range, or `out` is not empty or cannot be written.
    ResourceError
        The disk is full.
    """
    _check_arguments(out, seed, fields, field_px, slide_px)
    prepare_folder(out)
    plans = plan_fields(fields)
    total = fields + (count_bands(slide_px) if slide_px else 0)
    steps = iter(range(1, total + 1))

    def advance() -> None:
        done = next(steps)
        if on_progress:
            on_progress(done, total)

    points: list[dict[str, object]] = []
    for plan in plans:
        field = make_field(seed, plan, field_px)
        write_bytes(out / "images" / f"{plan.name}.jpg", _jpeg(field.image))
        write_bytes(out / "masks" / f"{plan.name}.png", _png(field.mask))
        write_bytes(out / "labels" / f"{plan.name}.png", _png(field.labels))
        points += [{"image": plan.name, "x": x, "y": y, "label": label} for x, y, label in field.points]
        advance()
    write_csv(out / "points.csv", points, ["image", "x", "y", "label"])
    splits = [{"image": plan.name, "split": plan.split, "group": f"patient_{plan.patient:02d}"} for plan in plans]
    write_csv(out / "splits.csv", splits, ["image", "split", "group"])
    description = {"classes": dict(enumerate(CLASSES)), "mpp": MPP, "annotation": "masks"}
    write_text(out / "dataset.yaml", yaml.safe_dump(description, sort_keys=False))
    if slide_px:
        rng = np.random.default_rng([seed, _SLIDE_STREAM])
        write_slide(out / "slide", rng, patient_of(seed, _SLIDE_PATIENT), slide_px, advance)


def plan_fields(fields: int) -> list[FieldPlan]:
    """Share out fields over splits (10 : 3 : 3) and patients; no patient is in two splits."""
    held_out = max(1, round(fields * 3 / 16))
    counts = {"train": fields - 2 * held_out, "val": held_out, "test": held_out}
    plans: list[FieldPlan] = []
    patient = 0
    for split, count in counts.items():
        for position in range(count):
            patient += position % _FIELDS_PER_PATIENT == 0
            index = len(plans)
            plans.append(FieldPlan(index, f"field_{index + 1:02d}", split, patient))
    return plans


def make_field(seed: int, plan: FieldPlan, field_px: int) -> Field:
    """Make one field, independently of all others."""
    patient = patient_of(seed, plan.patient)
    recipe = FIELD_RECIPES[plan.index % len(FIELD_RECIPES)]
    tissue = grow(np.random.default_rng([seed, _TISSUE_STREAM, plan.index]), patient, recipe, field_px, field_px)
    box = Box(0, 0, field_px, field_px)
    light = _vignette(field_px, patient.scanner.shading)
    image = photograph(np.random.default_rng([seed, _SENSOR_STREAM, plan.index]), patient, tissue, box, light)
    indices, numbered = np.unique(tissue.instances(box), return_inverse=True)
    numbered = numbered.reshape(field_px, field_px) + (0 if indices[0] == 0 else 1)
    class_of = np.array([0, *(tissue.population.nuclei[index - 1].label for index in indices if index)], np.uint8)
    points = [(round(f.x + 0.5, 1), round(f.y + 0.5, 1), f.label) for f in tissue.population.figures]
    return Field(image, class_of[numbered], numbered.astype(np.uint16), points)


def patient_of(seed: int, number: int) -> Patient:
    """Return patient `number` of a seed."""
    return draw_patient(np.random.default_rng([seed, _PATIENT_STREAM, number]))


def _vignette(field_px: int, loss: float) -> FloatMap:
    axis = np.linspace(-1, 1, field_px + 2 * halo_px(), dtype=np.float32) ** 2
    return 1 - np.float32(loss / 2) * (axis[:, None] + axis)


def _jpeg(image: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()


def _png(image: NDArray[np.unsignedinteger]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _check_arguments(out: Path, seed: int, fields: int, field_px: int, slide_px: int | None) -> None:
    ranges = [
        ("seed", seed, 0, 2**63 - 1),
        ("fields", fields, _MIN_FIELDS, 10**4),
        ("field_px", field_px, _MIN_PX, _MAX_FIELD_PX),
    ]
    if slide_px is not None:
        ranges.append(("slide_px", slide_px, 512, _MAX_SLIDE_PX))
    for name, value, lowest, highest in ranges:
        if not lowest <= value <= highest:
            raise UsageError(f"{name} is {value}: choose a number from {lowest} to {highest}.")
    if out.is_dir() and any(out.iterdir()):
        raise UsageError(f"{out}: is not empty. Choose a new folder for the synthetic data.")
