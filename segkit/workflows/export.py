"""Models for other programs: ONNX or torch.export, compared with the model before anything is written."""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segkit import files
from segkit.data.synthetic.noise import smooth_noise
from segkit.errors import ModelError, UsageError
from segkit.inference.averaging import softmax_over_classes
from segkit.inference.network import sigmoid
from segkit.inference.window import NaiveNetwork
from segkit.models.export_forms import ExportForm, InputType, OutputValues
from segkit.models.model_file import Model, load_model
from segkit.models.model_list import LIST_NAME
from segkit.models.receptive_field import mixing_norms
from segkit.versions import version_of
from segkit.workflows.callbacks import OnNote, quiet_note
from segkit.workflows.export_description import MARK, describe
from segkit.workflows.export_formats import (
    PACKAGES,
    SUFFIXES,
    Format,
    Program,
    build_program,
    require_packages,
)

TOLERANCE: Final = 1e-4
"""Largest difference that orders of adding explain: of probabilities; of logits as share of the largest one.

Measured: 4e-6 at most, over all kinds of networks with fresh weights.
"""
_PATCHES: Final = (1, 2, 7)
_STEPS: Final = ((1, 2, 2), (2, 3, 6), (3, 8, 5))
"""Batch and steps of height and width (`Sizes`) of what is compared."""
_LARGE_PX: Final = (160, 224)


class Difference(NamedTuple):
    """The largest difference of a graph to its model on a batch of a shape."""

    shape: tuple[int, ...]
    largest: float


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """An exported model.

    Attributes
    ----------
    file, metadata
        The graph, and what is known of it as JSON; the same is inside the graph's file.
    largest_difference
        Of the graph's outputs to the model's; of logits as share of the largest one.
    tolerance
        What was allowed.
    description
        What `metadata` says.
    """

    file: Path
    metadata: Path
    largest_difference: float
    tolerance: float
    description: dict[str, Any]


def export(
    model_path: Path,
    *,
    file_format: str | None = None,
    out: Path | None = None,
    dense: bool = False,
    stride: int | None = None,
    input_type: str = "float32",
    values: str = "probabilities",
    on_note: OnNote = quiet_note,
) -> ExportResult:
    """Write a model as ONNX or torch.export, with its description inside and beside it.

    Parameters
    ----------
    model_path
        A model file or a run folder.
    file_format
        `onnx` or `torch`; None: what `out` ends with, else onnx.
    out
        The file; None: beside the model file.
    dense, stride
        A patch CNN at every `stride`-th pixel of an image (None: as it was validated), and not on single patches.
    input_type
        `float32` or `uint8`.
    values
        `probabilities`, or `logits`: before softmax and sigmoid.
    on_note
        Called with what is worth knowing.

    Raises
    ------
    ModelError
        The model cannot be used, cannot be made dense, or the graph does not compute what the model does.
    ResourceError
        It is too large for ONNX; the disk is full.
    UsageError
        Arguments that do not go together, packages that are missing, a file there that is something else.
    """
    chosen = _format_of(file_format, out)
    _require_one_of("--input", input_type, get_args(InputType))
    _require_one_of("--output", values, get_args(OutputValues))
    given, wanted = cast(InputType, input_type), cast(OutputValues, values)
    require_packages(chosen)
    model = _load(model_path)
    form = ExportForm(model, dense=dense, stride=stride, input_type=given, values=wanted)
    usual = model.path.with_name(f"{model.path.stem}{'_dense' if dense else ''}{SUFFIXES[chosen]}")
    target = usual if out is None else out
    beside = target.with_name(f"{target.name}.json")
    for path in (target, beside):
        _require_replaceable(path)
    files.prepare_folder(target.parent)
    if mixing_norms(model.network):
        on_note("the network averages over all pixels that it sees: tiles of an image will not equal the whole")
    program = build_program(chosen, form)
    found = [difference_on(batch, model, form, program) for batch in batches(form)]
    largest = max(one.largest for one in found)
    _require_equal(model, found)
    versions = {name: version_of(name) for name in ("segkit", "torch", *PACKAGES[chosen])}
    description = describe(model, form, wanted, program.facts, versions)
    description["check"] = {
        "largest_difference": largest,
        "tolerance": TOLERANCE,
        "of": "probabilities" if wanted == "probabilities" else "logits, as share of the largest one if that is over 1",
        "inputs": [{"shape": list(one.shape), "largest_difference": one.largest} for one in found],
    }
    files.write_bytes(target, program.content(description))
    files.write_json(beside, description | {"file": {"name": target.name, "sha256": files.sha256_of(target)}})
    return ExportResult(
        file=target, metadata=beside, largest_difference=largest, tolerance=TOLERANCE, description=description
    )


def batches(form: ExportForm) -> Iterator[NDArray[np.uint8]]:
    """Yield batches (B, channels, H, W) of several legal sizes: noise, what looks like cells, black, white."""
    sizes = form.sizes
    if sizes.step:
        shapes = [(batch, *(sizes.step * n + sizes.offset for n in steps)) for batch, *steps in _STEPS]
        if form.kind == "map":
            shapes.append((1, *(sizes.legal_size(side + 2 * sizes.margin) for side in _LARGE_PX)))
    else:
        shapes = [(batch, sizes.offset, sizes.offset) for batch in _PATCHES]
    rng = np.random.default_rng(0)
    for number, (batch, height, width) in enumerate(shapes):
        images = [_picture(rng, number + index, form.channels, height, width) for index in range(batch)]
        yield np.stack(images)


def _picture(rng: np.random.Generator, number: int, channels: int, height: int, width: int) -> NDArray[np.uint8]:
    """Return an image (channels, height, width) of one of four kinds."""
    shape = (channels, height, width)
    match number % 4:
        case 0:  # dark blobs on a coloured ground, with some grain
            blobs = smooth_noise(rng, (height, width), 4.0) > 0.8
            ground = np.array([225, 190, 215][:channels]).reshape(-1, 1, 1) - 90 * blobs
            cells: NDArray[np.uint8] = (ground + rng.normal(0, 9, shape)).clip(0, 255).astype(np.uint8)
            return cells
        case 1:
            return rng.integers(0, 256, shape, dtype=np.uint8)
        case 2:
            return np.full(shape, 255, np.uint8)
        case _:
            return np.zeros(shape, np.uint8)


def difference_on(batch: NDArray[np.uint8], model: Model, form: ExportForm, program: Program) -> Difference:
    """Compare an exported program with the model on a batch (B, channels, H, W).

    Raises
    ------
    ModelError
        Their outputs differ in number or shape.
    """
    expected = [output.numpy() for output in reference(batch, model, form)]
    outputs = program.run(batch.astype(form.input_type))
    if [one.shape for one in outputs] != [one.shape for one in expected]:
        raise ModelError(
            f"{model.path}: the exported graph gives {[one.shape for one in outputs]} for an input of {batch.shape}, "
            f"the model {[one.shape for one in expected]}. No file was written; please report it."
        )
    largest = 0.0
    for output, wanted in zip(outputs, expected, strict=True):
        scale = max(1.0, float(np.abs(wanted).max()))  # probabilities are never larger
        # np.max keeps what is not a number, which Python's own would lose.
        largest = float(np.max([largest, np.abs(output - wanted).max() / scale]))
    return Difference(batch.shape, largest)


@torch.inference_mode()
def reference(batch: NDArray[np.uint8], model: Model, form: ExportForm) -> list[Tensor]:
    """Return what the model says of a batch, by the trained network itself: not folded, patches one by one."""
    spec, network = model.spec, model.network
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (spec.mean, spec.std))
    images = (torch.from_numpy(batch).to(torch.float32) / 255 - mean) / std
    if form.kind == "dense":
        layers, patch_px = model.patch_cnn.layers, model.patch_cnn.patch_px
        logits = NaiveNetwork(layers, patch_px=patch_px, stride=form.sizes.stride)(images)
    else:
        logits = network(images)
        logits = logits.flatten(1) if form.kind == "patch" else logits
    is_heat = form.kind == "map" and spec.task == "points"
    classes, others = logits[:, : len(spec.classes)], logits[:, len(spec.classes) :]
    raw = form.output_names[0].endswith("logits")
    if is_heat:
        return [logits if raw else sigmoid(logits)]
    outputs = [classes if raw else softmax_over_classes(classes)]
    return [*outputs, others if raw else sigmoid(others)] if spec.task == "instance" else outputs


def _require_equal(model: Model, found: list[Difference]) -> None:
    worst = max(found, key=lambda one: np.inf if np.isnan(one.largest) else one.largest)
    if not worst.largest <= TOLERANCE:
        raise ModelError(
            f"{model.path}: the exported graph differs from the model by {worst.largest:.2g} on an input of "
            f"{' x '.join(map(str, worst.shape))}; {TOLERANCE:g} is allowed. No file was written. Try the other "
            "--format, and report it."
        )


def _load(path: Path) -> Model:
    if (path / LIST_NAME).is_file():
        raise UsageError(f"{path}: holds several models. Export them one by one, e.g. {path / 'fold-1'}.")
    return load_model(path)


def _format_of(given: str | None, out: Path | None) -> Format:
    of_suffix = {suffix: name for name, suffix in SUFFIXES.items()}
    if given is None:
        chosen: Format = "onnx" if out is None else of_suffix.get(out.suffix.lower(), "onnx")
    else:
        _require_one_of("--format", given, get_args(Format))
        chosen = cast(Format, given)
    if out is not None and out.suffix.lower() != SUFFIXES[chosen]:
        raise UsageError(f"--out {out}: with --format {chosen} its name has to end with {SUFFIXES[chosen]}.")
    return chosen


def _require_one_of(flag: str, given: str, known: tuple[str, ...]) -> None:
    if given not in known:
        raise UsageError(f"{flag} {given}: give one of {', '.join(known)}.")


def _require_replaceable(path: Path) -> None:
    """Refuse to replace what no export has written."""
    if path.is_dir():
        raise UsageError(f"{path}: is a folder, and a file is needed there. Choose another --out.")
    if path.exists() and not _is_export(path):
        raise UsageError(f"{path}: is there, and `segkit export` did not write it. Remove it or choose another --out.")


def _is_export(path: Path) -> bool:
    """Tell whether a file holds a description of ours; all formats have it as plain text."""
    if path.stat().st_size == 0:  # nothing to be mapped
        return False
    with path.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(f'"{MARK}"'.encode()) >= 0
