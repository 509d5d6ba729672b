"""dataset.yaml: what a data folder says about itself."""

from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field

from segkit.config import AUTO, Auto, Section, build_config
from segkit.data.boxes import BoxForm

DESCRIPTION_FILE: Final = "dataset.yaml"


class Description(Section):
    """The keys of dataset.yaml; all may be left out.

    `classes` are those of the annotation that is learned from without further ado: they do not apply where masks/
    are there or chosen here, and the user asks for points, or the reverse.
    """

    classes: list[str] | dict[int, str] | Auto = Field(
        AUTO, description="Class names, background first, or a mapping of mask value to name."
    )
    annotation: Literal["auto", "masks", "labels", "geojson", "points"] = Field(
        AUTO, description="Annotation to learn from."
    )
    hard_negatives: list[str] | Auto = Field(AUTO, description="Labels of points that look like a class and are none.")
    boxes: BoxForm | Auto = Field(
        AUTO, description="Numbers of a box in JSON: x, y, width, height (xywh) or x1, y1, x2, y2 (xyxy)."
    )
    mpp: Annotated[float, Field(gt=0)] | Auto = Field(AUTO, description="Micrometres per pixel of the images.")
    ignore: int | None = Field(None, description="Mask value of pixels that are not labelled.")


def read_description(root: Path) -> Description:
    """Read `root`/dataset.yaml, or return an empty description where there is none.

    Raises
    ------
    ConfigError
        It cannot be read, has unknown keys or wrong values; all at once.
    """
    path = root / DESCRIPTION_FILE
    return build_config(Description, file=path) if path.exists() else Description()
