"""Populating a layout with nuclei that do not run into each other."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segkit.data.synthetic.layout import Layout
from segkit.data.synthetic.noise import gradient
from segkit.data.synthetic.nuclei import (
    LOOK_ALIKE,
    LYMPHOCYTE,
    MITOTIC_FIGURE,
    STROMA,
    TUMOUR,
    Chromatin,
    Figure,
    Nucleus,
    draw_figure,
)

_CELL_PX = 48.0
_MARGIN_PX = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Cytology:
    """How the cells of one patient look.

    Attributes
    ----------
    radius_px
        Mean semi-axis of tumour nuclei.
    variation
        Relative spread of their size.
    crowding
        Free space around tumour nuclei: 1 for nuclei that touch, 1.5 for much cytoplasm.
    tumour_density, dark_density
        Haematoxylin concentration of tumour nuclei and of lymphocytes.
    vesicular
        0 for homogeneous, 1 for clear nuclei with a sharp membrane.
    figures
        Mitotic figures, and as many look-alikes, per megapixel of epithelium.
    """

    radius_px: float
    variation: float
    crowding: float
    tumour_density: float
    dark_density: float
    vesicular: float
    figures: float


@dataclass(frozen=True, slots=True)
class Population:
    """The nuclei of a piece of tissue (bodies of figures among them) and the figures."""

    nuclei: tuple[Nucleus, ...]
    figures: tuple[Figure, ...]


class _Occupancy:
    """Discs on a plane, found by a grid of cells."""

    def __init__(self) -> None:
        self._discs: dict[tuple[int, int], list[tuple[float, float, float]]] = defaultdict(list)

    def try_add(self, discs: list[tuple[float, float, float]]) -> bool:
        """Add discs (y, x, radius) unless one of them overlaps an earlier one."""
        if any(self._hits(*disc) for disc in discs):
            return False
        for y, x, radius in discs:
            self._discs[int(y // _CELL_PX), int(x // _CELL_PX)].append((y, x, radius))
        return True

    def _hits(self, y: float, x: float, radius: float) -> bool:
        row, column = int(y // _CELL_PX), int(x // _CELL_PX)
        return any(
            (y - other_y) ** 2 + (x - other_x) ** 2 < (radius + other_radius) ** 2
            for near_row in (row - 1, row, row + 1)
            for near_column in (column - 1, column, column + 1)
            for other_y, other_x, other_radius in self._discs.get((near_row, near_column), ())
        )


def _discs(nucleus: Nucleus, spacing: float, extra_px: float = 0.0) -> list[tuple[float, float, float]]:
    """Cover a nucleus by discs along its major axis, grown by `spacing` and `extra_px`."""
    count = max(1, round(1.3 * nucleus.major / nucleus.minor))
    reach = nucleus.major - nucleus.minor
    cos, sin = np.cos(nucleus.angle), np.sin(nucleus.angle)
    radius = min(nucleus.minor * spacing + extra_px, _CELL_PX / 2)
    discs = []
    for u in np.linspace(-reach, reach, count) if count > 1 else [0.0]:
        v = nucleus.bend * u**2
        discs.append((float(nucleus.y + sin * u + cos * v), float(nucleus.x + cos * u - sin * v), radius))
    return discs


def populate(rng: np.random.Generator, layout: Layout, cytology: Cytology) -> Population:
    """Place figures, tumour nuclei, lymphocytes, vessel walls and fibroblasts, in this order."""
    occupancy = _Occupancy()
    figures = [
        figure for figure in _figures(rng, layout, cytology)
        if occupancy.try_add([(figure.y, figure.x, figure.cell_px)])
    ]  # fmt: skip
    nuclei = [body for figure in figures for body in figure.bodies]
    for place in (_tumour, _lymphocytes, _endothelium, _fibroblasts):
        nuclei += [nucleus for nucleus, discs in place(rng, layout, cytology) if occupancy.try_add(discs)]
    return Population(tuple(nuclei), tuple(figures))


_Placed = Iterator[tuple[Nucleus, list[tuple[float, float, float]]]]


def _candidates(
    rng: np.random.Generator, layout: Layout, per_megapixel: float, probability: NDArray[Any]
) -> NDArray[np.float64]:
    """Random places (N, 2), kept with the probability that a coarse map gives there."""
    height, width = layout.grid.height + 2 * _MARGIN_PX, layout.grid.width + 2 * _MARGIN_PX
    count = round(per_megapixel * height * width / 1e6)
    places = rng.uniform(0, 1, (count, 2)) * [height, width] - _MARGIN_PX
    kept = layout.grid.at(probability.astype(np.float32), places[:, 0], places[:, 1])
    return places[rng.uniform(0, 1, count) < kept]


def _figures(rng: np.random.Generator, layout: Layout, cytology: Cytology) -> Iterator[Figure]:
    # Figures stay inside the image, whole.
    inside = _candidates(rng, layout, 2 * cytology.figures, (layout.nest > 16) & (layout.lumen < -14))
    for index, (y, x) in enumerate(inside):
        if 20 <= y < layout.grid.height - 20 and 20 <= x < layout.grid.width - 20:
            label = MITOTIC_FIGURE if index % 2 == 0 else LOOK_ALIKE
            yield draw_figure(rng, y, x, label, cytology.dark_density)


def _tumour(rng: np.random.Generator, layout: Layout, cytology: Cytology) -> _Placed:
    """Columnar nuclei at right angles to the border where there is a lumen, random ones in solid nests."""
    columnar = layout.recipe.wall_px < 80
    deepest = 0.72 * layout.recipe.wall_px if columnar else 1e4
    gradient_y, gradient_x = gradient(layout.nest)
    places = _candidates(rng, layout, 24000, (layout.nest > 9) & (layout.nest < deepest) & (layout.lumen < -9))
    y, x = places[:, 0], places[:, 1]
    inward = np.arctan2(layout.grid.at(gradient_y, y, x), layout.grid.at(gradient_x, y, x))
    for (place_y, place_x), toward in zip(places, inward, strict=True):
        size = cytology.radius_px * rng.lognormal(0, cytology.variation)
        ratio = rng.uniform(1.5, 2.0) if columnar else rng.uniform(1.05, 1.55)
        major = float(np.clip(size * ratio**0.5, 5.5, 17))
        density = cytology.tumour_density * rng.lognormal(0, 0.36)
        vesicular = float(np.clip(cytology.vesicular + rng.normal(0, 0.25), 0, 1))
        look = Chromatin(
            density=float(np.clip(density * (1.15 - 0.35 * vesicular), 0.2, 1.3)),
            rim=0.1 + 0.55 * vesicular,
            clump=0.12 + 0.16 * vesicular,
            nucleoli=int(rng.binomial(3, 0.15 + 0.4 * vesicular)),
            soft_px=rng.choice([0.7, 0.9, 1.2, 2.2], p=[0.4, 0.3, 0.2, 0.1]),
        )
        nucleus = Nucleus(
            y=place_y,
            x=place_x,
            major=major,
            minor=major / ratio,
            angle=toward + rng.normal(0, 0.25) if columnar else rng.uniform(0, np.pi),
            label=TUMOUR,
            chromatin=look,
            seed=int(rng.integers(2**31)),
            bend=rng.normal(0, 0.004),
            ripple=rng.uniform(0.03, 0.08),
        )
        yield nucleus, _discs(nucleus, (0.88 if columnar else cytology.crowding) * rng.uniform(0.9, 1.15))


def _lymphocytes(rng: np.random.Generator, layout: Layout, cytology: Cytology) -> _Placed:
    """Dense in lymphoid tissue, scattered elsewhere."""
    stroma = (layout.nest < -4) & (layout.tissue > 8) & (layout.fat < -4) & (layout.vessel < -6)
    near_nests = 0.002 + 0.008 * (layout.nest > -60)
    in_nests = 0.0006 * ((layout.nest > 8) & (layout.lumen < -8))
    likely = np.where(stroma, np.maximum(layout.lymphoid, near_nests), in_nests)
    for y, x in _candidates(rng, layout, 40000, likely):
        major = rng.uniform(5.3, 7.7)
        look = Chromatin(
            density=cytology.dark_density * rng.uniform(0.65, 1.15),
            rim=0.12,
            clump=0.24,
            soft_px=rng.uniform(0.7, 1.3),
        )
        nucleus = Nucleus(
            y=y,
            x=x,
            major=major,
            minor=major * rng.uniform(0.76, 1),
            angle=rng.uniform(0, np.pi),
            label=LYMPHOCYTE,
            chromatin=look,
            seed=int(rng.integers(2**31)),
            ripple=rng.uniform(0.02, 0.06),
        )
        yield nucleus, _discs(nucleus, rng.uniform(0.76, 1.1))


def _endothelium(rng: np.random.Generator, layout: Layout, cytology: Cytology) -> _Placed:
    """Flat nuclei in the walls of vessels, along the wall."""
    gradient_y, gradient_x = gradient(layout.vessel)
    places = _candidates(rng, layout, 6000, np.abs(layout.vessel + 3) < 3)
    y, x = places[:, 0], places[:, 1]
    outward = np.arctan2(layout.grid.at(gradient_y, y, x), layout.grid.at(gradient_x, y, x))
    for (place_y, place_x), toward in zip(places, outward, strict=True):
        nucleus = _spindle(rng, place_y, place_x, toward + np.pi / 2, cytology, major=rng.uniform(7, 11))
        yield nucleus, _discs(nucleus, 1.3, 3)


def _fibroblasts(rng: np.random.Generator, layout: Layout, cytology: Cytology) -> _Placed:
    """Spindle nuclei along the fibres, denser near epithelium."""
    stroma = (layout.nest < -5) & (layout.tissue > 6) & (layout.fat < -3) & (layout.vessel < -6)
    likely = stroma * (0.3 + 0.5 * np.exp(np.minimum(layout.nest, 0) / 40)) * (1 - 0.9 * layout.lymphoid)
    places = _candidates(rng, layout, 2600, likely)
    y, x = places[:, 0], places[:, 1]
    angles = 0.5 * np.arctan2(layout.grid.at(layout.flow_sin2, y, x), layout.grid.at(layout.flow_cos2, y, x))
    for (place_y, place_x), angle in zip(places, angles, strict=True):
        nucleus = _spindle(rng, place_y, place_x, angle + rng.normal(0, 0.12), cytology, major=rng.uniform(8, 15))
        yield nucleus, _discs(nucleus, 1.1, rng.uniform(1, 9))


def _spindle(
    rng: np.random.Generator, y: float, x: float, angle: float, cytology: Cytology, *, major: float
) -> Nucleus:
    plump = rng.uniform() < 0.3
    look = Chromatin(
        density=float(rng.uniform(0.5, 0.75) * cytology.dark_density * (0.75 if plump else 1)),
        rim=0.3 if plump else 0.05,
        clump=0.18,
        nucleoli=int(plump),
        soft_px=rng.uniform(0.8, 1.6),
    )
    return Nucleus(
        y=y,
        x=x,
        major=major,
        minor=rng.uniform(4, 5.2) if plump else rng.uniform(2.2, 3.6),
        angle=angle,
        label=STROMA,
        chromatin=look,
        seed=int(rng.integers(2**31)),
        bend=rng.normal(0, 0.008),
        ripple=rng.uniform(0.04, 0.1),
    )
