"""The formats of exported models: a graph that can be run, to compare it with the model, and the bytes of its file."""

import importlib
import importlib.util
import io
import json
import warnings
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, Final, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from segkit.errors import ResourceError, UsageError
from segkit.models.export_forms import INPUT_NAME, ExportForm, dynamic_shapes, example_input

Format = Literal["onnx", "torch"]
SUFFIXES: Final[Mapping[Format, str]] = {"onnx": ".onnx", "torch": ".pt2"}
PACKAGES: Final[Mapping[Format, Sequence[str]]] = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "torch": ()}
METADATA_KEY: Final = "segkit"
OPSET: Final = 20
"""Of ONNX: what torch writes unless told otherwise since 2.9; ONNX Runtime reads these files since 1.18 (May 2024)."""
MAX_ONNX_BYTES: Final = 1_900_000_000  # the protocol buffers of ONNX end at 2 GiB
_ORIGINS: Final = ("stack_trace", "nn_module_stack", "source_fn_stack", "from_node", "torch_fn")
"""What PyTorch notes of where an operation came from: files of this machine and their lines."""


class Program(Protocol):
    """An exported model in memory.

    Attributes
    ----------
    facts
        Name and numbers of its format.
    """

    facts: Mapping[str, Any]

    def run(self, image: NDArray[Any]) -> list[NDArray[np.float32]]:
        """Return the outputs for a batch of the input's type, (B, channels, H, W)."""

    def content(self, description: Mapping[str, Any]) -> bytes:
        """Return the file, with a description inside."""


def require_packages(file_format: Format) -> None:
    """Check that everything is installed that a format needs.

    Raises
    ------
    UsageError
        Something is missing.
    """
    missing = [name for name in PACKAGES[file_format] if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"--format {file_format} needs {', '.join(missing)}: pip install 'segkit[export]', or give --format torch."
        )


def build_program(file_format: Format, form: ExportForm) -> Program:
    """Export a form.

    Raises
    ------
    ResourceError
        It is too large for the format.
    """
    if file_format == "onnx":
        size = sum(tensor.nbytes for tensor in form.state_dict().values())
        if size > MAX_ONNX_BYTES:
            raise ResourceError(
                f"its weights are {size / 1e9:.1f} GB, and a file of ONNX ends at 2 GB. Give --format torch."
            )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporters' own, about their future
        exported = torch.export.export(form, (example_input(form),), dynamic_shapes=dynamic_shapes(form), strict=False)
        _forget_origins(exported)
        _order_ranges(exported)
        return _OnnxProgram(form, exported) if file_format == "onnx" else _TorchProgram(exported)


def _forget_origins(exported: torch.export.ExportedProgram) -> None:
    """Remove paths of this machine, and the example's values, which would be kept as a pickle."""
    exported.example_inputs = None
    for module in exported.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                for name in _ORIGINS:
                    node.meta.pop(name, None)


def _order_ranges(exported: torch.export.ExportedProgram) -> None:
    """Order the ranges of free sizes, which come as the hashes of their names do: another way in each process."""
    ranges = exported.range_constraints
    ordered = sorted(ranges.items(), key=lambda one: str(one[0]))
    ranges.clear()
    ranges.update(ordered)


class _TorchProgram:
    """An `ExportedProgram`; its file is an archive of JSON and plain values."""

    def __init__(self, exported: torch.export.ExportedProgram) -> None:
        self.facts: Mapping[str, Any] = {"name": "torch.export"}
        self._exported, self._module = exported, exported.module()

    def run(self, image: NDArray[Any]) -> list[NDArray[np.float32]]:
        """Return the outputs for a batch."""
        with torch.inference_mode():
            return [output.numpy() for output in self._module(torch.from_numpy(image))]

    def content(self, description: Mapping[str, Any]) -> bytes:
        """Return the file."""
        buffer = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.export.save(self._exported, buffer, extra_files={f"{METADATA_KEY}.json": _text(description)})
        return buffer.getvalue()


class _OnnxProgram:
    """A graph of ONNX, checked by the `onnx` package, and run by ONNX Runtime on the CPU."""

    def __init__(self, form: ExportForm, exported: torch.export.ExportedProgram) -> None:
        program = torch.onnx.export(
            exported,
            (),
            input_names=[INPUT_NAME],
            output_names=list(form.output_names),
            opset_version=OPSET,
            dynamic_shapes=dynamic_shapes(form),
            dynamo=True,
            verbose=False,
        )
        assert program is not None
        self._proto: Any = program.model_proto
        _tidy(self._proto, form)
        (opset,) = [one.version for one in self._proto.opset_import if not one.domain]
        self.facts: Mapping[str, Any] = {"name": "ONNX", "opset": opset, "ir_version": self._proto.ir_version}
        _package("onnx.checker").check_model(self._proto, full_check=True)
        runtime = _package("onnxruntime")
        options = runtime.SessionOptions()
        options.log_severity_level = 3  # errors only
        options.intra_op_num_threads = torch.get_num_threads()
        self._session = runtime.InferenceSession(
            self._bytes(), sess_options=options, providers=["CPUExecutionProvider"]
        )

    def run(self, image: NDArray[Any]) -> list[NDArray[np.float32]]:
        """Return the outputs for a batch."""
        outputs: list[NDArray[np.float32]] = self._session.run(None, {INPUT_NAME: image})
        return outputs

    def content(self, description: Mapping[str, Any]) -> bytes:
        """Return the file."""
        del self._proto.metadata_props[:]
        self._proto.metadata_props.add(key=METADATA_KEY, value=_text(description))
        return self._bytes()

    def _bytes(self) -> bytes:
        content: bytes = self._proto.SerializeToString(deterministic=True)
        return content


def _tidy(proto: Any, form: ExportForm) -> None:
    """Leave of a graph what is needed to run it, and name its free axes."""
    graph = proto.graph
    del graph.value_info[:], graph.metadata_props[:]
    for one in (*graph.node, *graph.initializer, *graph.input, *graph.output):
        one.doc_string = ""
        del one.metadata_props[:]
    axes = ["batch", "", "height", "width"]
    _name_axes(graph.input[0], axes)
    for output in graph.output:
        _name_axes(output, axes if form.sizes.are_kept else ["batch", "", "rows", "columns"])


def _name_axes(value: Any, names: Sequence[str]) -> None:
    for axis, name in zip(value.type.tensor_type.shape.dim, names, strict=False):
        if axis.HasField("dim_param"):
            axis.dim_param = name


def _text(description: Mapping[str, Any]) -> str:
    return json.dumps(description, indent=1, allow_nan=False)


def _package(name: str) -> ModuleType:
    """Import what only this command needs, and only for this format."""
    return importlib.import_module(name)
