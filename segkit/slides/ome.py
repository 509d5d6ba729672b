"""What OME files say about a map: OME-XML of an OME-TIFF, `multiscales` of an OME-Zarr.

Both are plain functions of their arguments: no time, no random identifier, so that the same map makes the same file.
"""

import xml.etree.ElementTree as ET
from typing import Any, NamedTuple

from segkit.slides.pyramid_levels import Reduce

_NAMESPACE = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
_SCHEMA = f"{_NAMESPACE} {_NAMESPACE}/ome.xsd"
_XSI = "http://www.w3.org/2001/XMLSchema-instance"


class Place(NamedTuple):
    """What a map is called and where it lies.

    Attributes
    ----------
    name
        What viewers show.
    mpp
        Micrometres per map pixel, or None where unknown.
    offset_um
        Position (x, y) of its top left corner in micrometres, or None where unknown.
    """

    name: str
    mpp: float | None
    offset_um: tuple[float, float] | None


def ome_xml(place: Place, height: int, width: int) -> bytes:
    """Return the OME-XML of one uint8 channel of `height` x `width` pixels, in ASCII."""
    root = ET.Element("OME", {"xmlns": _NAMESPACE, "xmlns:xsi": _XSI, "xsi:schemaLocation": _SCHEMA})
    image = ET.SubElement(root, "Image", ID="Image:0", Name=place.name)
    sizes = {"SizeX": width, "SizeY": height, "SizeZ": 1, "SizeC": 1, "SizeT": 1}
    scale: dict[str, str] = {}
    if place.mpp is not None:
        for axis in "XY":
            scale |= {f"PhysicalSize{axis}": repr(float(place.mpp)), f"PhysicalSize{axis}Unit": "\N{MICRO SIGN}m"}
    pixels = ET.SubElement(
        image,
        "Pixels",
        {"ID": "Pixels:0", "DimensionOrder": "XYCZT", "Type": "uint8", "SignificantBits": "8"}
        | {key: str(value) for key, value in sizes.items()}
        | scale,
    )
    ET.SubElement(pixels, "Channel", ID="Channel:0:0", SamplesPerPixel="1")
    ET.SubElement(pixels, "TiffData", FirstC="0", FirstZ="0", FirstT="0", IFD="0", PlaneCount="1")
    if place.offset_um is not None:
        position: dict[str, str] = {}
        for axis, value in zip("XY", place.offset_um, strict=True):
            position |= {f"Position{axis}": repr(float(value)), f"Position{axis}Unit": "\N{MICRO SIGN}m"}
        ET.SubElement(pixels, "Plane", {"TheZ": "0", "TheC": "0", "TheT": "0"} | position)
    # Characters outside of ASCII become references, so that it is both UTF-8, as OME wants it, and ASCII, as TIFF does.
    body: bytes = ET.tostring(root, encoding="us-ascii", xml_declaration=False)
    return b'<?xml version="1.0" encoding="UTF-8"?>' + body


def multiscales(place: Place, num_levels: int, reduce: Reduce) -> dict[str, Any]:
    """Return the attributes of an OME-Zarr image (NGFF 0.4) with the axes y and x and levels `0`, `1`, ...

    A position is that of a pixel's centre, counted from the centre of the first pixel of level 0 (plus the offset), as
    viewers take it: pixels of level k, each 2^k of level 0, lie half of what they are larger further on.
    """
    unit = {} if place.mpp is None else {"unit": "micrometer"}
    mpp = 1.0 if place.mpp is None else float(place.mpp)
    # Without a pixel size an offset in micrometres cannot be told in the pixels that the axes then count.
    x, y = (0.0, 0.0) if place.offset_um is None or place.mpp is None else place.offset_um
    datasets = []
    for level in range(num_levels):
        shift = (2**level - 1) / 2 * mpp
        scale = {"type": "scale", "scale": [mpp * 2**level] * 2}
        translation = {"type": "translation", "translation": [y + shift, x + shift]}
        datasets.append({"path": str(level), "coordinateTransformations": [scale, translation]})
    image = {
        "version": "0.4",
        "name": place.name,
        "type": reduce,
        "axes": [{"name": axis, "type": "space", **unit} for axis in "yx"],
        "datasets": datasets,
    }
    return {"multiscales": [image]}
