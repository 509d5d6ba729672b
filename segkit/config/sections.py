"""What can be set: its meaning, its default, its range.

A field's description is the only place where its help is written; the command line shows the same text. A field that
may be `auto` is computed from the data when it is not given; the value chosen is written into the run folder.
"""

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from segkit.errors import ConfigError

Auto = Literal["auto"]
AUTO: Auto = "auto"
DIHEDRAL_HELP = "Average over the 8 flips and quarter turns (8 times slower)."
INEXACT_HELP = "Accept models whose norms mix pixels, with which tiles differ from the whole image."

LENGTH = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+) ?(px|um)")


def _checked_length(text: str) -> str:
    found = LENGTH.fullmatch(text)
    if found is None or float(found[1]) == 0:
        raise ValueError("give a length above 0 with its unit, e.g. 7.5um or 6px")
    return text


Length = Annotated[str, AfterValidator(_checked_length)]
"""A length in micrometres or in pixels at level 0, e.g. `7.5um` or `6px`; see `length_px`."""
Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[int, Field(ge=1)]
NotNegative = Annotated[float, Field(ge=0)]
ScaleRange = tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]


class Section(BaseModel):
    """A group of settings: unknown keys are refused, values cannot be changed after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)


class DataConfig(Section):
    """Which images and annotations are used."""

    dir: Path = Field(
        description="Folder with images/ and masks/, labels/, geojson/ or points.csv (see `segkit check`)."
    )
    annotation: Literal["auto", "masks", "labels", "geojson", "points"] = Field(
        AUTO,
        description="Annotation to learn from; auto: dataset.yaml, else masks, labels, geojson, points, the first "
        "there.",
    )
    classes: list[str] | Auto = Field(
        AUTO, description="Class names by id, background first; auto: dataset.yaml, else numbered (points: by label)."
    )
    hard_negatives: list[str] | Auto = Field(
        AUTO,
        description="Labels of points that look like a class and are none; auto: dataset.yaml, else look_alike, "
        "hard_negative, imposter, non-mitotic figure and their like.",
    )
    ignore: int | None = Field(None, description="Mask value of pixels that are not labelled and do not count.")
    mpp: Annotated[float, Field(gt=0)] | Auto = Field(
        AUTO, description="Micrometres per pixel of the images; auto: dataset.yaml, else the files' metadata."
    )
    val_fraction: Fraction = Field(
        0.2, description="Share of images (or groups) for validation if there are no splits."
    )
    test_fraction: Fraction = Field(0.2, description="Share of images (or groups) for the locked test set, likewise.")
    folds: Annotated[int, Field(ge=2, le=50)] | None = Field(
        None, description="Divide the images (or groups) that are not for testing into so many parts."
    )
    fold: Positive | None = Field(None, description="The part of `folds` that is for validation, from 1 on.")
    cache: Path | Literal["auto", "none"] = Field(
        AUTO,
        description="Folder for decoded images; auto: in the run folder where they would take more than a quarter of "
        "the memory; none: they are kept in memory.",
    )

    @model_validator(mode="after")
    def _fold_is_one_of_them(self) -> Self:
        if (self.folds is None) != (self.fold is None) or (self.folds or 0) < (self.fold or 0):
            raise ValueError("data.folds and data.fold go together, and fold is one of 1 .. folds")
        return self


class ComputeConfig(Section):
    """Where and how numbers are computed."""

    device: str = Field(AUTO, description="auto, cpu, cuda or cuda:N; auto: the first CUDA device, else the CPU.")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        AUTO,
        description="Number format of the network; auto: bfloat16 where the processor computes in it, else float32.",
    )


class EvaluateConfig(Section):
    """Everything that defines an evaluation."""

    split: Literal["auto", "train", "val", "test", "all"] = Field(
        AUTO, description="Images that are measured; auto: val, and of given predictions all that there are."
    )
    bootstrap: Positive = Field(1000, description="Resamplings of the images behind each 95 % interval.")
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(0, description="Seed of the resampling.")
    dihedral: bool = Field(False, description=DIHEDRAL_HELP)
    inexact: bool = Field(False, description=INEXACT_HELP)
    measure: Literal["auto", "pixels", "objects", "points"] = Field(
        "auto", description="Given predictions: what is measured; auto: what the two folders hold."
    )
    allow_missing: bool = Field(
        False,
        description="Given predictions: leave out images without one, and say which in the results; else: refuse.",
    )
    surface_tolerance: Length = Field(
        "2px", description="Pixels: boundaries no farther apart than this agree (NSD), e.g. 2px or 1um."
    )
    membrane: str = Field(
        AUTO,
        description="Pixels: the class of membranes between cells, for V-Rand and V-Info; auto: of two classes the one "
        "called membrane, border, boundary or wall; none.",
    )
    membrane_threshold: Annotated[float, Field(gt=0, lt=1)] | Literal["auto", "none"] = Field(
        AUTO,
        description="Membranes: a threshold of the probability of cell to report beside the masks; auto: chosen on "
        "images of another split (for test: val, for val: train); none.",
    )
    match_radius: Length | Auto = Field(
        AUTO, description="Points: a detection within this distance of a point is right; auto: the model's."
    )
    match_rule: Literal["optimal", "midog", "greedy", "hungarian", "kdtree25"] = Field(
        "optimal", description="Points: how detections and points are paired; published numbers use the others, too."
    )
    compute: ComputeConfig = Field(default_factory=ComputeConfig)


def length_px(length: str, mpp: float | None) -> float:
    """Return a `Length` in pixels.

    Raises
    ------
    ConfigError
        It is in micrometres and `mpp`, micrometres per pixel, is unknown.
    """
    found = LENGTH.fullmatch(length)
    assert found is not None, "validated before"
    if found[2] == "px":
        return float(found[1])
    if mpp is None:
        raise ConfigError(
            f"{length}: a length in um needs the micrometres per pixel. Give them (data.mpp, --mpp, or mpp in "
            "dataset.yaml), or a length in pixels (6px)."
        )
    return float(found[1]) / mpp
