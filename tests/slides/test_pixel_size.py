"""Micrometres per pixel: each vendor's way, and what is no pixel size."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from segkit.slides import metadata, open_slide


@pytest.mark.parametrize(
    ("description", "mpp"),
    [
        ("Aperio|AppMag = 20|MPP = 0.4990|Left = 25", 0.499),
        ("Aperio|MPP=0.25", 0.25),
        ("Aperio|AppMag = 20", None),
        ("Aperio|MPP = 0|", None),
        ("Aperio|MPP = 999|", None),
    ],
)
def test_aperio(description: str, mpp: float | None) -> None:
    found = metadata.from_aperio(description)
    assert (found.mpp if found else None) == mpp


def ome(attributes: str) -> str:
    return f'<OME xmlns="x"><Image ID="a"><Pixels ID="b" {attributes} SizeX="1"><Channel/></Pixels></Image></OME>'


@pytest.mark.parametrize(
    ("attributes", "mpp"),
    [
        ('PhysicalSizeX="0.25" PhysicalSizeY="0.25"', 0.25),
        ('PhysicalSizeX="0.25" PhysicalSizeXUnit="µm" PhysicalSizeY="0.25" PhysicalSizeYUnit="&#181;m"', 0.25),
        ('PhysicalSizeX="250" PhysicalSizeXUnit="nm" PhysicalSizeY="0.00025" PhysicalSizeYUnit="mm"', 0.25),
        ('PhysicalSizeX="0.2" PhysicalSizeY="0.4"', 0.3),
        ('PhysicalSizeX="1" PhysicalSizeXUnit="pixel" PhysicalSizeY="1" PhysicalSizeYUnit="pixel"', None),
        ('PhysicalSizeX="0.25"', None),
        ('PhysicalSizeX="NaN" PhysicalSizeY="NaN"', None),
        ("", None),
    ],
)
def test_ome(attributes: str, mpp: float | None) -> None:
    found = metadata.from_ome(ome(attributes))
    assert (found.mpp if found else None) == (pytest.approx(mpp) if mpp else None)


def test_ome_takes_the_first_image() -> None:
    first, second = ome('SizeZ="1" PhysicalSizeX="1" PhysicalSizeY="1"'), ome('PhysicalSizeX="2" PhysicalSizeY="2"')
    found = metadata.from_ome(first + second)
    assert found is not None
    assert found.mpp == 1
    assert metadata.ome_pixels_attributes(first)["SizeZ"] == "1"


@pytest.mark.parametrize(
    ("resolution", "unit", "mpp"),
    [
        ((40000, 40000), 3, 0.25),
        ((50800, 50800), 2, 0.5),
        ((20000, 10000), 3, 0.75),
        ((72, 72), 2, None),
        ((600, 600), 2, None),
        ((236.22, 236.22), 3, None),  # 600 dpi
        ((1, 1), 3, None),
        ((40000, 40000), 1, None),
        ((0, 40000), 3, None),
    ],
)
def test_tiff_resolution(resolution: tuple[float, float], unit: int, mpp: float | None) -> None:
    found = metadata.from_resolution(resolution, unit)
    assert (found.mpp if found else None) == (pytest.approx(mpp) if mpp else None)


@pytest.mark.parametrize(
    ("options", "mpp", "source"),
    [
        ({"resolution": (40000, 40000), "resolutionunit": "CENTIMETER"}, 0.25, "TIFF resolution"),
        ({"resolution": (72, 72), "resolutionunit": "INCH"}, None, None),
        ({"imagej": True, "resolution": (4, 4), "metadata": {"unit": "um"}}, 0.25, "ImageJ unit"),
        ({"imagej": True, "resolution": (4, 4), "metadata": {"unit": "inch"}}, None, None),
        ({"ome": True, "metadata": {"PhysicalSizeX": 0.3, "PhysicalSizeY": 0.3}}, 0.3, "OME PhysicalSize"),
        ({}, None, None),
    ],
)
def test_an_open_slide_says_its_mpp_and_where_it_is_from(
    tmp_path: Path, options: dict[str, Any], mpp: float | None, source: str | None
) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((20, 30), np.uint8), **options)
    with open_slide(path) as slide:
        assert slide.mpp == (pytest.approx(mpp) if mpp else None)
        assert slide.properties.get("mpp.source") == source
