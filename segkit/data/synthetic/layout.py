"""Where which kind of tissue lies: coarse maps of glands, lumens, fat, vessels and the direction of fibres.

Distances are in pixels of the image, positive inside.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from segkit.data.synthetic.noise import CoarseGrid, FloatMap, gradient, smooth_noise, smoothstep

FAR_PX = 1000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What a piece of tissue is made of.

    Attributes
    ----------
    epithelium, lymphoid, fat, bleeding
        Shares of the area, 0 to 1.
    nest_px
        Size of glands and nests: the scale of the noise whose islands they are.
    wall_px
        Thickness of the epithelium around a lumen; large values give solid nests.
    necrosis
        Fill lumens with necrotic debris instead of leaving them open.
    mucin
        Concentration of mucin in lumens, 0 to 1.
    loose
        0 for dense collagen, 1 for loose, oedematous stroma.
    crush
        Amount of crushed, smeared chromatin in the stroma, 0 to 1.
    vessels
        Vessels per megapixel.
    region_px
        Scale over which the amount of epithelium varies; 0 for the same everywhere.
    outline
        "none" (tissue everywhere), "edge" (the section's border crosses the field) or "section" (a whole section).
    """

    epithelium: float
    lymphoid: float = 0.03
    fat: float = 0.0
    nest_px: float = 42.0
    wall_px: float = 46.0
    necrosis: bool = False
    mucin: float = 0.0
    loose: float = 0.3
    crush: float = 0.3
    vessels: float = 8.0
    bleeding: float = 0.0
    region_px: float = 0.0
    outline: str = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Coarse maps of a piece of tissue, read through `grid`; distances in pixels, positive inside."""

    grid: CoarseGrid
    recipe: Recipe
    tissue: FloatMap
    nest: FloatMap
    lumen: FloatMap
    fat: FloatMap
    vessel: FloatMap
    lymphoid: FloatMap
    loose: FloatMap
    basophilia: FloatMap
    crush: FloatMap
    bleeding: FloatMap
    thickness: FloatMap
    focus: FloatMap
    flow_cos2: FloatMap
    flow_sin2: FloatMap


def lay_out(rng: np.random.Generator, recipe: Recipe, height: int, width: int) -> Layout:
    """Draw the maps of a piece of tissue of `height` x `width` pixels."""
    grid = CoarseGrid(height, width)

    def noise(sigma_px: float) -> FloatMap:
        return smooth_noise(rng, grid.shape, sigma_px / grid.scale)

    tissue = _tissue(rng, recipe.outline, grid)
    nest_noise = noise(recipe.nest_px) + 0.18 * noise(12)
    if recipe.region_px:
        nest_noise += 0.6 * noise(recipe.region_px)
    inner = tissue > 40
    nest = _signed_distance(_islands(nest_noise, recipe.epithelium, inner, min_px=2500, grid=grid), grid)
    wall = recipe.wall_px + 7 * noise(30)
    lumen = ndimage.gaussian_filter(nest, 1.2) - wall + 3 * noise(7)
    lumen_core = _signed_distance(_islands(lumen, None, lumen > 0, min_px=500, grid=grid), grid)
    lumen = np.where(lumen_core > -8, np.minimum(lumen, lumen_core), lumen_core)

    fat = _signed_distance(_islands(noise(90 + recipe.region_px / 3), recipe.fat, inner, min_px=15000, grid=grid), grid)
    fat = np.minimum(fat, -nest - 14)
    free = np.minimum(np.minimum(-nest, -fat), tissue - 20)
    angle = rng.uniform(0, np.pi) + 0.55 * noise(110) + 0.3 * noise(35)
    cos2, sin2 = _flow(angle, 0.22 * noise(9), nest, fat)
    vessel = _vessels(rng, recipe.vessels, grid, free, cos2, sin2)
    lymphoid_noise = noise(38 + recipe.region_px / 8) + 0.5 * noise(14)
    lymphoid = _share_ramp(np.where(free > 6, lymphoid_noise, -9), recipe.lymphoid, tissue > 0)
    return Layout(
        grid=grid,
        recipe=recipe,
        tissue=tissue,
        nest=nest,
        lumen=lumen.astype(np.float32),
        fat=fat.astype(np.float32),
        vessel=vessel,
        lymphoid=lymphoid,
        loose=np.clip(recipe.loose + 0.25 * noise(55) + 0.1 * noise(15), 0, 1),
        basophilia=noise(45),
        crush=smoothstep(noise(30) + 0.5 * noise(12), 1.7 - 1.4 * recipe.crush, 2.6 - 1.4 * recipe.crush),
        bleeding=_share_ramp(np.where(free > 10, noise(30) + 0.5 * noise(10), -9), recipe.bleeding, tissue > 0),
        thickness=1 + 0.06 * noise(120) + 0.03 * noise(25),
        focus=noise(150),
        flow_cos2=cos2,
        flow_sin2=sin2,
    )


def _tissue(rng: np.random.Generator, outline: str, grid: CoarseGrid) -> FloatMap:
    """Signed distance to the outline of the section, which is ragged at two scales."""
    rows, columns = grid.shape
    if outline == "none":
        return np.full(grid.shape, FAR_PX, np.float32)
    y, x = np.mgrid[:rows, :columns].astype(np.float32)
    y, x = (y + 0.5) / rows - 0.5, (x + 0.5) / columns - 0.5
    ragged = 9 * smooth_noise(rng, grid.shape, 6) + 5 * smooth_noise(rng, grid.shape, 2)
    if outline == "edge":
        angle = rng.uniform(0, 2 * np.pi)
        along = (np.cos(angle) * x + np.sin(angle) * y) * grid.height
        inside = along + 30 * smooth_noise(rng, grid.shape, 20) + ragged > -0.24 * grid.height
    else:
        turn = rng.uniform(-0.4, 0.4)
        u, v = np.cos(turn) * x + np.sin(turn) * y, -np.sin(turn) * x + np.cos(turn) * y
        radius = np.sqrt((u / 0.35) ** 2 + (v / 0.28) ** 2)
        wobble = 0.13 * smooth_noise(rng, grid.shape, 0.11 * rows) + 0.035 * smooth_noise(rng, grid.shape, 0.02 * rows)
        inside = (1 - radius + wobble) * 0.35 * grid.height + ragged > 0
        inside &= np.maximum(abs(y), abs(x)) < 0.46
        inside = _without_specks(inside, 0.01 * rows * columns)
    return _signed_distance(inside, grid)


def _islands(
    noise: FloatMap, share: float | None, where: NDArray[np.bool_], *, min_px: float, grid: CoarseGrid
) -> NDArray[np.bool_]:
    """Return the highest `share` of `noise` inside `where` (all of it for None) without small islands and holes."""
    if share is None:
        chosen = where
    elif share <= 0 or not where.any():
        return np.zeros(grid.shape, bool)
    else:
        chosen = where & (noise > np.quantile(noise[where], 1 - share))
    smallest = min_px / grid.scale**2
    return ~_without_specks(~_without_specks(chosen, smallest), smallest)


def _without_specks(mask: NDArray[np.bool_], smallest: float) -> NDArray[np.bool_]:
    components, count = ndimage.label(mask)
    areas = np.bincount(components.ravel(), minlength=count + 1)
    keep = areas >= smallest
    keep[0] = False
    return np.asarray(keep[components])


def _signed_distance(mask: NDArray[np.bool_], grid: CoarseGrid) -> FloatMap:
    """Distance to the border of `mask` in image pixels, positive inside; `FAR_PX` at most."""
    if not mask.any():
        return np.full(grid.shape, -FAR_PX, np.float32)
    inside = ndimage.distance_transform_edt(mask) if not mask.all() else np.full(grid.shape, FAR_PX)
    outside = ndimage.distance_transform_edt(~mask)
    distance = ndimage.gaussian_filter(np.where(mask, inside - 0.5, 0.5 - outside), 0.8) * grid.scale
    return np.asarray(np.clip(distance, -FAR_PX, FAR_PX), np.float32)


def _share_ramp(noise: FloatMap, share: float, where: NDArray[np.bool_]) -> FloatMap:
    """Return a map from 0 to 1 that is high in about `share` of `where`, at the peaks of `noise`."""
    if share <= 0 or not where.any():
        return np.zeros_like(noise)
    level = float(np.quantile(noise[where], 1 - share))
    return smoothstep(noise, level - 0.35, level + 0.25)


def _flow(angle: FloatMap, wave: FloatMap, nest: FloatMap, fat: FloatMap) -> tuple[FloatMap, FloatMap]:
    """Direction of the fibres as cosine and sine of twice its angle: free in the stroma, around nests and fat."""
    cos2, sin2 = np.cos(2 * angle), np.sin(2 * angle)
    for distance in (nest, fat):
        around_cos2, around_sin2 = _tangent(ndimage.gaussian_filter(distance, 3))
        weight = 2.5 * np.exp(-np.maximum(-distance, 0) / 14)
        cos2, sin2 = cos2 + weight * around_cos2, sin2 + weight * around_sin2
    wavy = np.arctan2(ndimage.gaussian_filter(sin2, 3), ndimage.gaussian_filter(cos2, 3)) + 2 * wave
    return np.cos(wavy).astype(np.float32), np.sin(wavy).astype(np.float32)


def _tangent(height: FloatMap) -> tuple[FloatMap, FloatMap]:
    gradient_y, gradient_x = gradient(height)
    twice = 2 * (np.arctan2(gradient_y, gradient_x) + np.pi / 2)
    return np.cos(twice), np.sin(twice)


def _vessels(
    rng: np.random.Generator,
    per_megapixel: float,
    grid: CoarseGrid,
    free: FloatMap,
    cos2: FloatMap,
    sin2: FloatMap,
) -> FloatMap:
    """Signed distance to small vessels, ellipses along the fibres, where `free` leaves room for them."""
    vessel = np.full(grid.shape, -FAR_PX, np.float32)
    for _ in range(round(per_megapixel * grid.height * grid.width / 1e6)):
        row, column = int(rng.integers(grid.shape[0])), int(rng.integers(grid.shape[1]))
        half_width = rng.uniform(7, 15)
        half_length = half_width * rng.uniform(1.2, 3.5)
        if free[row, column] < half_width + 8:
            continue
        angle = 0.5 * np.arctan2(sin2[row, column], cos2[row, column])
        reach = int(2 * half_length / grid.scale) + 4
        rows = slice(max(0, row - reach), min(grid.shape[0], row + reach))
        columns = slice(max(0, column - reach), min(grid.shape[1], column + reach))
        y, x = (np.mgrid[rows, columns].T - [row, column]).T.astype(np.float32) * grid.scale
        along, across = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
        radius = np.sqrt((along / half_length) ** 2 + (across / half_width) ** 2)
        window = vessel[rows, columns]
        np.maximum(window, (1 - radius) * half_width, out=window)
    return np.minimum(vessel, free)
