"""Damaged and odd files from decoders' test suites: no crash, hang, traceback, large allocation or silent nonsense."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from segkit.geometry import Box
from segkit.slides import open_slide

pytestmark = pytest.mark.real_data

# Outside of `valid_edge_tiff`: damaged in their metadata only; the pixels are whole (looked at).
OPENED = {
    "jpeg_pillow/invalid-exif-without-x-resolution.jpg",
    "jpeg_pillow/invalid-exif.jpg",
    "jpeg_pillow/photoshop-200dpi-broken.jpg",
    "jpeg_pillow/truncated_app14.jpg",
    "tiff_image-rs/oor_panic_124.tif",
}
# Valid, and refused by name: colour spaces and compressions that segkit does not read.
REFUSED_VALID = {
    "cmyk-3c-32b-float.tiff": "SEPARATED",
    "cmyk-3c-8b.tiff": "SEPARATED",
    "logluv-3c-16b.tiff": "SGILOG",
    "pillow_hopper.Lab.tif": "CIELAB",
    "pillow_hopper_webp.tif": "WEBP",
}
MAX_RSS_MB = 1000

# Reads all files in one process: a crash or hang ends it, so that it names fewer files than there are.
CHILD = """
import json, signal, sys
from pathlib import Path
from segkit.errors import SegkitError
from segkit.geometry import Box
from segkit.slides import open_slide

for path in sys.stdin.read().splitlines():
    signal.alarm(20)
    try:
        with open_slide(Path(path)) as slide:
            for number, level in enumerate(slide.levels):
                for y in range(0, level.height, 1024):
                    for x in range(0, level.width, 1024):
                        box = Box(y, x, min(1024, level.height - y), min(1024, level.width - x))
                        assert slide.read(box, number).shape == (*box[2:], slide.channels)
        outcome = None
    except SegkitError as error:
        outcome = str(error)
    peak = [int(line.split()[1]) // 1000 for line in open("/proc/self/status") if line.startswith("VmHWM")]
    print(json.dumps([path, outcome, peak[0]]), flush=True)
"""


@pytest.fixture(scope="module")
def outcomes(real_data: Path) -> dict[str, tuple[str | None, int]]:
    """Return message (None where the file could be read) and peak memory in MB so far, by file."""
    files = sorted(path for path in (real_data / "malformed").rglob("*") if path.is_file())
    child = subprocess.run(
        [sys.executable, "-c", CHILD], input="\n".join(map(str, files)), capture_output=True, text=True, check=False
    )
    assert child.stderr == ""
    assert child.returncode == 0
    rows = [json.loads(line) for line in child.stdout.splitlines()]
    assert [row[0] for row in rows] == [str(path) for path in files]
    return {str(Path(path).relative_to(real_data / "malformed")): (message, peak) for path, message, peak in rows}


def test_no_file_takes_a_gigabyte(outcomes: dict[str, tuple[str | None, int]]) -> None:
    assert max(peak for _, peak in outcomes.values()) < MAX_RSS_MB


def test_damaged_files_are_refused_in_one_line_unless_their_pixels_are_whole(
    real_data: Path, outcomes: dict[str, tuple[str | None, int]]
) -> None:
    damaged = {name: message for name, (message, _) in outcomes.items() if not name.startswith("valid_edge_tiff/")}
    assert {name for name, message in damaged.items() if message is None} == OPENED
    for name, message in damaged.items():
        if message is not None:
            assert message.startswith(f"{real_data / 'malformed' / name}: ")
            assert "\n" not in message


def test_valid_files_are_opened_with_the_right_pixels_or_refused_by_name(
    real_data: Path,
    outcomes: dict[str, tuple[str | None, int]],
    simple_pixels: Callable[[tifffile.TiffPage], NDArray[Any]],
) -> None:
    valid = {Path(name).name: message for name, (message, _) in outcomes.items() if name.startswith("valid_edge_tiff/")}
    assert {name for name, message in valid.items() if message is not None} == REFUSED_VALID.keys()
    for name, message in valid.items():
        path = real_data / "malformed" / "valid_edge_tiff" / name
        if message is not None:
            assert REFUSED_VALID[name] in message
            continue
        with open_slide(path) as slide, tifffile.TiffFile(path) as tiff:
            pixels = slide.read(Box(0, 0, slide.height, slide.width))
            np.testing.assert_array_equal(pixels, simple_pixels(tiff.pages.first), err_msg=name)
