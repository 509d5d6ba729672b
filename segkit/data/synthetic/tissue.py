"""From a layout and its nuclei to stain concentrations, block by block."""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from segkit.data.synthetic.layout import Layout
from segkit.data.synthetic.noise import FloatMap, NoisePlane, smear_along, smoothstep
from segkit.data.synthetic.nuclei import TUMOUR, Nucleus
from segkit.data.synthetic.placement import Population
from segkit.geometry import Box

NOISE_SIGMAS = (0.8, 1.5, 3.0, 6.0, 12.0)
_MARGIN_PX = 32
_BUCKET_PX = 256


@dataclass(frozen=True, slots=True)
class Concentrations:
    """Stain per pixel, (H, W) float32, 0 = none: haematoxylin, eosin and the red of blood."""

    haematoxylin: FloatMap
    eosin: FloatMap
    blood: FloatMap


@dataclass(frozen=True, slots=True, kw_only=True)
class Staining:
    """How strongly the parts of a patient's tissue take up stain: concentrations of the parts other than nuclei."""

    collagen: float = 0.62
    stroma_haematoxylin: float = 0.06
    cytoplasm_eosin: float = 0.34
    cytoplasm_haematoxylin: float = 0.22


@dataclass(frozen=True)
class Tissue:
    """A piece of tissue that can be looked at block by block."""

    layout: Layout
    population: Population
    staining: Staining
    plane: NoisePlane

    @cached_property
    def cells(self) -> cKDTree:
        """Centres of the epithelial cells."""
        centres = [(n.y, n.x) for n in self.population.nuclei if n.label == TUMOUR]
        return cKDTree(np.array(centres or [(-1e6, -1e6), (-2e6, -2e6)]))

    @cached_property
    def _buckets(self) -> dict[tuple[int, int], list[int]]:
        """Indices of the nuclei whose box touches a square of the plane."""
        buckets: dict[tuple[int, int], list[int]] = {}
        for index, nucleus in enumerate(self.population.nuclei):
            box = nucleus.box
            for row in range(box.y // _BUCKET_PX, (box.bottom - 1) // _BUCKET_PX + 1):
                for column in range(box.x // _BUCKET_PX, (box.right - 1) // _BUCKET_PX + 1):
                    buckets.setdefault((row, column), []).append(index)
        return buckets

    def nuclei_in(self, box: Box) -> list[int]:
        """Return the indices of the nuclei that may reach into `box`, in order."""
        found: set[int] = set()
        for row in range(box.y // _BUCKET_PX, (box.bottom - 1) // _BUCKET_PX + 1):
            for column in range(box.x // _BUCKET_PX, (box.right - 1) // _BUCKET_PX + 1):
                found.update(self._buckets.get((row, column), ()))
        return sorted(found)

    def instances(self, box: Box) -> NDArray[np.uint16]:
        """Return the index + 1 of the nucleus at each pixel of `box`, 0 for none; earlier nuclei lie on top."""
        labels = np.zeros((box.height, box.width), np.uint16)
        for index in self.nuclei_in(box):
            nucleus = self.population.nuclei[index]
            common = nucleus.box.intersect(box)
            if common.area == 0:
                continue
            inside = nucleus.depth()[common.shift(-nucleus.box.y, -nucleus.box.x).slices] >= 0
            window = labels[common.shift(-box.y, -box.x).slices]
            window[inside & (window == 0)] = index + 1
        return labels

    def concentrations(self, box: Box) -> Concentrations:
        """Return the stain concentrations in `box`."""
        wide = box.expand(_MARGIN_PX)
        painter = _Painter(self, wide)
        painter.paint()
        inner = box.shift(-wide.y, -wide.x).slices
        parts = (painter.haematoxylin, painter.eosin, painter.blood)
        return Concentrations(*(np.ascontiguousarray(part[inner]) for part in parts))


class _Painter:
    """Paints one block, layer over layer."""

    def __init__(self, tissue: Tissue, box: Box) -> None:
        self.tissue, self.layout, self.staining, self.box = tissue, tissue.layout, tissue.staining, box
        shape = (box.height, box.width)
        self.haematoxylin = np.zeros(shape, np.float32)
        self.eosin = np.zeros(shape, np.float32)
        self.blood = np.zeros(shape, np.float32)

    def paint(self) -> None:
        section = smoothstep(self._read(self.layout.tissue) + 2 * self._noise(3.0, 1), -1.5, 2.5)
        if not section.any():
            return
        self._stroma()
        self._fat()
        self._vessels()
        self._epithelium()
        self._shadows()
        self._cells_of_figures()
        thickness = section * self._read(self.layout.thickness)
        self.haematoxylin *= thickness
        self.eosin *= thickness
        self.blood *= thickness
        self._nuclei()

    def _noise(self, sigma: float, layer: int) -> FloatMap:
        return self.tissue.plane.read(self.box, sigma, layer)

    def _read(self, coarse: FloatMap) -> FloatMap:
        return self.layout.grid.read(coarse, self.box)

    def _blend(self, cover: FloatMap, haematoxylin: FloatMap | float, eosin: FloatMap | float) -> None:
        """Replace what lies there by the given concentrations where `cover` is 1."""
        self.haematoxylin += cover * (haematoxylin - self.haematoxylin)
        self.eosin += cover * (eosin - self.eosin)
        self.blood *= 1 - cover

    def _stroma(self) -> None:
        channels = [self._noise(6.0, 2), self._noise(3.0, 3), self._noise(0.8, 4), self._noise(1.5, 5)]
        fibres = smear_along(
            np.stack(channels, axis=-1), self._read(self.layout.flow_cos2), self._read(self.layout.flow_sin2), 20
        )
        bundle, strand, fibril, streak = (
            fibres[..., index] / np.float32(spread) for index, spread in enumerate((0.62, 0.45, 0.2, 0.3))
        )
        loose, lymphoid = self._read(self.layout.loose), self._read(self.layout.lymphoid)
        # Dense collagen: bundles with slits between them. Loose stroma: thin fibres on a pale ground.
        wide = smoothstep(bundle + 0.45 * strand + 2.6 * loose, 2.2, 2.9)
        narrow = smoothstep(strand + 0.3 * fibril + 1.6 * loose, 2.0, 2.8)
        slits = np.maximum(wide, 0.8 * narrow)
        threads = np.exp(-((strand / 0.3) ** 2))
        dense = (1 - 0.93 * slits) * (1 - 0.12 * threads)
        thin = 0.2 + 0.6 * threads * smoothstep(fibril + bundle, -1.0, 1.0)
        cover = dense + smoothstep(loose + 0.08 * bundle, 0.35, 0.8) * (thin - dense)
        cover *= 1 - 0.55 * lymphoid
        uneven = 0.9 + 0.07 * strand + 0.1 * fibril + 0.1 * self._noise(12.0, 3) + 0.08 * self._noise(1.5, 3)
        eosin = self.staining.collagen * cover * uneven
        basophilic = np.clip(0.3 + 0.6 * self._read(self.layout.basophilia), 0, 2)
        haematoxylin = self.staining.stroma_haematoxylin * (0.5 + 0.6 * cover + 0.2 * streak)
        haematoxylin += 0.15 * basophilic * (0.35 + cover) * (1 + 0.3 * self._noise(3.0, 6) + 0.3 * fibril)
        haematoxylin += 0.06 * lymphoid * (1 + 0.5 * self._noise(3.0, 7))
        smear = self._read(self.layout.crush) * smoothstep(streak + 0.5 * strand + 0.5 * self._noise(6.0, 27), 0.2, 2.2)
        self.haematoxylin += np.maximum(haematoxylin, 0) + 0.45 * smear
        self.eosin += np.maximum(eosin, 0)
        bleeding = smoothstep(self._read(self.layout.bleeding), 0.2, 0.6)
        self.blood += bleeding * self._red_cells()

    def _red_cells(self) -> FloatMap:
        """Closely packed red cells, 0 to about 0.8."""
        gap = self._cell_gap(pitch=11, spread=0.45, wobble_px=0.8)
        packed = smoothstep(gap + 0.8 * self._noise(6.0, 11), 0.6, 2.6)
        return (0.12 + 0.88 * packed) * (0.5 + 0.12 * self._noise(3.0, 11))

    def _cell_gap(self, *, pitch: int, spread: float, wobble_px: float) -> FloatMap:
        """Distance in pixels to the second nearest minus that to the nearest point of a jittered grid."""
        rows = np.arange(self.box.y // pitch - 2, self.box.bottom // pitch + 3)
        columns = np.arange(self.box.x // pitch - 2, self.box.right // pitch + 3)
        row, column = (part.ravel() for part in np.meshgrid(rows, columns, indexing="ij"))
        centres = np.stack([row, column], axis=1) + 0.5 + spread * self.tissue.plane.jitter(row, column)
        y, x = np.mgrid[self.box.y : self.box.bottom, self.box.x : self.box.right].astype(np.float32)
        y, x = y + wobble_px * self._noise(12.0, 8), x + wobble_px * self._noise(12.0, 9)
        halved = np.stack([y[::2, ::2].ravel(), x[::2, ::2].ravel()], axis=1)
        distances, _ = cKDTree(centres * pitch).query(halved, k=2)
        return self._doubled((distances[:, 1] - distances[:, 0]).reshape(y[::2, ::2].shape))

    def _doubled(self, halved: NDArray[np.floating]) -> FloatMap:
        size = (self.box.width, self.box.height)
        return np.asarray(cv2.resize(halved.astype(np.float32), size, interpolation=cv2.INTER_LINEAR))

    def _fat(self) -> None:
        fat = self._read(self.layout.fat)
        if fat.max() <= 0:
            return
        gap = self._cell_gap(pitch=88, spread=0.42, wobble_px=9) + 1.5 * self._noise(3.0, 9)
        wall = np.exp(-((gap / 3) ** 2)) * (0.8 + 0.3 * self._noise(6.0, 9))
        cover = smoothstep(fat + 4 * self._noise(6.0, 8), 0, 5)
        self._blend(cover, 0.1 * wall + 0.01, 0.3 * wall + 0.015)

    def _vessels(self) -> None:
        vessel = self._read(self.layout.vessel)
        if vessel.max() <= 0:
            return
        wall = smoothstep(vessel, -5, -2)
        self._blend(0.7 * wall, 0.08, self.staining.collagen * 0.8)
        lumen = smoothstep(vessel + 0.7 * self._noise(3.0, 10), -0.5, 1.0)
        self._blend(lumen, 0.01, 0.03)
        self.blood += lumen * self._red_cells() * smoothstep(self._noise(12.0, 10), -0.9, -0.3)

    def _epithelium(self) -> None:
        nest = self._read(self.layout.nest) + 1.3 * self._noise(6.0, 13)
        if nest.max() <= -3:
            return
        # A cleft often opens between nest and stroma.
        cleft = np.exp(-(((nest + 1.5) / 2.2) ** 2)) * smoothstep(self._noise(12.0, 14), 0.3, 1.2)
        self._blend(0.85 * cleft, 0.01, 0.02)
        border, tone = self._cell_borders()
        granular = 1 + 0.1 * self._noise(0.8, 15) + 0.12 * self._noise(1.5, 16) + 0.15 * self._noise(6.0, 16)
        basophilic = np.clip(0.9 + 0.45 * self._read(self.layout.basophilia), 0.1, 2.2)
        haematoxylin = self.staining.cytoplasm_haematoxylin * basophilic * granular * (1 + 0.35 * tone)
        eosin = self.staining.cytoplasm_eosin * granular * (1 - 0.2 * tone) * (1 + 0.35 * border)
        haematoxylin *= 1 - 0.3 * border
        vacuoles = 1 - 0.8 * smoothstep(self._noise(3.0, 25), 2.1, 2.6)
        haematoxylin, eosin = haematoxylin * vacuoles, eosin * vacuoles
        self._blend(smoothstep(nest, -1, 1.5), np.maximum(haematoxylin, 0), np.maximum(eosin, 0))
        self._lumens()

    def _cell_borders(self) -> tuple[FloatMap, FloatMap]:
        """Closeness to the border between two cells (0 to 1) and a tone of each cell (about -1 to 1)."""
        y, x = np.mgrid[self.box.y : self.box.bottom : 2, self.box.x : self.box.right : 2]
        distances, nearest = self.tissue.cells.query(np.stack([y.ravel(), x.ravel()], axis=1), k=2)
        gap = self._doubled((distances[:, 1] - distances[:, 0]).reshape(y.shape)) + self._noise(3.0, 17)
        tone = np.sin(nearest[:, 0].reshape(y.shape) * 12.9898).astype(np.float32)
        return np.exp(-((gap / 2.2) ** 2)), self._doubled(cv2.GaussianBlur(tone, (0, 0), 1.2))

    def _lumens(self) -> None:
        lumen = self._read(self.layout.lumen) + 1.5 * self._noise(3.0, 18)
        if lumen.max() <= 0:
            return
        recipe = self.layout.recipe
        cover = smoothstep(lumen, -1, 1.5)
        if recipe.necrosis:
            grain = self._noise(1.5, 19) + self._noise(3.0, 19) + 0.7 * self._noise(6.0, 19)
            clots = smoothstep(grain + 0.5 * self._noise(12.0, 19), -4.0, 4.0)
            dust = smoothstep(self._noise(1.5, 20) + 0.5 * self._noise(3.0, 20), 2.3, 3.0)
            self._blend(cover, 0.06 + 0.1 * clots + 0.7 * dust, self.staining.collagen * (0.35 + 0.75 * clots))
            return
        wisps = smear_along(
            np.stack([self._noise(1.5, 21), self._noise(3.0, 21)], axis=-1),
            self._read(self.layout.flow_cos2), self._read(self.layout.flow_sin2), 18,
        )  # fmt: skip
        strands = np.exp(-((wisps[..., 1] / 0.12) ** 2)) + 0.5 * np.exp(-((wisps[..., 0] / 0.1) ** 2))
        pool = smoothstep(self._noise(12.0, 22) + 0.3 * self._noise(6.0, 22), -1.2, 1.6)
        mucin = np.float32(recipe.mucin) * pool * (0.5 + 0.3 * strands)
        self._blend(cover, 0.34 * mucin, 0.01 + 0.1 * mucin)
        # The apical rim of the cells is a little denser.
        rim = np.exp(-(((lumen + 2) / 1.5) ** 2))
        self.eosin += 0.15 * rim

    def _shadows(self) -> None:
        """Basophilic smudges: nuclei that only touch the section, out of focus."""
        smudge = smoothstep(self._noise(6.0, 24) + 0.35 * self._noise(3.0, 24), 1.3, 2.6)
        ground = smoothstep(self.eosin + self.haematoxylin, 0.1, 0.3)
        self.haematoxylin += 0.38 * smudge * ground

    def _cells_of_figures(self) -> None:
        for figure in self.tissue.population.figures:
            reach = int(figure.cell_px) + 8
            window = Box(round(figure.y) - reach, round(figure.x) - reach, 2 * reach + 1, 2 * reach + 1)
            common = window.intersect(self.box)
            if common.area == 0:
                continue
            rows, columns = common.shift(-self.box.y, -self.box.x).slices
            y, x = np.mgrid[common.y : common.bottom, common.x : common.right].astype(np.float32)
            wobble = 2.0 * self._noise(6.0, 23)[rows, columns]
            inside = figure.cell_px + wobble - np.hypot(y - np.float32(figure.y), x - np.float32(figure.x))
            cell = smoothstep(inside, -1, 1.5)
            pale, pink = max(figure.pallor, 0), max(-figure.pallor, 0)
            haematoxylin, eosin = self.haematoxylin[rows, columns], self.eosin[rows, columns]
            haematoxylin *= 1 - cell * (0.65 * pale + 0.5 * pink)
            eosin *= 1 + cell * (0.9 * pink - 0.35 * pale)
            around = smoothstep(0.6 * self._noise(6.0, 26)[rows, columns], -1, 0.6)
            space = figure.gap * around * smoothstep(inside, -4, -1.5) * smoothstep(-inside, -1.0, 1.0)
            haematoxylin *= 1 - space
            eosin *= 1 - space
            membrane = 0.12 * pale * np.exp(-((inside / 1.3) ** 2))
            eosin += membrane

    def _nuclei(self) -> None:
        for index in self.tissue.nuclei_in(self.box):
            nucleus = self.tissue.population.nuclei[index]
            common = nucleus.box.intersect(self.box)
            if common.area:
                self._nucleus(nucleus, common)

    def _nucleus(self, nucleus: Nucleus, common: Box) -> None:
        in_nucleus = common.shift(-nucleus.box.y, -nucleus.box.x).slices
        coverage, density = (part[in_nucleus] for part in nucleus.stain(nucleus.depth()))
        where = common.shift(-self.box.y, -self.box.x).slices
        haematoxylin, eosin = self.haematoxylin[where], self.eosin[where]
        # The section is about as thick as half a nucleus: some of the cytoplasm lies over or under it.
        haematoxylin += coverage * (density - 0.65 * haematoxylin)
        eosin += coverage * (nucleus.chromatin.eosin - 0.55 * eosin)
        self.blood[where] *= 1 - 0.9 * coverage
