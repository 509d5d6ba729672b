"""Micrometres per pixel from what the vendors write.

Both directions are read where the file has them; `mpp` is their mean, which for the square pixels of every
scanner is either of them.
"""

import math
import re
from dataclasses import dataclass

# Anything outside is not a microscope's pixel but a printing resolution, a missing unit or a typing mistake.
_PLAUSIBLE_UM = (0.05, 50.0)
_PRINTING_DPI = (72, 96, 100, 150, 200, 300, 600)

_UM_PER_UNIT = {
    "m": 1e6,
    "cm": 1e4,
    "mm": 1e3,
    "µm": 1.0,  # micro sign
    "μm": 1.0,  # Greek mu
    "um": 1.0,
    "micron": 1.0,
    "microns": 1.0,
    "\\u00b5m": 1.0,  # as ImageJ escapes it
    "nm": 1e-3,
    "pm": 1e-6,
    "å": 1e-4,
}
_UM_PER_RESOLUTION_UNIT = {2: 25400.0, 3: 10000.0}  # TIFF tag 296: inch, centimetre


@dataclass(frozen=True, slots=True)
class PixelSize:
    """Micrometres per pixel in both directions and where they were found."""

    x_um: float
    y_um: float
    source: str

    @property
    def mpp(self) -> float:
        """Mean of both directions."""
        return (self.x_um + self.y_um) / 2


def _plausible(x_um: float, y_um: float, source: str) -> PixelSize | None:
    low, high = _PLAUSIBLE_UM
    return PixelSize(x_um, y_um, source) if low <= x_um <= high and low <= y_um <= high else None


def from_aperio(description: str) -> PixelSize | None:
    """Return the pixel size of an Aperio ImageDescription (`|MPP = 0.499|`)."""
    found = re.search(r"\bMPP\s*=\s*([0-9]+\.?[0-9]*)", description)
    if found is None:
        return None
    mpp = float(found[1])
    return _plausible(mpp, mpp, "Aperio MPP")


def from_ome(xml: str) -> PixelSize | None:
    """Return the pixel size of the first image of an OME-XML text; the default unit is micrometres."""
    attributes = ome_pixels_attributes(xml)
    sizes = []
    for axis in "XY":
        value = _number(attributes.get(f"PhysicalSize{axis}", ""))
        factor = _UM_PER_UNIT.get(attributes.get(f"PhysicalSize{axis}Unit", "µm").lower())
        if value is None or factor is None:
            return None
        sizes.append(value * factor)
    return _plausible(sizes[0], sizes[1], "OME PhysicalSize")


def ome_pixels_attributes(xml: str) -> dict[str, str]:
    """Return the attributes of the first `Pixels` element of an OME-XML text; empty where there is none.

    A pattern, not an XML parser: these attributes are all that is needed, and text in a hostile file cannot
    expand entities here.
    """
    element = re.search(r"<(?:\w+:)?Pixels\b([^>]*)>", xml)
    if element is None:
        return {}
    attributes = re.findall(r"""(\w+)\s*=\s*(?:"([^"]*)"|'([^']*)')""", element[1])
    return {
        name: (double or single).replace("&#181;", "µ").replace("&#xB5;", "µ") for name, double, single in attributes
    }


def from_imagej(description: str, resolution: tuple[float, float]) -> PixelSize | None:
    """Return the pixel size of an ImageJ description with `unit=`; `resolution` is pixels per unit in x and y."""
    found = re.search(r"^unit=(.+?)\s*$", description, re.MULTILINE)
    factor = _UM_PER_UNIT.get(found[1].lower()) if found else None
    if factor is None or min(resolution) <= 0:
        return None
    return _plausible(factor / resolution[0], factor / resolution[1], "ImageJ unit")


def from_resolution(resolution: tuple[float, float], unit: int) -> PixelSize | None:
    """Return the pixel size of the TIFF resolution tags.

    Parameters
    ----------
    resolution
        Pixels per unit in x and y.
    unit
        Value of ResolutionUnit: 2 inch, 3 centimetre; others say nothing about size.
    """
    um_per_unit = _UM_PER_RESOLUTION_UNIT.get(unit)
    if um_per_unit is None or min(resolution) <= 0:
        return None
    x_um, y_um = um_per_unit / resolution[0], um_per_unit / resolution[1]
    if any(math.isclose(25400 / x_um, dpi, rel_tol=0.002) for dpi in _PRINTING_DPI):
        return None
    return _plausible(x_um, y_um, "TIFF resolution")


def from_numbers(x_um: str | None, y_um: str | None, source: str) -> PixelSize | None:
    """Return the pixel size of two numbers given as text."""
    x, y = _number(x_um or ""), _number(y_um or "")
    return None if x is None or y is None else _plausible(x, y, source)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
