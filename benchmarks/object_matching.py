"""How long it takes to measure 100,000 predicted nuclei against as many true ones on a slide, and how much memory.

    OMP_NUM_THREADS=1 python benchmarks/object_matching.py [--size 20000] [--objects 100000] [--images 500]

Both sides are ellipses that are drawn block by block: the predicted ones are moved and stretched a little, 1 in 20 is
missing, 1 in 20 has no true one, 1 in 20 is two that were taken for one, and many overlap several. The slide is never
in memory. Times are processor time, so that other load on the machine counts little, without the drawing; the peak of
memory is of everything, the drawing too. Each line is a process of its own. Afterwards: tables of many images with
their bootstrap.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segkit.evaluation.object_blocks import Block, match_blocks
from segkit.evaluation.object_tables import measure_objects
from segkit.evaluation.objects import match_objects

BLOCK_PX = 2048
FOUND = 0.9  # of the cells have a predicted nucleus
MARGIN = 1  # cells around a block whose nuclei may reach into it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=20_000, help="width and height of the slide, pixels")
    parser.add_argument("--objects", type=int, default=100_000, help="predicted nuclei; there are a few more true ones")
    parser.add_argument("--images", type=int, default=500, help="images of the tables; 0: without them")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(measure_slide(**json.loads(arguments.worker))))
        return
    print("| slide | true | predicted | pairs | overlaps s | tables s | sum s | drawing s | peak MB |")
    print("|---|---|---|---|---|---|---|---|---|")
    # Crowded: nuclei are as large as there is room for, so that nearly all overlap a neighbour's.
    for crowding, words in ((0.7, "loose"), (1.5, "crowded")):
        task = json.dumps({"size": arguments.size, "objects": arguments.objects, "crowding": crowding})
        command = [sys.executable, __file__, "--worker", task]
        row = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        print(
            f"| {words}, {arguments.size} px | {row['true']} | {row['predicted']} | {row['pairs']} "
            f"| {row['overlaps']:.1f} | {row['tables']:.1f} | {row['overlaps'] + row['tables']:.1f} "
            f"| {row['drawing']:.1f} | {row['peak_mb']:.0f} |",
            flush=True,
        )
    if arguments.images:
        measure_tables(arguments.images)


def measure_slide(size: int, objects: int, crowding: float) -> dict[str, float]:
    clock = Clock()
    begin = time.process_time()
    overlaps = match_blocks(clock.timed(blocks_of(Nuclei(size, objects, crowding))))
    matching = time.process_time() - begin - clock.seconds
    begin = time.process_time()
    report = measure_objects(["slide"], [overlaps], name="nucleus", mpp=0.25)
    return {
        "true": report.num_true,
        "predicted": report.num_predicted,
        "pairs": len(overlaps.intersections),
        "overlaps": matching,
        "tables": time.process_time() - begin,
        "drawing": clock.seconds,
        "peak_mb": peak_mb(),
    }


def measure_tables(num_images: int) -> None:
    nuclei = Nuclei(256, 60, 1.0)
    blocks = [next(blocks_of(nuclei.of_seed(seed))) for seed in range(num_images)]
    begin = time.process_time()
    overlaps = [match_objects(*block[:2]) for block in blocks]
    matched = time.process_time() - begin
    names = [f"image{number}" for number in range(num_images)]
    seconds = []
    for num_samples in (1, 1000):
        begin = time.process_time()
        report = measure_objects(names, overlaps, name="nucleus", num_samples=num_samples)
        seconds.append(time.process_time() - begin)
    print(
        f"\n{num_images} images of 256 x 256 pixels with {report.num_true} objects: overlaps {matched:.2f} s, tables "
        f"with 1000 bootstrap samples {seconds[1]:.2f} s, of which the samples {seconds[1] - seconds[0]:.2f} s."
    )


class Nuclei:
    """Ellipses, one true and one predicted in each cell of a grid; `crowding` is their mean diameter in cells."""

    def __init__(self, size: int, objects: int, crowding: float, seed: int = 0) -> None:
        self.size, self.objects, self.crowding = size, objects, crowding
        self.per_side = max(1, round((objects / FOUND) ** 0.5))
        self.pitch = size / self.per_side
        rng = np.random.default_rng(seed)
        shape = (self.per_side, self.per_side)
        cells = np.stack(np.meshgrid(*(np.arange(self.per_side),) * 2, indexing="ij"), axis=-1)
        true_yx = (cells + 0.5 + rng.uniform(-0.2, 0.2, (*shape, 2))) * self.pitch
        true_radii = rng.uniform(0.35, 0.65, (*shape, 2)) * self.pitch * crowding
        found_yx = true_yx + rng.normal(0, 0.06, (*shape, 2)) * self.pitch
        found_radii = true_radii * rng.uniform(0.85, 1.15, (*shape, 2))
        # Two that were taken for one: a nucleus reaches over its neighbour's, which is not found.
        merged = rng.random(shape) < 0.05
        merged[:, -1] = False
        found_yx[merged, 1] += self.pitch / 2
        found_radii[merged, 1] += self.pitch / 2
        missing = rng.random(shape) < 0.05
        missing[:, 1:] |= merged[:, :-1]
        invented = rng.random(shape) < 0.05
        self.true = [true_yx, true_radii, ~invented]
        self.found = [found_yx, found_radii, ~missing]

    def of_seed(self, seed: int) -> "Nuclei":
        """Return others of the same kind."""
        return Nuclei(self.size, self.objects, self.crowding, seed)

    def draw(self, side: list[NDArray[np.generic]], top: int, left: int, height: int, width: int) -> NDArray[np.int32]:
        """Return the ids of a block; a nucleus lies over those of cells before it, in whichever block."""
        labels = np.zeros((height, width), np.int32)
        reach = MARGIN + int(np.ceil(self.crowding))
        first_y, first_x = (max(0, int(start / self.pitch) - reach) for start in (top, left))
        last_y, last_x = (min(self.per_side, int(end / self.pitch) + reach + 1) for end in (top + height, left + width))
        centres, radii, present = side
        for y in range(first_y, last_y):
            for x in range(first_x, last_x):
                if not present[y, x]:
                    continue
                (cy, cx), (ry, rx) = centres[y, x] - (top, left), radii[y, x]
                rows = slice(max(0, int(cy - ry)), max(0, min(height, int(cy + ry) + 2)))
                columns = slice(max(0, int(cx - rx)), max(0, min(width, int(cx + rx) + 2)))
                down = ((np.arange(rows.start, rows.stop) - cy) / ry) ** 2
                across = ((np.arange(columns.start, columns.stop) - cx) / rx) ** 2
                labels[rows, columns][down[:, np.newaxis] + across <= 1] = 1 + y * self.per_side + x
        return labels


def blocks_of(nuclei: Nuclei) -> Iterator[Block]:
    for top in range(0, nuclei.size, BLOCK_PX):
        for left in range(0, nuclei.size, BLOCK_PX):
            window = (top, left, min(BLOCK_PX, nuclei.size - top), min(BLOCK_PX, nuclei.size - left))
            yield nuclei.draw(nuclei.true, *window), nuclei.draw(nuclei.found, *window)


class Clock:
    """Adds up what an iterator itself takes."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def timed(self, blocks: Iterator[Block]) -> Iterator[Block]:
        """Yield what `blocks` yields, and measure how long that takes."""
        while True:
            begin = time.process_time()
            block = next(blocks, None)
            self.seconds += time.process_time() - begin
            if block is None:
                return
            yield block


def peak_mb() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


if __name__ == "__main__":
    main()
