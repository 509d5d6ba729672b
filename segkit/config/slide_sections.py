"""What can be set where slides are worked through."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from segkit.config.sections import (
    AUTO,
    DIHEDRAL_HELP,
    INEXACT_HELP,
    Auto,
    ComputeConfig,
    Length,
    NotNegative,
    Positive,
    Section,
)
from segkit.memory import parse_bytes

_REGION = re.compile(r"([0-9]+),([0-9]+),([0-9]+),([0-9]+)")


def _checked_region(text: str) -> str:
    found = _REGION.fullmatch(text)
    if found is None or not (int(found[3]) and int(found[4])):
        raise ValueError("give X,Y,WIDTH,HEIGHT in level-0 pixels, e.g. 1000,2000,4096,4096")
    return text


def _checked_bytes(text: str) -> str:
    parse_bytes(text)
    return text


def _off_in_yaml(value: Any) -> Any:
    """Return the word that YAML takes for `false` where it is written without quotes."""
    return "off" if value is False else value


def _plain_bytes_in_yaml(value: Any) -> Any:
    """Return the text of a number, which YAML takes for one."""
    return str(value) if type(value) is int else value


class SlideConfig(Section):
    """What every command that works through slides has in common."""

    mpp: Annotated[float, Field(gt=0)] | Auto = Field(
        AUTO, description="Micrometres per pixel of the slide at level 0; auto: from its metadata."
    )
    region: Annotated[str, AfterValidator(_checked_region)] | None = Field(
        None, description="Only this part of each slide: X,Y,WIDTH,HEIGHT in level-0 pixels."
    )
    tissue: Annotated[str, BeforeValidator(_off_in_yaml)] = Field(
        AUTO,
        description="Where to look: auto (tissue on bright glass, in colour slides), off (everywhere), or a file: "
        "a mask image or GeoJSON.",
    )
    tile: Positive | Auto = Field(
        AUTO,
        description="Side of the tiles in pixels, a multiple of the model's alignment; auto: the fastest, measured.",
    )
    max_memory: Annotated[str, BeforeValidator(_plain_bytes_in_yaml), AfterValidator(_checked_bytes)] | Auto = Field(
        AUTO, description="Memory that the process may take, e.g. 4GB; auto: what the machine or container has."
    )
    format: Literal["tiff", "ome-tiff", "ome-zarr"] = Field(
        "tiff", description="Format of the written maps: plain pyramid, OME-TIFF with SubIFDs, or OME-Zarr."
    )
    dihedral: bool = Field(False, description=DIHEDRAL_HELP)
    verify_seams: Annotated[int, Field(ge=0)] = Field(
        0, description="Compute so many random places on tile borders again, each in one piece, and compare."
    )
    compute: ComputeConfig = Field(default_factory=ComputeConfig)

    @property
    def region_box(self) -> tuple[int, int, int, int] | None:
        """The region as x, y, width and height in level-0 pixels, None for all."""
        if self.region is None:
            return None
        x, y, width, height = map(int, self.region.split(","))
        return x, y, width, height

    @property
    def max_memory_bytes(self) -> int | None:
        """The given limit in bytes, None where it is to be found out."""
        return None if self.max_memory == AUTO else parse_bytes(self.max_memory)


class PredictConfig(SlideConfig):
    """Everything that defines a prediction."""

    batch: Positive | Auto = Field(AUTO, description="Tiles per pass of the network; auto: 1, up to 8 on CUDA.")
    probability: bool = Field(False, description="Write the probability of the foreground as probability.tif, too.")
    probability_type: Literal["uint8", "float16"] = Field(
        "uint8", description="Number format of probability.tif: 0..255 for viewers, or 0..1 in 16-bit floats."
    )
    min_area: NotNegative = Field(
        0.0,
        description="Objects smaller than this are left out of the object list (um2; px where mpp is unknown).",
    )
    inexact: bool = Field(False, description=INEXACT_HELP)


class SlidingWindowConfig(SlideConfig):
    """Everything that defines a dense run of a patch CNN."""

    stride: Annotated[int, Field(ge=1, le=64)] | Auto = Field(
        AUTO,
        description="Pixels from one window to the next, in both directions; auto: as when the model's thresholds were "
        "tuned.",
    )
    method: Literal["auto", "dense", "fragments", "atrous", "naive"] = Field(
        AUTO,
        description="dense: the converted network, in the faster of its two forms, fragments and atrous; naive: every "
        "window by itself; auto: dense where the network can be converted, else naive.",
    )
    verify: Annotated[int, Field(ge=0)] = Field(
        0, description="Compare so many random positions of each input with windows computed by themselves."
    )
    smooth_radius: Length | Auto = Field(
        AUTO, description="Probabilities are averaged over a disk of this radius; auto: the model's positive radius."
    )
    nms_radius: Length | Auto = Field(
        AUTO, description="No two detections of a class are closer than this; auto: the model's match radius."
    )
    threshold: Annotated[float, Field(ge=0, le=1)] | Auto = Field(
        AUTO, description="Lowest score of a detection; auto: each class's own, tuned on the validation images."
    )
