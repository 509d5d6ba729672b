"""How long a map of a million objects takes from class ids to objects.csv and objects.geojson, and its memory.

    OMP_NUM_THREADS=1 python benchmarks/objects.py [--objects 10000 1000000] [--pitch 24]

The map is a texture of nuclei-like ellipses, some of them touching, some with holes, that repeats every 4083 px, so
that the blocks' borders cut it at ever other places. Each number of objects is a process of its own, with its own peak
memory; blocks are traced row by row, as a prediction does it, and the times of tracing and of joining and writing are
added up: processor time, so that other load on the machine counts little; "clock" is all of it as it passed. Last
comes a map of one large object, a net with a hole for every nucleus.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from segkit.geometry import BLOCK_PX
from segkit.inference.joining import ObjectJoiner
from segkit.inference.object_outputs import ObjectOutputs
from segkit.inference.pieces import trace_block

PERIOD_PX = 4083
CLASSES = ("background", "nucleus", "mitosis")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--pitch", type=int, default=24, help="mean distance of nuclei, pixels")
    parser.add_argument("--net", type=int, default=16384, help="side of the map of the net, pixels; 0: without it")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(measure(**json.loads(arguments.worker))))
        return
    print("| map | objects | points | tracing s | joining + writing s | ms each | clock s | peak MB | above start |")
    print("|---|---|---|---|---|---|---|---|---|")
    tasks = [
        {"size": round((count * 1.03) ** 0.5 * arguments.pitch), "pitch": arguments.pitch, "net": False}
        for count in arguments.objects
    ]
    if arguments.net:
        tasks.append({"size": arguments.net, "pitch": arguments.pitch, "net": True})
    for task in tasks:
        command = [sys.executable, __file__, "--worker", json.dumps(task)]
        row = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        seconds = row["tracing"] + row["joining"]
        print(
            f"| {'net' if task['net'] else 'nuclei'}, {task['size']} px | {row['objects']} | {row['points']} "
            f"| {row['tracing']:.1f} | {row['joining']:.1f} | {seconds / row['objects'] * 1000:.3f} "
            f"| {row['clock']:.1f} | {row['peak_mb']:.0f} | {row['peak_mb'] - row['start_mb']:.0f} |"
        )


def measure(size: int, pitch: int, net: bool) -> dict[str, float]:
    texture = nuclei(pitch)
    if net:
        texture = np.where(texture == 0, 1, 0).astype(np.uint8)
    foreground = (texture > 0) * np.uint8(200) + np.arange(PERIOD_PX, dtype=np.uint8) % 50
    tracing = joining = 0.0
    points = 0
    # The first call of a library loads it.
    trace_block(texture[:64, :64], foreground[:64, :64], len(CLASSES))
    forget_peak()
    start_mb, clock = peak_mb(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        begin = time.process_time()
        with ObjectOutputs(
            Path(folder), CLASSES, origin=(1000.0, 2000.0), downsample=2.0, mpp=0.25, min_area=0.0
        ) as outputs:
            joiner = ObjectJoiner(size, size, len(CLASSES), outputs.add)
            joining += time.process_time() - begin
            for top in range(0, size, BLOCK_PX):
                blocks = []
                for left in range(0, size, BLOCK_PX):
                    rows = np.arange(top, min(top + BLOCK_PX, size)) % PERIOD_PX
                    columns = np.arange(left, min(left + BLOCK_PX, size)) % PERIOD_PX
                    cut = np.ix_(rows, columns)
                    mask, probability = texture[cut], foreground[cut]
                    begin = time.process_time()
                    blocks.append(trace_block(mask, probability, len(CLASSES)))
                    tracing += time.process_time() - begin
                    points += len(blocks[-1]["points"])
                begin = time.process_time()
                joiner.add_row(blocks)
                joining += time.process_time() - begin
            begin = time.process_time()
            joiner.finish()
        joining += time.process_time() - begin
        return {
            "objects": outputs.num_objects,
            "points": points,
            "tracing": tracing,
            "joining": joining,
            "clock": time.perf_counter() - clock,
            "start_mb": start_mb,
            "peak_mb": peak_mb(),
        }


def nuclei(pitch: int) -> NDArray[np.uint8]:
    """Return a texture of ellipses, `PERIOD_PX` wide and high; most of class 1, some of 2, some with a hole."""
    rng = np.random.default_rng(0)
    texture = np.zeros((PERIOD_PX, PERIOD_PX), np.uint8)
    steps = np.arange(pitch // 2, PERIOD_PX, pitch)
    for y, x in np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1).reshape(-1, 2).tolist():
        centre = (
            x + int(rng.integers(-pitch // 5, pitch // 5 + 1)),
            y + int(rng.integers(-pitch // 5, pitch // 5 + 1)),
        )
        axes = tuple((rng.uniform(0.2, 0.42, 2) * pitch).astype(int).tolist())
        angle = float(rng.uniform(0, 180))
        cv2.ellipse(texture, centre, axes, angle, 0, 360, 2 if rng.random() < 0.1 else 1, -1)
        if rng.random() < 0.1:
            cv2.circle(texture, centre, 2, 0, -1)
    # Outlines as ragged as a network's.
    noise = cv2.GaussianBlur(rng.normal(size=texture.shape).astype(np.float32), (0, 0), 1.5)
    texture[(noise > 0.25) & (cv2.erode(texture, np.ones((3, 3), np.uint8)) == 0)] = 0
    return texture


def forget_peak() -> None:
    """Let the kernel (Linux) measure the peak anew."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_mb() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


if __name__ == "__main__":
    main()
