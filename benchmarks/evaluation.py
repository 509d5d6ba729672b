"""How fast evaluations measure: pixels for each core, bootstrap samples, and the page and files of many images.

    OMP_NUM_THREADS=1 python benchmarks/evaluation.py [--images 500] [--repeat 20]

Truths are the synthetic nuclei of `segkit.data.synthetic`, predictions the same, blurred, made noisy, cut at 0.5 and
moved by a pixel. Times are processor time, so that other load on the machine counts little; of the page the wall time
is given, too. Each line is a process of its own, and its peak of memory is of everything in it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from making import machine
from numpy.typing import NDArray
from object_matching import peak_mb
from scipy import ndimage

from segkit.data.synthetic.write import make_field, plan_fields
from segkit.evaluation import surfaces
from segkit.evaluation.calibration import count_of_class
from segkit.evaluation.calibration_tables import stack_calibrations
from segkit.evaluation.image_counts import ComparedImage, count_image
from segkit.evaluation.object_tables import measure_objects
from segkit.evaluation.objects import match_objects
from segkit.evaluation.pixel_tables import measure_pixels
from segkit.evaluation.pixels import confusion
from segkit.evaluation.point_tables import measure_points
from segkit.evaluation.surface_tables import stack_surfaces
from segkit.points import Detections, Points

FIELD_PX, MOSAIC = 512, 8
NUM_FIELDS = 8
NUM_SAMPLES = 1000
SEED = 7
MEGA = 1e6
TOLERANCE_PX = 2.0
RADIUS_PX = 8.0

PIXELS = ("confusion, 2 classes", "confusion, 4 classes", "calibration", "HD95, ASSD and NSD together")
SIZES = {"512 px fields": 1, "4096 px field": MOSAIC}
TABLES = ("pixels", "objects", "points")


class Compared(NamedTuple):
    """Fields with what was predicted of them: class ids, object ids and probabilities, (H, W) each."""

    image: NDArray[np.uint8]
    truth: NDArray[np.uint8]
    labels: NDArray[np.uint16]
    foreground: NDArray[np.uint8]
    prediction: NDArray[np.uint8]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=500, help="of the bootstrap and of the page")
    parser.add_argument("--repeat", type=int, default=20, help="times that each field is measured")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        work, arguments = json.loads(given.worker)
        print(json.dumps(WORKERS[work](**arguments)))
        return
    print(f"{machine()}\n\n| what | result | processor s | peak MB | aim |\n|---|---:|---:|---:|---|", flush=True)
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "fields.npz"
        write_fields(source)
        for what in PIXELS:
            for size in SIZES:
                found = run("pixels", source, what=what, size=size, repeat=given.repeat)
                row(f"{what}, {size}", f"{found['speed']:.0f} MPix/s per core", found, "100")
        for kind in TABLES:
            found = run("tables", source, kind=kind, num_images=given.images)
            what = f"{NUM_SAMPLES:,} bootstrap samples of {given.images} images, {kind}"
            row(what, f"{found['samples']:.2f} s, tables without {found['tables']:.2f} s", found, "2 s")
        found = run("page", source, num_images=given.images)
    result = f"{found['wall']:.1f} s wall, report.html {found['page_mb']:.1f} MB, all files {found['all_mb']:.1f} MB"
    what = f"page and all files of {given.images} images of {FIELD_PX} px, given as masks beside their images"
    row(what, result, found, "60 s, 20 MB")


def run(work: str, source: Path, **arguments: Any) -> dict[str, float]:
    """Do a piece of work in a process of its own."""
    command = [sys.executable, __file__, "--worker", json.dumps([work, {"source": str(source), **arguments}])]
    environment = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **os.environ}
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
    found: dict[str, float] = json.loads(printed.splitlines()[-1])
    return found


def row(what: str, result: str, found: dict[str, float], aim: str) -> None:
    print(f"| {what} | {result} | {found['processor']:.2f} | {found['peak_mb']:.0f} | {aim} |", flush=True)


def write_fields(path: Path) -> None:
    rng = np.random.default_rng(SEED)
    found = []
    for plan in plan_fields(16)[:NUM_FIELDS]:
        field = make_field(SEED, plan, FIELD_PX)
        noise = ndimage.gaussian_filter(rng.standard_normal((FIELD_PX, FIELD_PX)), 3)
        blurred = ndimage.gaussian_filter((field.mask > 0).astype(np.float64), 2) + 0.1 * noise / noise.std()
        foreground = (255 * np.clip(np.roll(blurred, 1, axis=1), 0, 1)).round().astype(np.uint8)
        classes = np.maximum(ndimage.maximum_filter(np.minimum(field.mask, 3), 7), 1)
        prediction = np.where(foreground > 127, classes, 0).astype(np.uint8)
        found.append(Compared(field.image, np.minimum(field.mask, 3), field.labels, foreground, prediction))
    np.savez(path, **{str(number): layer for number, layer in enumerate(map(np.stack, zip(*found, strict=True)))})


def fields(source: str) -> list[Compared]:
    with np.load(source) as stored:
        layers = [stored[str(number)] for number in range(len(Compared._fields))]
    return [Compared(*of_field) for of_field in zip(*layers, strict=True)]


def measure_speed(source: str, what: str, size: str, repeat: int) -> dict[str, float]:
    several = fields(source)
    if SIZES[size] > 1:
        layers = [np.concatenate(layer[:4], axis=1) for layer in zip(*(one[1:] for one in several), strict=True)]
        wide = [np.tile(layer, (SIZES[size], SIZES[size] // 4)) for layer in layers]
        several, repeat = [Compared(np.zeros((0, 0, 3), np.uint8), *wide)], max(1, repeat // 10)
    work: dict[str, Callable[[Compared], object]] = {
        "confusion, 2 classes": lambda one: confusion(one.prediction, one.truth, 2),
        "confusion, 4 classes": lambda one: confusion(one.prediction, one.truth, 4),
        "calibration": lambda one: count_of_class(one.foreground, one.truth, 1),
        "HD95, ASSD and NSD together": distances,
    }
    if what != "confusion, 4 classes":
        several = [
            one._replace(truth=as_foreground(one.truth), prediction=as_foreground(one.prediction)) for one in several
        ]
    for one in several[:2]:
        work[what](one)
    begin = time.process_time()
    for _ in range(repeat):
        for one in several:
            work[what](one)
    seconds = time.process_time() - begin
    pixels = repeat * sum(one.truth.size for one in several)
    return {"speed": pixels / MEGA / seconds, "processor": seconds, "peak_mb": peak_mb()}


def as_foreground(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return (mask > 0).astype(np.uint8)


def distances(one: Compared) -> tuple[float, float, float]:
    tally = surfaces.tally_surfaces(one.prediction > 0, one.truth > 0)
    return surfaces.hausdorff_95_px(tally), surfaces.assd_px(tally), surfaces.nsd(tally, TOLERANCE_PX)


def measure_tables(source: str, kind: str, num_images: int) -> dict[str, float]:
    several = fields(source)
    names = [f"image{number}" for number in range(num_images)]
    make = {"pixels": pixel_tables, "objects": object_tables, "points": point_tables}[kind](several, names)
    make(2)  # what is only done once is done
    seconds = []
    for num_samples in (1, NUM_SAMPLES):
        begin = time.process_time()
        make(num_samples)
        seconds.append(time.process_time() - begin)
    samples = seconds[1] - seconds[0]
    return {"samples": samples, "tables": seconds[0], "processor": seconds[1], "peak_mb": peak_mb()}


def pixel_tables(several: list[Compared], names: list[str]) -> Callable[[int], object]:
    counted = []
    for one in several:
        truth, prediction = as_foreground(one.truth), as_foreground(one.prediction)
        image = ComparedImage(name="", truth=truth, prediction=prediction, mpp=0.5, foreground=one.foreground)
        counted.append(count_image(image, 2, tolerance_px=TOLERANCE_PX))
    counted = [counted[number % len(counted)] for number in range(len(names))]
    return lambda num_samples: measure_pixels(
        names,
        np.stack([one.confusion for one in counted]),
        ("background", "nucleus"),
        surfaces=stack_surfaces([one.surfaces for one in counted], [one.mpp for one in counted], 2),
        calibrations=stack_calibrations([one.calibrations for one in counted]),
        num_samples=num_samples,
    )


def object_tables(several: list[Compared], names: list[str]) -> Callable[[int], object]:
    matched = [match_objects(one.labels, np.roll(one.labels, 2, axis=1)) for one in several]
    overlaps = [matched[number % len(matched)] for number in range(len(names))]
    return lambda num_samples: measure_objects(names, overlaps, name="nucleus", num_samples=num_samples)


def point_tables(several: list[Compared], names: list[str]) -> Callable[[int], object]:
    rng = np.random.default_rng(SEED)
    truths, found = [], []
    for one in several:
        ids = np.arange(1, int(one.labels.max()) + 1)
        places = np.array(ndimage.center_of_mass(one.labels > 0, one.labels, ids)).reshape(-1, 2)
        truths.append(Points(places, np.ones(len(places), np.int64)))
        seen = np.concatenate([places + rng.normal(0, 2, places.shape), rng.uniform(0, FIELD_PX, places.shape)])
        found.append(Detections(seen, np.ones(len(seen), np.int64), np.sort(rng.random(len(seen)))[::-1]))
    places = [number % len(several) for number in range(len(names))]
    return lambda num_samples: measure_points(
        names,
        [found[place] for place in places],
        [truths[place] for place in places],
        ("background", "nucleus"),
        radius_px=RADIUS_PX,
        mpp=0.5,
        areas_px=[FIELD_PX**2] * len(names),
        thresholds=[0.3],
        num_samples=num_samples,
    )


def measure_page(source: str, num_images: int) -> dict[str, float]:
    from PIL import Image

    from segkit.config import EvaluateConfig
    from segkit.workflows.evaluate import evaluate

    several = fields(source)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("data/images", "data/masks", "found"):
            (folder / part).mkdir(parents=True)
        (folder / "data" / "dataset.yaml").write_text("mpp: 0.5\n")
        for number in range(num_images):
            one, first = several[number % len(several)], number < len(several)
            image, mask, found = (
                folder / part / f"{number:04d}.png" for part in ("data/images", "data/masks", "found")
            )
            for path, pixels in ((image, one.image), (mask, as_foreground(one.truth))):
                if first:
                    Image.fromarray(pixels).save(path)
                else:
                    os.link(path.with_name(f"{number % len(several):04d}.png"), path)
            # Each image has a prediction of its own.
            moved = np.roll(one.prediction, (number // 8 % 5, number // 40 % 5), axis=(0, 1))
            Image.fromarray(as_foreground(moved)).save(found)
        begin, wall = time.process_time(), time.perf_counter()
        out = folder / "out"
        evaluate(EvaluateConfig(), prediction=folder / "found", truth=folder / "data", out=out)
        wall, seconds = time.perf_counter() - wall, time.process_time() - begin
        sizes = {path: path.stat().st_size / MEGA for path in out.rglob("*") if path.is_file()}
        return {
            "wall": wall,
            "processor": seconds,
            "page_mb": sizes[out / "report.html"],
            "all_mb": sum(sizes.values()),
            "peak_mb": peak_mb(),
        }


WORKERS: dict[str, Callable[..., dict[str, float]]] = {
    "pixels": measure_speed,
    "tables": measure_tables,
    "page": measure_page,
}


if __name__ == "__main__":
    main()
