"""`segkit predict` beside MONAI: the same weights, slide, cores and number formats.

    python benchmarks/peers.py --monai-python DIR/bin/python [--slide FILE] [--size 8192] [--threads 2] [--repeats 1]

MONAI is no dependency of segkit. It comes into an environment of its own, which needs torch (the same version, or the
comparison says nothing), monai, zarr, tifffile with imagecodecs, and openslide-python with openslide-bin. Without
--monai-python only segkit's rows are made.

*Slide*: a mosaic of --slide, mirrored where it ends, a JPEG pyramid of --size px. *Network*: U-Net, base 32, depth 4,
batch norm, trained on sample_data for two minutes; or --model. (Random weights make 36,000 to 140,000 specks per MPix:
that would measure objects.)
Each row is a process of its own, start of Python and writing of the class map included, on the same --threads cores;
the rows take turns. segkit also writes its objects, pyramid and overview; MONAI writes a tiled TIFF of level 0.

- *window*: `sliding_window_inference` of the whole slide as one tensor, windows of 512 px, overlap 0.25.
- *stream*: `PatchInferer` with `WSISlidingWindowSplitter` (OpenSlide) and `ZarrAvgMerger`, likewise.
- *as shipped*: Gaussian weights (window), one window at a time, default memory layout, float32.
- *best*: channels last, inference mode, bfloat16 by autocast; blending, windows at a time and chunks are those that
  were fastest on the crop. Batch norm is not folded.

*Difference*: largest difference of the probability of foreground, in steps of 1/255 (as predict writes it), between the
tiled result of a crop (--crop px, a slide of its own) and one pass over the whole crop with the same network in the
same number format; *classes changed*: pixels of another class. Pixels nearer to the crop's border than the halo do not
count: there, programs differ in what they put outside of the slide. *Times as fast* compares with the first row.
"""

import argparse
import functools
import json
import math
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

# The process that starts the others imports nothing large: a process begins with the peak memory of the one before.
if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

Command = Callable[[Path, Path], list[str]]

REPOSITORY = Path(__file__).resolve().parent.parent
MPP = 0.5
TRAINING = ["model.base_channels=32", "model.depth=4", "patches.size_px=128", "epochs=3", "steps_per_epoch=40"]
WINDOW_PX, OVERLAP = 512, 0.25
STEP_PX = int(WINDOW_PX * (1 - OVERLAP))
MAX_SOURCE_PX = 8192
TRIES = 2  # of each setting on the crop; the faster one counts
CROP_STEP_PX = 128  # a pass over the whole crop needs a multiple of 2^depth


class Setting(NamedTuple):
    """How MONAI is used; `chunk` is the side of zarr's chunks, 0 for its own choice."""

    method: str
    precision: str
    tuned: bool
    mode: str = "gaussian"
    batch: int = 1
    chunk: int = 0

    @property
    def title(self) -> str:
        """What stands in the table."""
        how = [self.mode] if self.method == "window" else [f"chunks {self.chunk or 'as zarr chooses'}"]
        form = "best" if self.tuned else "as shipped"
        return f"MONAI {self.method}, {form}: {', '.join([*how, f'batch {self.batch}'])}"


class Row(NamedTuple):
    """One row: its title and number format, how to run it on a slide, and how it differs on the crop."""

    title: str
    precision: str
    command: Command
    difference: dict[str, Any] | str


class Ended(NamedTuple):
    """What became of a process."""

    seconds: float
    peak_bytes: int
    output: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--monai-python", type=Path, help="Python of an environment with MONAI")
    parser.add_argument("--slide", type=Path, default=REPOSITORY / "sample_data/slide/tissue.tif")
    parser.add_argument("--model", type=Path, help="a U-Net for RGB, e.g. runs/NAME, instead of training one")
    parser.add_argument("--size", type=int, default=8192, help="side of the slide in pixels")
    parser.add_argument("--crop", type=int, default=2048, help="side of the crop in pixels")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--precision", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--predict-flags", default="--tissue off", help="more flags of `segkit predict`, in one string")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        name, arguments = given.child
        print(json.dumps(CHILDREN[name](**json.loads(arguments))))
        return
    given.crop = min(given.crop, given.size) // CROP_STEP_PX * CROP_STEP_PX
    if given.crop < WINDOW_PX:
        parser.error(f"--size and --crop must be at least {WINDOW_PX}")
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: given.threads])  # of this process and all it starts
    os.environ |= {"OMP_NUM_THREADS": str(given.threads), "MKL_NUM_THREADS": str(given.threads)}
    with tempfile.TemporaryDirectory(prefix="segkit-peers-") as name:
        compare_all(given, Path(name))


def compare_all(given: argparse.Namespace, folder: Path) -> None:
    slide, crop = folder / "slide.tif", folder / "crop.tif"
    given.model = given.model or train(folder)
    made = child("make", source=given.slide, model=given.model, folder=folder, size=given.size, crop=given.crop)
    print(f"{processor()}, {given.threads} threads, torch {made['torch']}, {given.size} px; {made['network']}\n")
    rows = list(all_rows(given, folder, crop, made["halo"]))
    runs: dict[str, list[Ended | str]] = {row.title + row.precision: [] for row in rows}
    for _ in range(given.repeats):
        for row in rows:
            with tempfile.TemporaryDirectory(dir=folder) as out:
                note(f"{row.title}, {row.precision}: {given.size} px")
                ended = attempt(functools.partial(run, row.command(slide, Path(out))))
                runs[row.title + row.precision].append(ended)
    print(
        "| program | format | wall s | MPix/s | times as fast | peak MB | difference | classes changed, px per MPix |"
    )
    print("|---|---|---|---|---|---|---|---|")
    baseline: float | None = None
    for row in rows:
        failures = [one for one in runs[row.title + row.precision] if isinstance(one, str)]
        if failures:
            print(f"| {row.title} | {row.precision} | failed: {failures[0]} | | | | | |")
            continue
        done = [one for one in runs[row.title + row.precision] if isinstance(one, Ended)]
        seconds = statistics.median(one.seconds for one in done)
        baseline = baseline or seconds
        cells = [row.title, row.precision, f"{seconds:.1f}", f"{given.size**2 / seconds / 1e6:.2f}"]
        cells += [f"{baseline / seconds:.2f}", f"{max(one.peak_bytes for one in done) / 1e6:,.0f}"]
        if isinstance(row.difference, str):
            cells += [f"failed: {row.difference}", ""]
        else:
            cells += [f"{row.difference['steps']}/255", f"{row.difference['changed_per_mpix']:,.0f}"]
        print("| " + " | ".join(cells) + " |", flush=True)


def train(folder: Path) -> Path:
    """Train the network and return its run folder."""
    note("training")
    command = [sys.executable, "-m", "segkit", "train", "--data", str(REPOSITORY / "sample_data")]
    command += ["--config", str(REPOSITORY / "configs/sample.yaml"), "--out", str(folder / "run")]
    run([*command, *(f"--set={assignment}" for assignment in TRAINING)])
    return folder / "run"


def all_rows(given: argparse.Namespace, folder: Path, crop: Path, halo: int) -> Iterator[Row]:
    """Yield the rows; the best settings are looked for, and differences found, on the way."""
    if given.monai_python:
        for setting in monai_settings(given, folder, crop):
            kept = folder / "kept.npz"

            def of_passes(setting: Setting = setting, kept: Path = kept) -> Any:
                run(monai_command(given, folder, setting, kept=kept)(crop, folder))
                return child("difference_of_passes", kept=kept, halo=halo)

            yield Row(setting.title, setting.precision, monai_command(given, folder, setting), attempt(of_passes))
    for precision in given.precision:
        command = segkit_command(given, precision)

        def of_files(precision: str = precision, command: Command = command) -> Any:
            out = folder / f"crop_{precision}"
            run([*command(crop, out), "--probability"])
            files = {"out": out / crop.stem, "crop": crop, "folder": folder}
            return child("difference_of_files", **files, precision=precision, halo=halo)

        yield Row("segkit predict", precision, command, attempt(of_files))


def monai_settings(given: argparse.Namespace, folder: Path, crop: Path) -> Iterator[Setting]:
    """Yield for each method the setting as shipped, and the fastest of the tuned ones in each number format."""
    tries: dict[str, list[dict[str, Any]]] = {
        "window": [{"mode": mode, "batch": batch} for mode in ("constant", "gaussian") for batch in (1, 4)],
        "stream": [{"chunk": chunk, "batch": batch} for chunk in (128, STEP_PX) for batch in (1, 4)],
    }
    for method, options in tries.items():
        yield Setting(method, "float32", tuned=False)
        for precision in given.precision:
            settings = [Setting(method, precision, tuned=True, **option) for option in options]
            seconds = dict.fromkeys(settings, math.inf)
            for setting in settings * TRIES:
                ended = attempt(functools.partial(run, monai_command(given, folder, setting)(crop, folder)))
                if isinstance(ended, Ended):
                    took = json.loads(last_line(ended.output))
                    note(f"{setting.title}, {precision}: {took:.1f} s on the crop")
                    seconds[setting] = min(seconds[setting], took)
            yield min(seconds, key=lambda one: seconds[one])


def monai_command(given: argparse.Namespace, folder: Path, setting: Setting, *, kept: Path | None = None) -> Command:
    def command(slide: Path, out: Path) -> list[str]:
        arguments = {"slide": slide, "out": out, "folder": folder, "setting": setting._asdict(), "kept": kept}
        return [str(given.monai_python), __file__, "--child", "monai", json.dumps(arguments, default=str)]

    return command


def segkit_command(given: argparse.Namespace, precision: str) -> Command:
    def command(slide: Path, out: Path) -> list[str]:
        beginning = [sys.executable, "-m", "segkit", "predict", str(slide), "--model", str(given.model)]
        return [*beginning, "--out", str(out), "--precision", precision, *shlex.split(given.predict_flags)]

    return command


def run(command: Sequence[str]) -> Ended:
    """Run a process to its end, with its wall time and its own peak memory.

    Raises
    ------
    RuntimeError
        It failed; the message is the last line that it wrote.
    """
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "PYTHONWARNINGS": "ignore"}
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=errors, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        errors.seek(0)
        if process.returncode:
            told = errors.read().strip().splitlines() or ["no word"]
            raise RuntimeError(f"exit code {process.returncode}: {told[-1][:200]}")
        return Ended(seconds, usage.ru_maxrss * 1024, output.read())


def attempt(work: Callable[[], Any]) -> Any:
    """Return what `work` does, or why it failed: that memory does not suffice is a result, too."""
    try:
        return work()
    except RuntimeError as error:
        note(f"failed: {error}")
        return str(error)


def child(name: str, **arguments: object) -> Any:
    ended = run([sys.executable, __file__, "--child", name, json.dumps(arguments, default=str)])
    return json.loads(last_line(ended.output))


def last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2]  # libraries print, too


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


# What follows runs in processes of its own.


def make(source: str, model: str, folder: str, size: int, crop: int) -> dict[str, Any]:
    """Write the slide, the crop from its middle (without loss), and the weights as MONAI's processes read them."""
    import numpy as np
    import torch

    from segkit.geometry import Box, mirror_indices
    from segkit.models.model_file import load_model
    from segkit.slides import open_slide
    from segkit.slides.pyramid import PyramidWriter

    with open_slide(Path(source)) as slide:
        height, width = min(slide.height, MAX_SOURCE_PX), min(slide.width, MAX_SOURCE_PX)
        pixels = slide.read(Box((slide.height - height) // 2, (slide.width - width) // 2, height, width))
    # From the middle where the slide is larger: its corners are glass.
    rows, columns = (mirror_indices(max(side - size, 0) // 2, size, side) for side in (height, width))
    out = Path(folder)
    jpeg = PyramidWriter(
        out / "slide.tif", size, size, channels=3, tile_px=256, mpp=MPP, reduce="mean", compression="jpeg"
    )
    with jpeg as writer:
        for y in range(0, size, 256):
            writer.write_rows(pixels[rows[y : y + 256]][:, columns])
    middle = slice((size - crop) // 2, (size - crop) // 2 + crop)
    with PyramidWriter(out / "crop.tif", crop, crop, channels=3, tile_px=256, mpp=MPP, reduce="mean") as writer:
        writer.write_rows(np.ascontiguousarray(pixels[rows[middle]][:, columns[middle]]))
    loaded = load_model(Path(model))
    content = {
        "weights": loaded.unet.state_dict(),
        "arguments": loaded.spec.arguments.model_dump(),
        "mean": loaded.spec.mean,
        "std": loaded.spec.std,
    }
    torch.save(content, out / "weights.pt")
    arguments = loaded.spec.arguments.model_dump()
    return {
        "torch": torch.__version__,
        "halo": loaded.grid.halo,
        "network": f"U-Net {arguments['form']}, base {arguments['base_channels']}, depth {arguments['depth']}",
    }


def monai(slide: str, out: str, folder: str, setting: dict[str, Any], kept: str | None) -> float:
    """Predict a slide with MONAI; return the seconds from reading to the written map, without imports.

    With `kept`, foreground and classes of the tiled and of the whole pass are written there.
    """
    import monai.inferers  # noqa: F401 (before the clock runs)
    import numpy as np
    import tifffile
    import torch

    from segkit.models.unet import UNet

    chosen = Setting(**setting)
    content = torch.load(Path(folder) / "weights.pt", weights_only=True)
    network = UNet(**content["arguments"]).eval()
    network.load_state_dict(content["weights"])
    mean, std = (torch.tensor(content[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    form = torch.channels_last if chosen.tuned else torch.contiguous_format
    network = network.to(memory_format=form)  # type: ignore[call-overload]

    def normalised(images: "torch.Tensor") -> "torch.Tensor":
        return images.float().div_(255).sub_(mean).div_(std)

    def scores_of(images: "torch.Tensor") -> "torch.Tensor":
        with autocast(chosen.precision):
            return network(images.contiguous(memory_format=form)).float()  # type: ignore[no-any-return]

    method = monai_window if chosen.method == "window" else functools.partial(monai_stream, network.head.out_channels)
    started = time.perf_counter()
    with torch.inference_mode() if chosen.tuned else torch.no_grad():
        scores = method(slide, Path(out), chosen, normalised, scores_of)
    seconds = time.perf_counter() - started
    if kept is not None:
        with torch.inference_mode():
            image = torch.from_numpy(tifffile.imread(slide, key=0)).permute(2, 0, 1)[None]
            whole = scores_of(normalised(image))
        tiled = torch.from_numpy(np.asarray(scores[:]))  # of a zarr array, or of a tensor
        save_passes(Path(kept), tiled, whole)
    return seconds


def monai_window(slide: str, out: Path, chosen: Setting, normalised: Any, scores_of: Any) -> "torch.Tensor":
    import tifffile
    import torch
    from monai.inferers import sliding_window_inference

    image = normalised(torch.from_numpy(tifffile.imread(slide, key=0)).permute(2, 0, 1)[None])
    scores: torch.Tensor = sliding_window_inference(
        image, (WINDOW_PX, WINDOW_PX), chosen.batch, scores_of, overlap=OVERLAP, mode=chosen.mode
    )
    classes = scores[0].argmax(dim=0).to(torch.uint8).numpy()
    tifffile.imwrite(out / "mask.tif", classes, tile=(512, 512), compression="deflate")
    return scores


def monai_stream(num_classes: int, slide: str, out: Path, chosen: Setting, normalised: Any, scores_of: Any) -> Any:
    import numpy as np
    import openslide
    import tifffile
    from monai.inferers import PatchInferer
    from monai.inferers.merger import ZarrAvgMerger
    from monai.inferers.splitter import WSISlidingWindowSplitter

    with openslide.OpenSlide(slide) as opened:
        width, height = opened.dimensions
    # The merger needs the size of the grid of windows, and three stores of its own: what it makes by itself are two
    # temporary folders of which the first is gone at once (MONAI 1.6.1 with zarr 3).
    grid = [STEP_PX * max(-(-(size - WINDOW_PX) // STEP_PX), 0) + WINDOW_PX for size in (height, width)]
    inferer = PatchInferer(
        WSISlidingWindowSplitter((WINDOW_PX, WINDOW_PX), overlap=OVERLAP, reader="OpenSlide"),
        merger_cls=ZarrAvgMerger,
        batch_size=chosen.batch,
        preprocessing=lambda images: normalised(images.as_tensor() if hasattr(images, "as_tensor") else images),
        merged_shape=(1, num_classes, *grid),
        cropped_shape=(1, num_classes, height, width),
        store=str(out / "scores.zarr"),
        value_store=str(out / "values.zarr"),
        count_store=str(out / "counts.zarr"),
        chunks=(1, num_classes, chosen.chunk, chosen.chunk) if chosen.chunk else True,
    )
    scores = inferer([slide], scores_of)

    def tiles() -> Iterator["NDArray[np.uint8]"]:
        for y in range(0, height, 512):
            band = np.asarray(scores[0, :, y : y + 512]).argmax(axis=0).astype(np.uint8)
            padded = np.pad(band, ((0, 512 - len(band)), (0, -width % 512)))
            yield from (padded[:, x : x + 512] for x in range(0, width, 512))

    tifffile.imwrite(
        out / "mask.tif", tiles(), shape=(height, width), dtype=np.uint8, tile=(512, 512), compression="deflate"
    )
    return scores


def autocast(precision: str) -> AbstractContextManager[Any]:
    import torch

    return torch.autocast("cpu", torch.bfloat16) if precision == "bfloat16" else nullcontext()


def save_passes(path: Path, tiled: "torch.Tensor", whole: "torch.Tensor") -> None:
    import numpy as np

    foregrounds, classes = zip(*(quantised(scores) for scores in (tiled, whole)), strict=True)
    np.savez(path, foregrounds=foregrounds, classes=classes)


def quantised(scores: "torch.Tensor") -> "tuple[NDArray[np.uint8], NDArray[np.uint8]]":
    """Return foreground (0..255) and classes, both uint8 (H, W), of scores (1, classes, H, W), as segkit does."""
    import torch

    exponentials = torch.exp(scores - scores.amax(dim=1, keepdim=True))
    total = exponentials[:, 0]
    for one in range(1, exponentials.shape[1]):
        total = total + exponentials[:, one]
    probabilities = exponentials / total[:, None]
    foreground = ((1 - probabilities[0, 0]) * 255).round().to(torch.uint8)
    return foreground.numpy(), probabilities[0].argmax(dim=0).to(torch.uint8).numpy()


def difference_of_passes(kept: str, halo: int) -> dict[str, float]:
    import numpy as np

    with np.load(kept) as arrays:
        return difference(arrays["foregrounds"], arrays["classes"], halo)


def difference_of_files(out: str, crop: str, folder: str, precision: str, halo: int) -> dict[str, float]:
    """Compare what `segkit predict` wrote for the crop with one pass of its network over all of it."""
    import tifffile
    import torch

    from segkit.models.inference_form import inference_form
    from segkit.models.unet import UNet

    content = torch.load(Path(folder) / "weights.pt", weights_only=True)
    network = UNet(**content["arguments"])
    network.load_state_dict(content["weights"])
    mean, std = (torch.tensor(content[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    scale, shift = 1 / (255 * std), -mean / std
    image = torch.from_numpy(tifffile.imread(crop, key=0)).permute(2, 0, 1)[None] * scale + shift
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    with torch.inference_mode():
        network = inference_form(network, torch.device("cpu"), "bfloat16" if precision == "bfloat16" else "float32")
        scores = network(image.to(dtype).contiguous(memory_format=torch.channels_last)).float()
    foreground, classes = quantised(scores)
    return difference(
        (tifffile.imread(Path(out) / "probability.tif", key=0), foreground),
        (tifffile.imread(Path(out) / "mask.tif", key=0), classes),
        halo,
    )


def difference(foregrounds: Any, classes: Any, halo: int) -> dict[str, float]:
    """Compare two passes further inside than what lies outside has an influence."""
    import numpy as np

    inner = slice(halo, -halo)
    steps = np.abs(np.subtract(*(one[inner, inner].astype(np.int16) for one in foregrounds)))
    changed = np.not_equal(*(one[inner, inner] for one in classes))
    return {"steps": int(steps.max()), "changed_per_mpix": float(changed.mean() * 1e6)}


CHILDREN: dict[str, Callable[..., Any]] = {
    "make": make,
    "monai": monai,
    "difference_of_passes": difference_of_passes,
    "difference_of_files": difference_of_files,
}


if __name__ == "__main__":
    main()
