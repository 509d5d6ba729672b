"""What a command hands to `slide_runs`: its network, what it makes of a slide's map, how it was asked to work."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from numpy.typing import NDArray

from segkit.config import SlideConfig
from segkit.geometry import Box
from segkit.inference.network import Predictor
from segkit.inference.pipeline import Layers
from segkit.inference.plan import Plan
from segkit.inference.sources import SlideLevel
from segkit.inference.window import WindowPredictor
from segkit.models.model_file import Model
from segkit.slides import Slide
from segkit.workflows.inputs import InputResult
from segkit.workflows.planning import Network, Planner
from segkit.workflows.sharing import Share

ResultT = TypeVar("ResultT", bound=InputResult)

MAP_SUFFIXES = {"tiff": ".tif", "ome-tiff": ".ome.tif", "ome-zarr": ".ome.zarr"}


def map_file(name: str, kind: str) -> str:
    """Return what a map is called in a format."""
    return name + MAP_SUFFIXES[kind]


class Outputs(Protocol):
    """What a command makes of a slide's map."""

    @property
    def files(self) -> Sequence[str]:
        """Names of all that it, or the same command with other settings, leaves in the folder."""

    def work_up(self, layers: Layers, place: Box, block: Box) -> dict[str, NDArray[Any]]:
        """Return what is kept of a block, whose layers lie at `place`; called in several threads."""

    def join(
        self,
        row: Callable[[int, str], list[dict[str, NDArray[Any]] | None]],
        on_row: Callable[[int, int], None],
    ) -> None:
        """Write the files from the parts; `row` returns the arrays of a row of blocks whose names have a prefix."""

    def draw(self, slide: Slide) -> None:
        """Write the pictures."""

    def written_difference(self, place: Box, layers: Layers) -> float:
        """Return the largest difference of a place's layers to what was written, as share of the type's range."""

    def facts(self) -> dict[str, Any]:
        """Return what the record says of the result, by the names of the result's fields."""


@dataclass(frozen=True, kw_only=True)
class Engine(Generic[ResultT]):
    """A command's network and what it makes of slides.

    Attributes
    ----------
    command
        Its name.
    result
        Type of what becomes of an input; its own fields are among the facts of `Outputs`.
    key
        What results depend on beside slide, plan and configuration.
    record
        What the record says beside that.
    outputs
        Called with the source that is read, the folder and the plan.
    """

    command: str
    result: type[ResultT]
    network: Network
    channels: int
    config: SlideConfig
    planner: Planner
    key: Mapping[str, Any]
    record: Mapping[str, Any]
    describe: str
    outputs: Callable[[SlideLevel, Path, Plan], Outputs]


def key_of_models(models: Sequence[Model], predictor: Predictor | WindowPredictor) -> dict[str, Any]:
    """Return what results depend on: the models, and where and in which number format they compute."""
    return {
        "models": [model.sha256 for model in models],
        "precision": predictor.precision,
        "device": predictor.device.type,
    }


def record_of_models(models: Sequence[Model], predictor: Predictor | WindowPredictor) -> dict[str, Any]:
    """Return what the record says of the models and the device."""
    return {
        "models": [
            {"file": str(model.path.resolve()), "sha256": model.sha256, "classes": model.spec.classes}
            for model in models
        ],
        "precision": predictor.precision,
        "device": str(predictor.device),
        "threads": torch.get_num_threads(),
    }


@dataclass(frozen=True, kw_only=True)
class Order:
    """How a command was asked to work."""

    out: Path
    share: Share
    overwrite: bool = False
    dry_run: bool = False
