"""The sections of gpu.py that predict."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_common import (
    Bench,
    Line,
    fill_card,
    forget,
    peak_bytes,
    points_run,
    recall,
    remember,
    seconds_of,
    slide_of,
    unet_run,
)
from making import SLIDE
from numpy.typing import NDArray
from torch import Tensor, nn

from segkit.config import PredictConfig, build_config
from segkit.geometry import Box, lay_tiles, mirror_indices
from segkit.inference.network import Predictor
from segkit.inference.sources import ArrayImage
from segkit.inference.submission import full_float32
from segkit.inference.window import Method, WindowPredictor
from segkit.models.dense import DenseForm, DenseNetwork
from segkit.models.inference_form import Precision, inference_form
from segkit.models.model_file import DetectionSpec, ModelSpec, PatchCNNArguments, build_network, load_model
from segkit.models.patch_cnn import CIRESAN_PX, Form, PatchCNN, usual_base_channels, usual_depth
from segkit.slides import open_slide
from segkit.workflows.predict import predict

PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.05}
"""Of a probability: another kernel of cuDNN adds up in another order."""
LARGEST_TRIED = 2048
"""Of tiles that cuDNN tries its kernels on, which takes long with large ones."""
SHARE_OF_PEAK = 3
"""A filled card has room for the peak of a whole batch divided by this."""


def unet_predictor(bench: Bench, precision: Precision) -> Predictor:
    model = load_model(unet_run(bench))
    return Predictor([(model.unet, model.spec)], device=torch.device(bench.device), precision=precision, dihedral=False)


def picture(height: int, width: int) -> ArrayImage:
    """Return a mosaic of sample_data's slide."""
    with open_slide(SLIDE) as slide:
        pixels = np.repeat(slide.read(Box(0, 0, slide.height, slide.width)), 3 // slide.channels, axis=2)
    rows, columns = mirror_indices(0, height, pixels.shape[0]), mirror_indices(0, width, pixels.shape[1])
    return ArrayImage(pixels[rows[:, None], columns])


# Exactness


def tiles(bench: Bench) -> Iterator[Line]:
    """Probabilities of tiles beside those of one pass over the whole image."""
    source = picture(*bench.either((301, 413), (3001, 2777)))
    for precision in PRECISIONS:
        predictor = unet_predictor(bench, precision)
        grid, core = predictor.grid, Box(0, 0, source.height, source.width)
        whole = predictor.probabilities(source.read(grid.read_box(core))[None], grid.crop_in_output(core))[0]
        for tile_px in bench.either((64, 128), (512, 1024, 2048)):
            largest, changed = 0.0, 0
            for tile in lay_tiles(source.height, source.width, tile_px, grid):
                found = predictor.probabilities(source.read(tile.read)[None], grid.crop_in_output(tile.core))[0]
                expected = whole[(slice(None), *tile.core.slices)]
                largest = max(largest, float((found - expected).abs().max()))
                changed += int((found.argmax(0) != expected.argmax(0)).sum())
            yield Line(
                f"tiles of {tile_px} px beside the whole {source.height} x {source.width} px, {precision}",
                f"largest difference of a probability {largest:.2g}; {changed} px of another class",
                largest <= TOLERANCE[precision],
            )
        del whole
        forget(bench)


def batches(bench: Bench) -> Iterator[Line]:
    """What is written of tiles in batches beside tiles one by one."""
    source, tile_px = picture(*bench.either((200, 300), (1200, 1900))), bench.either(64, 512)
    for precision in PRECISIONS:
        predictor = unet_predictor(bench, precision)
        laid = list(lay_tiles(source.height, source.width, tile_px, predictor.grid))[:8]
        laid = [tile for tile in laid if tile.read[2:] == laid[0].read[2:]]
        pixels = np.stack([source.read(tile.read) for tile in laid])
        crops = [predictor.grid.crop_in_output(tile.core) for tile in laid]
        alone = [predictor.predict(pixels[one : one + 1], crops[one : one + 1])[0] for one in range(len(laid))]
        for size in (2, len(laid)):
            found = [
                each
                for start in range(0, len(laid), size)
                for each in predictor.predict(pixels[start : start + size], crops[start : start + size])
            ]
            steps = max(
                int(np.abs(one.foreground.astype(int) - other.foreground).max())
                for one, other in zip(found, alone, strict=True)
            )
            changed = sum(int((one.mask != other.mask).sum()) for one, other in zip(found, alone, strict=True))
            yield Line(
                f"{len(laid)} tiles of {tile_px} px in batches of {size} beside one by one, {precision}",
                "the same bytes"
                if steps == changed == 0
                else f"differ by {steps}/255 at most; {changed} px of another class",
                steps <= 255 * TOLERANCE[precision] + 1,
            )


def random_patch_cnn(form: Form, patch_px: int, base_channels: int) -> tuple[PatchCNN, ModelSpec]:
    torch.manual_seed(0)
    arguments = PatchCNNArguments(
        in_channels=3, num_classes=2, form=form, patch_px=patch_px, base_channels=base_channels,
        depth=usual_depth(form, patch_px), dropout=0.0,
    )  # fmt: skip
    network = build_network(arguments, device="cpu").eval()
    assert isinstance(network, PatchCNN)
    values: dict[str, Any] = {
        "architecture": "patch_cnn", "task": "points", "arguments": arguments, "classes": ["background", "a"],
        "mpp": None, "mean": [0.5] * 3, "std": [0.25] * 3, "receptive_field": patch_px, "scores": {}, "training": {},
        "detection": DetectionSpec(
            match_radius="6px", smooth_radius="3px", nms_radius="6px", stride=1, thresholds=[0.5]
        ),
    }  # fmt: skip
    return network, ModelSpec.model_validate(values)


@torch.no_grad()
def spread(bench: Bench, network: PatchCNN, spec: ModelSpec) -> None:
    """Scale the last layer, so that the probabilities of a picture are of all sizes."""
    predictor = WindowPredictor(
        [(network, spec)], device=torch.device(bench.device), precision="float32", stride=4, method="naive"
    )
    background, other = predictor.probabilities(window_picture(predictor))[0].double().log().cpu()
    logits = other - background
    last = [one for one in network.modules() if isinstance(one, nn.Conv2d | nn.Linear)][-1]
    assert last.bias is not None
    factor = 1 / float(logits.std())
    last.weight *= factor
    last.bias *= factor
    last.bias[1] -= factor * float(logits.mean())


def window_picture(predictor: WindowPredictor) -> NDArray[np.uint8]:
    side = predictor.grid.legal_size(predictor.grid.smallest)
    return picture(side, side).read(Box(0, 0, side, side))[None]


def windows(bench: Bench) -> Iterator[Line]:
    """The dense forms of patch CNNs beside every window by itself."""
    forms: Sequence[tuple[Form, int]] = bench.either([("modern", 33)], [("modern", 64), ("dnn1", CIRESAN_PX)])
    for form, patch_px in forms:
        member = random_patch_cnn(form, patch_px, bench.either(4, usual_base_channels(form)))
        spread(bench, *member)
        for stride in bench.either((4,), (1, 4)):
            naive: dict[str, Tensor] = {}
            for precision in PRECISIONS:
                for method in ("naive", "fragments", "atrous"):
                    how: Method = method  # type: ignore[assignment]
                    predictor = WindowPredictor(
                        [member], device=torch.device(bench.device), precision=precision, stride=stride, method=how
                    )
                    found = predictor.probabilities(window_picture(predictor))[0]
                    if method == "naive":
                        naive[precision] = found
                        continue
                    largest = float((found - naive[precision]).abs().max())
                    yield Line(
                        f"{form} {patch_px} px, stride {stride}: {method} beside naive, {precision}",
                        f"largest difference of a probability {largest:.2g} (they span "
                        f"{float(found[1].max() - found[1].min()):.2g})",
                        largest <= TOLERANCE[precision],
                    )
        forget(bench)


def command(bench: Bench) -> Iterator[Line]:
    """`segkit predict --verify-seams` on sample_data's slide."""
    for precision in PRECISIONS:
        out, places = bench.folder / precision, bench.either(5, 40)
        small: dict[str, Any] = bench.either({"region": "500,500,600,400"}, {})
        tile = bench.either(128, 512)
        config = predict_config(bench, precision, tile, verify_seams=places, probability="true", **small)
        (result,) = predict([SLIDE], models=[unet_run(bench)], out=out, config=config).slides
        record = json.loads((out / SLIDE.stem / "run.json").read_text())
        difference = record["largest_seam_difference"]
        yield Line(
            f"predict --verify-seams {places}, batch {record['plan']['batch']}, {precision}",
            f"largest difference {255 * difference:.3g}/255 ({result.status})",
            difference <= TOLERANCE[precision] + 1 / 255,
        )


def predict_config(bench: Bench, precision: str, tile: int | str, **settings: Any) -> PredictConfig:
    values = {"compute.device": bench.device, "compute.precision": precision, "tile": tile, "tissue": "off", **settings}
    return build_config(PredictConfig, assignments=[f"{key}={value}" for key, value in values.items()])


# Memory


def out_of_memory(bench: Bench) -> Iterator[Line]:
    """The card is filled in the middle of a prediction, so that its batches do not fit any more."""
    size, tile, batch = bench.either((1024, 128, 8), (8192, 1024, 8))
    slide, run = slide_of(bench, size), unet_run(bench)
    sizes: list[int] = []
    filled: list[list[Tensor]] = []
    layers = Predictor.layers

    def counting(self: Predictor, pixels: Tensor, crops: Any) -> Any:
        if pixels.device.type != "meta":
            sizes.append(len(pixels))
            if filled and bench.device == "cpu" and len(pixels) > 2:
                raise torch.OutOfMemoryError("pretended")
        return layers(self, pixels, crops)

    def run_once(name: str, fill: Callable[[int], None]) -> Path:
        predict(
            [slide],
            models=[run],
            out=bench.folder / name,
            config=predict_config(bench, "auto", tile, batch=batch, probability="true"),
            on_progress=lambda _stage, done, _total, _info: fill(done),
        )
        return bench.folder / name / slide.stem

    Predictor.layers = counting  # type: ignore[method-assign]
    try:
        forget(bench)
        free = run_once("free", lambda _: None)
        peak = peak_bytes(bench)
        before = list(sizes)
        sizes.clear()

        def fill_once(done: int) -> None:
            if done and not filled:
                filled.append(fill_card(bench, peak // SHARE_OF_PEAK))

        full = run_once("full", fill_once)
    finally:
        Predictor.layers = layers  # type: ignore[method-assign]
        filled.clear()
        forget(bench)
    halved = [one for one in sizes if one < max(before)]
    yield Line(
        f"predict, batch {batch}, card filled to {1 / SHARE_OF_PEAK:.0%} of the {peak / 1e9:.1f} GB peak midway",
        f"{len(sizes)} passes instead of {len(before)}, {len(halved)} of halved batches; {difference_of(free, full)}",
        bool(halved) and len(sizes) > len(before) and share_changed(free, full) < 1e-4,
    )


def difference_of(one: Path, other: Path) -> str:
    names = [
        name for name in ("mask.tif", "probability.tif", "objects.csv", "objects.geojson") if (one / name).exists()
    ]
    different = [name for name in names if (one / name).read_bytes() != (other / name).read_bytes()]
    if not different:
        return f"{len(names)} files with the same bytes"
    return f"{', '.join(different)} differ: {share_changed(one, other):.2g} of the pixels have another class"


def share_changed(one: Path, other: Path) -> float:
    with open_slide(one / "mask.tif") as first, open_slide(other / "mask.tif") as second:
        box = Box(0, 0, first.height, first.width)
        return float(np.mean(first.read(box) != second.read(box)))


# Speed


def forward(bench: Bench) -> Iterator[Line]:
    """MPix/s of the U-Net on tensors that lie on the device."""
    device, network = torch.device(bench.device), load_model(unet_run(bench)).network
    full = [(1, 512), (8, 512), (1, 1024), (8, 1024), (1, 2048), (1, 4096), (1, 8192)]
    sides = bench.either([(1, 128), (2, 128), (1, 256)], full)
    best: dict[str, float] = {}
    for precision in PRECISIONS:
        twin = inference_form(network, device, precision)
        for tries in (False, True):
            rates: dict[str, str] = {}
            for batch, side in sides:
                if tries and side > LARGEST_TRIED:
                    continue
                name = f"{batch} x {side}" if batch > 1 else str(side)
                rate = rate_of(bench, twin, batch, side, tries=tries)
                rates[name] = said(rate)
                if not tries and not isinstance(rate, str):
                    best[precision] = max(best.get(precision, 0.0), rate)
            yield Line(
                f"network alone, MPix/s by tile, {precision}{', cudnn.benchmark' if tries else ''}",
                ", ".join(f"{name}: {rate}" for name, rate in rates.items()),
            )
        del twin
    remember(bench, "forward", best)


def rate_of(bench: Bench, network: nn.Module, batch: int, side: int, *, tries: bool) -> float | str:
    """Return MPix/s, or what went wrong."""
    device = torch.device(bench.device)
    try:
        with torch.inference_mode(), full_float32(device):
            torch.backends.cudnn.benchmark = tries and bench.device != "cpu"  # until `full_float32` ends
            pixels = torch.randn(batch, 3, side, side, device=device, dtype=next(network.parameters()).dtype)
            pixels = pixels.contiguous(memory_format=torch.channels_last)
            return batch * side**2 / seconds_of(bench, lambda: network(pixels), bench.either(0.05, 0.4)) / 1e6
    except (torch.OutOfMemoryError, RuntimeError) as error:
        return f"{type(error).__name__} ({str(error)[:80]})"
    finally:
        forget(bench)


def whole_predict(bench: Bench) -> Iterator[Line]:
    """`segkit predict` on a slide, beside the network alone."""
    size, best = bench.either(1024, 16_384), recall(bench, "forward")
    slide = slide_of(bench, size)
    for precision in reversed(PRECISIONS):
        out = bench.folder / precision
        wall = run_command(bench, "predict", slide, unet_run(bench), out, precision)
        yield said_of(f"predict, {size} px, {precision}", out / slide.stem, size, wall, best.get(precision))


def said(rate: float | str) -> str:
    return rate if isinstance(rate, str) else f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def run_command(bench: Bench, name: str, slide: Path, model: Path, out: Path, precision: str) -> float:
    command = [sys.executable, "-m", "segkit", name, str(slide), "--model", str(model), "--out", str(out)]
    command += ["--device", bench.device, "--tissue", "off", "--set", f"compute.precision={precision}"]
    started = time.perf_counter()
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise RuntimeError(f"segkit {name} ended with exit code {ended.returncode}: {ended.stderr[-300:]}")
    return time.perf_counter() - started


def said_of(what: str, folder: Path, size: int, wall: float, best: float | None) -> Line:
    record = json.loads((folder / "run.json").read_text())
    times, plan = record["timings_s"], record["plan"]
    rate = size**2 / times["total"] / 1e6
    share = "" if best is None else f" = {rate / best:.0%} of the network alone"
    waits = ", ".join(f"{name.replace('_', ' ')} {times[name]:.1f}" for name in times if name != "total")
    return Line(
        what,
        f"{rate:,.1f} MPix/s{share}; {times['total']:.1f} s ({waits}), {wall:.1f} s with the start; tiles of "
        f"{plan['tile_px']} px, batch {plan['batch']}, peak {record['peak_memory_bytes'] / 1e9:.1f} GB",
    )


def whole_window(bench: Bench) -> Iterator[Line]:
    """A patch CNN's dense forms on tensors that lie on the device, and `segkit sliding-window` on a slide."""
    device, model = torch.device(bench.device), load_model(points_run(bench))
    assert isinstance(model.network, PatchCNN)
    assert model.spec.detection is not None
    stride, patch_px, best = model.spec.detection.stride, model.network.patch_px, 0.0
    precision: Precision = "float32" if bench.quick else "bfloat16"
    for form in ("fragments", "atrous"):
        dense: DenseForm = form  # type: ignore[assignment]
        layers = inference_form(model.network.layers, device, precision)
        assert isinstance(layers, nn.Sequential)
        network = DenseNetwork(layers, in_channels=3, patch_px=patch_px, stride=stride, form=dense)
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        rates = {side: window_rate(bench, network, side, patch_px) for side in bench.either((128,), (512, 1024, 2048))}
        best = max([best, *(one for one in rates.values() if not isinstance(one, str))])
        yield Line(
            f"dense window alone, {patch_px} px, stride {stride}, MPix/s by tile, {form}, {precision}",
            ", ".join(f"{side}: {said(rate)}" for side, rate in rates.items()),
        )
        del network
    size, out = bench.either(1024, 8192), bench.folder / "window"
    slide = slide_of(bench, size)
    wall = run_command(bench, "sliding-window", slide, points_run(bench), out, precision)
    yield said_of(f"sliding-window, {size} px, stride {stride}, {precision}", out / slide.stem, size, wall, best)


def window_rate(bench: Bench, network: nn.Module, side: int, patch_px: int) -> float | str:
    device, dtype = torch.device(bench.device), next(network.parameters()).dtype
    try:
        with torch.inference_mode(), full_float32(device):
            pixels = torch.randn(1, 3, side + patch_px - 1, side + patch_px - 1, device=device, dtype=dtype)
            pixels = pixels.contiguous(memory_format=torch.channels_last)
            return side**2 / seconds_of(bench, lambda: network(pixels), bench.either(0.05, 0.4)) / 1e6
    except (torch.OutOfMemoryError, RuntimeError) as error:
        return f"{type(error).__name__} ({str(error)[:80]})"
    finally:
        forget(bench)
