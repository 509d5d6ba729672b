"""Writing a whole synthetic section as a pyramid, with its truth as GeoJSON."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from segkit.data.synthetic.nuclei import CLASSES, LOOK_ALIKE, LYMPHOCYTE, MITOTIC_FIGURE, STROMA, TUMOUR
from segkit.data.synthetic.specimen import MPP, SLIDE_RECIPE, Patient, grow, photograph
from segkit.data.synthetic.tissue import Tissue
from segkit.geometry import Box
from segkit.masks import colour_of_class
from segkit.slides.geojson import GeoJSONWriter
from segkit.slides.pyramid import PyramidWriter

_BAND_PX, _BLOCK_PX, _TILE_PX = 512, 1024, 256
_JPEG_QUALITY = 72
_OUTLINE_POINTS = {TUMOUR: 12, LYMPHOCYTE: 9, STROMA: 10}
_POINT_COLOURS = {MITOTIC_FIGURE: (213, 94, 0), LOOK_ALIKE: (86, 180, 233)}


def count_bands(slide_px: int) -> int:
    """Return the number of steps that `write_slide` reports."""
    return -(-slide_px // _BAND_PX)


def write_slide(
    folder: Path,
    rng: np.random.Generator,
    patient: Patient,
    slide_px: int,
    on_band: Callable[[], None],
) -> None:
    """Write `tissue.tif`, `tissue.geojson` (nuclei) and `tissue_figures.geojson` (points) into `folder`.

    Parameters
    ----------
    folder
        Where to write.
    rng
        Source of the section and of the sensor's noise.
    patient
        Whose section it is.
    slide_px
        Height and width of the slide.
    on_band
        Called after each of the `count_bands(slide_px)` bands.
    """
    tissue = grow(rng, patient, SLIDE_RECIPE, slide_px, slide_px)
    writer = PyramidWriter(
        folder / "tissue.tif", slide_px, slide_px, channels=3, tile_px=_TILE_PX, mpp=MPP, reduce="mean",
        compression="jpeg", quality=_JPEG_QUALITY,
    )  # fmt: skip
    with writer:
        for y in range(0, slide_px, _BAND_PX):
            height = min(_BAND_PX, slide_px - y)
            blocks = [
                photograph(rng, patient, tissue, Box(y, x, height, min(_BLOCK_PX, slide_px - x)))
                for x in range(0, slide_px, _BLOCK_PX)
            ]
            writer.write_rows(np.concatenate(blocks, axis=1))
            on_band()
    _write_nuclei(folder / "tissue.geojson", tissue, slide_px)
    _write_figures(folder / "tissue_figures.geojson", tissue)


def _write_nuclei(path: Path, tissue: Tissue, slide_px: int) -> None:
    with GeoJSONWriter(path) as writer:
        for nucleus in tissue.population.nuclei:
            if not (0 <= nucleus.y < slide_px and 0 <= nucleus.x < slide_px):
                continue
            # Half pixels are finer than the truth itself, and keep the file small.
            ring = np.clip(np.round(nucleus.outline(_OUTLINE_POINTS[nucleus.label]) * 2) / 2, 0, slide_px)
            writer.add_polygon(
                [ring], label=CLASSES[nucleus.label], colour=colour_of_class(nucleus.label), object_type="detection"
            )  # fmt: skip


def _write_figures(path: Path, tissue: Tissue) -> None:
    with GeoJSONWriter(path) as writer:
        for figure in tissue.population.figures:
            x, y = round(figure.x + 0.5, 1), round(figure.y + 0.5, 1)
            writer.add_point(x, y, label=figure.label, colour=_POINT_COLOURS[figure.label])
