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


class ModelConfig(Section):
    """The network's form."""

    form: Literal["modern", "paper", "dnn1", "dnn2", "lenet", "vgg", "mlp", "linear"] = Field(
        "modern",
        description="U-Net (masks): modern (same convolutions, batch norm) or paper (Ronneberger 2015: valid "
        "convolutions, dropout at the bottom, no batch norm). Patch CNN (points): modern (batch norm), dnn1 or dnn2 "
        "(Ciresan 2013), lenet, vgg, mlp, linear.",
    )
    base_channels: Positive | Auto = Field(
        AUTO, description="Feature maps of the first layer; auto: 32 (paper: 64, dnn1 and dnn2: 16, lenet: 6)."
    )
    depth: Annotated[int, Field(ge=1, le=7)] | Auto = Field(
        AUTO, description="Number of poolings; auto: 4 (patch CNN: until about 8 pixels are left)."
    )
    dropout: Fraction | Auto = Field(
        AUTO, description="Dropout at the end of the contracting path; auto: 0 (paper: 0.5), before a patch CNN's head."
    )


class PatchConfig(Section):
    """How training samples are drawn."""

    size_px: Positive | Auto = Field(
        AUTO,
        description="Side of a training patch; auto: 256, or the smallest image's (patch CNN: what fits the points' "
        "match radius; dnn1, dnn2: 101).",
    )
    batch: Positive | Auto = Field(AUTO, description="Patches in a training step; auto: 8 (patch CNN: 128).")
    balanced: Annotated[float, Field(ge=0, le=1)] = Field(
        0.5,
        description="Share of patches centred on a pixel of an evenly drawn class; the rest lie anywhere.",
    )


class PointsConfig(Section):
    """How a patch CNN learns from points."""

    match_radius: Length | Auto = Field(
        AUTO,
        description="A detection within this distance of a point is right; auto: 7.5um (15px where mpp is unknown), or "
        "half of the points' median distance to their nearest neighbour where that is less.",
    )
    positive_radius: Length | Auto = Field(
        AUTO, description="Patches whose centre is this close to a point are positives; auto: half the match radius."
    )
    near_radius: Length | Auto = Field(
        AUTO,
        description="Negatives up to this distance from a point are near misses, drawn more often; auto: 3 times the "
        "match radius.",
    )
    positives: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.35, description="Share of positives among the patches, classes drawn evenly."
    )
    near_misses: Fraction = Field(0.25, description="Share of near misses among the patches.")
    hard_negatives: Fraction = Field(
        0.2, description="Share of hard negatives among the patches: labelled look-alikes and mined false positives."
    )
    mining_rounds: Annotated[int, Field(ge=0, le=20)] = Field(
        2, description="How often the network is run over the training images to draw from its false positives."
    )

    @model_validator(mode="after")
    def _leaves_other_negatives(self) -> Self:
        if self.positives + self.near_misses + self.hard_negatives >= 1:
            raise ValueError("positives, near_misses and hard_negatives must leave a share for other negatives")
        return self


class AugmentConfig(Section):
    """Random changes of training samples; `auto` takes the preset's value, 0 switches a change off."""

    preset: Literal["auto", "none", "light", "histology", "em"] = Field(
        AUTO, description="Set of strengths; auto: histology for colour images, em for grey ones."
    )
    flips: bool | Auto = Field(AUTO, description="Mirror horizontally and vertically, each with probability 1/2.")
    rotate_degrees: Annotated[float, Field(ge=0, le=180)] | Auto = Field(AUTO, description="Largest rotation.")
    scale: ScaleRange | Auto = Field(AUTO, description="Range of magnification, e.g. [0.8, 1.25].")
    shear_degrees: Annotated[float, Field(ge=0, le=45)] | Auto = Field(AUTO, description="Largest shear.")
    elastic_px: NotNegative | Auto = Field(AUTO, description="Size of elastic displacements (about their RMS).")
    stain: Fraction | Auto = Field(
        AUTO, description="Largest relative change of the amounts of haematoxylin and eosin."
    )
    brightness: Fraction | Auto = Field(AUTO, description="Largest relative change of brightness.")
    contrast: Fraction | Auto = Field(AUTO, description="Largest relative change of contrast.")
    gamma: Fraction | Auto = Field(AUTO, description="Largest relative change of gamma.")
    hue_degrees: Annotated[float, Field(ge=0, le=180)] | Auto = Field(AUTO, description="Largest turn of the hue.")
    saturation: Fraction | Auto = Field(AUTO, description="Largest relative change of saturation.")
    noise: Fraction | Auto = Field(AUTO, description="Largest standard deviation of Gaussian noise, white = 1.")
    blur_px: NotNegative | Auto = Field(AUTO, description="Largest sigma of Gaussian blur.")


class OptimiserConfig(Section):
    """How weights are learned."""

    learning_rate: Annotated[float, Field(gt=0)] = Field(1e-3, description="Largest learning rate (AdamW).")
    weight_decay: NotNegative = Field(1e-4, description="Decoupled weight decay; not applied to norms and biases.")
    warmup_steps: Annotated[int, Field(ge=0)] | Auto = Field(
        AUTO, description="Steps over which the rate rises linearly; auto: 5 % of all steps, at most 200."
    )
    schedule: Literal["polynomial", "cosine", "constant"] = Field(
        "polynomial", description="Decay after warm-up; polynomial: (1 - t)^0.9, as nnU-Net."
    )
    clip_norm: NotNegative = Field(10.0, description="Gradients are scaled down to this norm; 0: never.")


class ComputeConfig(Section):
    """Where and how numbers are computed."""

    device: str = Field(AUTO, description="auto, cpu, cuda or cuda:N; auto: the first CUDA device, else the CPU.")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        AUTO,
        description="Number format of the network; auto: bfloat16 where the processor computes in it, else float32.",
    )


class TrainConfig(Section):
    """Everything that defines a training run."""

    data: DataConfig
    model: ModelConfig = Field(default_factory=ModelConfig)
    patches: PatchConfig = Field(default_factory=PatchConfig)
    points: PointsConfig = Field(default_factory=PointsConfig)
    augment: AugmentConfig = Field(default_factory=AugmentConfig)
    optimiser: OptimiserConfig = Field(default_factory=OptimiserConfig)
    compute: ComputeConfig = Field(default_factory=ComputeConfig)
    loss: Literal["auto", "dice_cross_entropy", "cross_entropy"] = Field(
        AUTO,
        description="Mean of soft Dice and cross entropy, or cross entropy alone; auto: the first (patch CNN: the "
        "second).",
    )
    epochs: Positive = Field(50, description="Number of epochs.")
    steps_per_epoch: Positive | Auto = Field(
        AUTO,
        description="Steps in an epoch; auto: patches cover the training images once, at least 20 steps (patch CNN: as "
        "many positives as there are points, at least 100 steps).",
    )
    workers: Annotated[int, Field(ge=0)] | Auto = Field(
        AUTO, description="Processes that prepare samples; 0: none; auto: from the number of CPU cores."
    )
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(0, description="Seed of everything random.")


class EvaluateConfig(Section):
    """Everything that defines an evaluation."""

    split: Literal["train", "val", "test", "all"] = Field("val", description="Images that are measured.")
    bootstrap: Positive = Field(1000, description="Resamplings of the images behind each 95 % interval.")
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(0, description="Seed of the resampling.")
    dihedral: bool = Field(False, description=DIHEDRAL_HELP)
    match_radius: Length | Auto = Field(
        AUTO, description="Points: a detection within this distance of a point is right; auto: the model's."
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
