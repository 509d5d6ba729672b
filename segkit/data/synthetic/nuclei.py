"""Single nuclei: their outlines, their chromatin, and the figures (mitoses and look-alikes) made of them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from segkit.data.synthetic.noise import FloatMap
from segkit.geometry import Box

TUMOUR, LYMPHOCYTE, STROMA = 1, 2, 3
CLASSES = ("background", "tumour", "lymphocyte", "stroma")
MITOTIC_FIGURE, LOOK_ALIKE = "mitotic_figure", "look_alike"

_RIPPLE_HARMONICS = np.arange(2, 8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chromatin:
    """How a nucleus takes up haematoxylin.

    Attributes
    ----------
    density
        Mean concentration.
    rim
        Extra concentration at the nuclear membrane, as a share of `density`.
    clump
        Standard deviation of the chromatin's texture, as a share of `density`.
    nucleoli
        Number of nucleoli.
    soft_px
        Width of the blurred edge.
    eosin
        Concentration of eosin inside (pyknotic nuclei are smudged purple-red).
    """

    density: float
    rim: float = 0.3
    clump: float = 0.2
    nucleoli: int = 0
    soft_px: float = 0.8
    eosin: float = 0.12


@dataclass(frozen=True, slots=True, kw_only=True)
class Nucleus:
    """One body of chromatin: a rippled, bent ellipse.

    Attributes
    ----------
    y, x
        Centre; pixel centres at integers.
    major, minor
        Semi-axes in pixels.
    angle
        Direction of the major axis, radians, from x towards y.
    bend
        Curvature of the major axis, 1/px.
    ripple
        Standard deviation of the outline's ripple as a share of the radius.
    label
        Class id.
    chromatin
        Its staining.
    seed
        Everything else that is random about it.
    """

    y: float
    x: float
    major: float
    minor: float
    angle: float
    label: int
    chromatin: Chromatin
    seed: int
    bend: float = 0.0
    ripple: float = 0.05

    @property
    def box(self) -> Box:
        """A box that holds it with its soft edge."""
        reach = int(np.ceil(self.major * (1 + 3 * self.ripple))) + 4
        return Box(round(self.y) - reach, round(self.x) - reach, 2 * reach + 1, 2 * reach + 1)

    def outline(self, num_points: int) -> NDArray[np.float64]:
        """Return points (N, 2) of the outline as x, y; pixel centres at integers + 0.5."""
        # Equal steps of the ellipse's parameter put more points where it curves.
        theta = np.linspace(0, 2 * np.pi, num_points, endpoint=False)
        u, v = self.major * np.cos(theta), self.minor * np.sin(theta)
        scale = self._ripple_at(np.arctan2(v / self.minor, u / self.major))
        # Chords cut the curve's corners: grow the polygon to the area of the curve.
        step = 2 * np.pi / num_points
        scale = scale * np.sqrt(step / np.sin(step))
        u, v = u * scale, v * scale
        v = v + self.bend * u**2
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        return np.stack([self.x + 0.5 + cos * u - sin * v, self.y + 0.5 + sin * u + cos * v], axis=1)

    def depth(self) -> FloatMap:
        """Return the approximate depth in pixels below the outline over `box`: positive inside."""
        box = self.box
        y, x = np.mgrid[box.y : box.bottom, box.x : box.right].astype(np.float32)
        y, x = y - np.float32(self.y), x - np.float32(self.x)
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        u, v = cos * x + sin * y, cos * y - sin * x
        v = v - self.bend * u**2
        # First-order distance to an implicit curve: its value divided by the length of its gradient.
        radius = np.sqrt((u / self.major) ** 2 + (v / self.minor) ** 2) + 1e-6
        slope = np.sqrt((u / self.major**2) ** 2 + (v / self.minor**2) ** 2) / radius + 1e-6
        edge = self._ripple_at(np.arctan2(v / self.minor, u / self.major))
        return np.asarray((edge - radius) / slope, np.float32)

    def _ripple_at(self, theta: NDArray[np.floating]) -> NDArray[np.floating]:
        rng = np.random.default_rng(self.seed)
        # Rougher outlines have finer ripples.
        falloff = 1.0 / _RIPPLE_HARMONICS ** max(1.5 - 6 * self.ripple, 0.3)
        amplitudes = rng.standard_normal(len(falloff)) * falloff / np.linalg.norm(falloff) * self.ripple * 1.4
        phases = rng.uniform(0, 2 * np.pi, len(falloff))
        waves = np.cos(theta[..., None] * _RIPPLE_HARMONICS + phases)
        return np.asarray(1 + np.clip(waves @ amplitudes, -0.45, 0.45))

    def stain(self, depth: FloatMap) -> tuple[FloatMap, FloatMap]:
        """Return coverage (0 to 1) and haematoxylin concentration over `box`, for its `depth()`."""
        rng = np.random.default_rng(self.seed + 1)
        look = self.chromatin
        coverage = 1 / (1 + np.exp(-depth * 2.2 / look.soft_px))
        texture = ndimage.gaussian_filter(rng.standard_normal(depth.shape, np.float32), 1.5) * 5
        fine = ndimage.gaussian_filter(rng.standard_normal(depth.shape, np.float32), 0.7) * 2.2
        relative = 1 + look.clump * (0.75 * texture + 0.45 * fine)
        relative += look.rim * (np.exp(-(((depth - 1.0) / 1.3) ** 2)) - 0.35)
        # One pole is a little darker: nuclei are cut obliquely.
        relative += 0.1 * rng.standard_normal() * np.linspace(-1, 1, depth.shape[0], dtype=np.float32)[:, None]
        height, width = depth.shape
        y, x = np.mgrid[:height, :width].astype(np.float32)
        for _ in range(look.nucleoli):
            away = rng.uniform(0, 0.5) * self.minor
            turn = rng.uniform(0, 2 * np.pi)
            spot_y, spot_x = height / 2 + away * np.sin(turn), width / 2 + away * np.cos(turn)
            spot = np.exp(-((y - spot_y) ** 2 + (x - spot_x) ** 2) / (2 * rng.uniform(0.9, 1.5) ** 2))
            relative += rng.uniform(0.35, 0.8) * spot
        return coverage.astype(np.float32), (look.density * np.clip(relative, 0.15, 2.2)).astype(np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A mitotic figure or a look-alike: a point, its bodies of chromatin and the cell around them.

    Attributes
    ----------
    y, x
        The point; pixel centres at integers.
    label
        `MITOTIC_FIGURE` or `LOOK_ALIKE`.
    bodies
        Its chromatin.
    cell_px
        Radius of the cell.
    pallor
        How much paler (positive) or pinker (negative) the cell is than its neighbours, -1 to 1.
    gap
        White retraction space around the cell, 0 to 1.
    """

    y: float
    x: float
    label: str
    bodies: tuple[Nucleus, ...]
    cell_px: float
    pallor: float
    gap: float


def draw_figure(rng: np.random.Generator, y: float, x: float, label: str, darkness: float) -> Figure:
    """Draw a mitotic figure or a look-alike of a random kind at (y, x); `darkness` scales its staining."""
    kinds = _MITOTIC_KINDS if label == MITOTIC_FIGURE else _LOOK_ALIKE_KINDS
    kind = kinds[int(rng.integers(len(kinds)))]
    return kind(rng, y, x, darkness)


def _body(
    rng: np.random.Generator,
    y: float,
    x: float,
    major: float,
    minor: float,
    angle: float,
    chromatin: Chromatin,
    *,
    ripple: float,
    bend: float = 0.0,
) -> Nucleus:
    return Nucleus(
        y=y,
        x=x,
        major=major,
        minor=minor,
        angle=angle,
        label=TUMOUR,
        chromatin=chromatin,
        seed=int(rng.integers(2**31)),
        bend=bend,
        ripple=ripple,
    )


def _condensed(rng: np.random.Generator, darkness: float, soft_px: float = 1.2) -> Chromatin:
    return Chromatin(density=darkness * rng.uniform(1.25, 1.6), rim=-0.2, clump=0.2, soft_px=soft_px)


def _mitosis(y: float, x: float, bodies: tuple[Nucleus, ...], cell_px: float, pallor: float) -> Figure:
    return Figure(y=y, x=x, label=MITOTIC_FIGURE, bodies=bodies, cell_px=cell_px, pallor=pallor, gap=0.0)


def _metaphase(rng: np.random.Generator, y: float, x: float, darkness: float) -> Figure:
    """A plate seen from its edge."""
    body = _body(
        rng, y, x, rng.uniform(8, 10.5), rng.uniform(2.8, 4), rng.uniform(0, np.pi), _condensed(rng, darkness),
        ripple=0.16, bend=rng.normal(0, 0.012),
    )  # fmt: skip
    return _mitosis(y, x, (body,), rng.uniform(14, 17), rng.uniform(0.4, 0.9))


def _prometaphase(rng: np.random.Generator, y: float, x: float, darkness: float) -> Figure:
    """A knobbly clump without a membrane."""
    radius = rng.uniform(6.5, 8.5)
    look = _condensed(rng, darkness, soft_px=1.6)
    core = _body(rng, y, x, radius, radius * rng.uniform(0.65, 0.9), rng.uniform(0, np.pi), look, ripple=0.15)
    return _mitosis(y, x, (core,), rng.uniform(14, 17), rng.uniform(0.4, 0.9))


def _anaphase(rng: np.random.Generator, y: float, x: float, darkness: float) -> Figure:
    """Two parallel plates that move apart."""
    return _pair(rng, y, x, darkness, apart=rng.uniform(4.5, 6.5), major=rng.uniform(7.5, 9.5), minor=2.7)


def _telophase(rng: np.random.Generator, y: float, x: float, darkness: float) -> Figure:
    """Two far plates, one in each daughter cell."""
    return _pair(rng, y, x, darkness, apart=rng.uniform(8, 10), major=rng.uniform(6, 7.5), minor=3.1)


def _pair(
    rng: np.random.Generator, y: float, x: float, darkness: float, *, apart: float, major: float, minor: float
) -> Figure:
    axis = rng.uniform(0, 2 * np.pi)
    look = _condensed(rng, darkness)
    bodies = tuple(
        _body(
            rng, y + side * apart * np.sin(axis), x + side * apart * np.cos(axis), major, minor,
            axis + np.pi / 2 + rng.normal(0, 0.15), look, ripple=0.12, bend=-side * rng.uniform(0, 0.03),
        )
        for side in (1, -1)
    )  # fmt: skip
    return _mitosis(y, x, bodies, apart + rng.uniform(9, 11), rng.uniform(0.3, 0.8))


def _apoptosis(rng: np.random.Generator, y: float, x: float, darkness: float) -> Figure:
    """Smooth round globules in a shrunken, pink cell with a gap around it."""
    look = Chromatin(density=darkness * rng.uniform(1.2, 1.7), rim=0.0, clump=0.04, soft_px=0.8, eosin=0.35)
    bodies = []
    for index in range(int(rng.integers(1, 4))):
        radius = rng.uniform(3.5, 5) if index == 0 else rng.uniform(1.8, 3)
        away, turn = (0.0 if index == 0 else rng.uniform(5, 7)), rng.uniform(0, 2 * np.pi)
        bodies.append(
            _body(
                rng, y + away * np.sin(turn), x + away * np.cos(turn), radius, radius * rng.uniform(0.85, 1),
                turn, look, ripple=0.03,
            )
        )  # fmt: skip
    return Figure(
        y=y,
        x=x,
        label=LOOK_ALIKE,
        bodies=tuple(bodies),
        cell_px=rng.uniform(9, 11),
        pallor=-0.9,
        gap=rng.uniform(0.3, 0.7),
    )


def _pyknosis(rng: np.random.Generator, y: float, x: float, darkness: float) -> Figure:
    """One shrunken, dark, smudged nucleus."""
    look = Chromatin(density=darkness * rng.uniform(1.1, 1.5), rim=0.0, clump=0.05, soft_px=1.3, eosin=0.3)
    radius = rng.uniform(5.5, 7.5)
    body = _body(rng, y, x, radius, radius * rng.uniform(0.6, 0.95), rng.uniform(0, np.pi), look, ripple=0.09)
    return Figure(
        y=y, x=x, label=LOOK_ALIKE, bodies=(body,), cell_px=rng.uniform(11, 14), pallor=-0.5, gap=rng.uniform(0, 0.5)
    )


def _hyperchromasia(rng: np.random.Generator, y: float, x: float, darkness: float) -> Figure:
    """A large dark nucleus that still has its membrane."""
    look = Chromatin(density=darkness * rng.uniform(1.0, 1.3), rim=0.15, clump=0.14, soft_px=0.8)
    major = rng.uniform(9, 12)
    body = _body(rng, y, x, major, major * rng.uniform(0.5, 0.8), rng.uniform(0, np.pi), look, ripple=0.08)
    return Figure(y=y, x=x, label=LOOK_ALIKE, bodies=(body,), cell_px=major + 4, pallor=0.0, gap=0.0)


_MITOTIC_KINDS = (_metaphase, _metaphase, _prometaphase, _prometaphase, _anaphase, _telophase)
_LOOK_ALIKE_KINDS = (_apoptosis, _apoptosis, _pyknosis, _hyperchromasia)
