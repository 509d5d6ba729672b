"""What a prediction will do, decided before it starts: level, tile size, batch, memory."""

from dataclasses import dataclass
from typing import Literal

from segkit.errors import InputError, UsageError
from segkit.geometry import TileGrid, count_tiles
from segkit.models.model_file import ModelSpec, UNetArguments
from segkit.slides import Slide

# A level is read as it is if its pixel size differs from the model's by no more than this factor. Augmentation
# during training covers more than that.
MPP_TOLERANCE = 1.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a slide is predicted; lengths in pixels of the level that is read.

    `mpp` is that level's micrometres per pixel, None where unknown; the result has a pixel for every `stride` of them
    in both directions; `memory_bytes` estimates the peak of the
    pipeline beyond what Python and the libraries take.
    """

    level: int
    height: int
    width: int
    downsample: float
    mpp: float | None
    stride: int
    tile_px: int
    batch: int
    num_tiles: int
    memory_bytes: int

    @property
    def map_size(self) -> tuple[int, int]:
        """Height and width of the result."""
        return -(-self.height // self.stride), -(-self.width // self.stride)

    def describe(self) -> str:
        """Return the plan in one line."""
        mpp = "unknown um/px" if self.mpp is None else f"{self.mpp:.4g} um/px"
        stride = "" if self.stride == 1 else f"every {self.stride} px, "
        return (
            f"level {self.level} ({self.width} x {self.height} px, {mpp}), {stride}{self.num_tiles} tiles of "
            f"{self.tile_px} px, batch {self.batch}, about {self.memory_bytes / 1e9:.1f} GB"
        )


def make_plan(
    slide: Slide,
    spec: ModelSpec,
    grid: TileGrid,
    *,
    mpp: float | None,
    tile: int | Literal["auto"],
    batch: int | Literal["auto"],
    on_cuda: bool,
) -> Plan:
    """Decide level, tiles and batch for a slide.

    Parameters
    ----------
    mpp
        Micrometres per pixel at level 0, where the slide's own value is missing or wrong.
    tile, batch
        As configured.

    Raises
    ------
    InputError
        The slide's scale is unknown or does not fit the model's.
    UsageError
        The tile is no multiple of the model's alignment.
    """
    level = choose_level(slide, spec.mpp, mpp)
    height, width = slide.levels[level].height, slide.levels[level].width
    tile_px = _tile_px(tile, grid, 1024 if on_cuda else 512, max(height, width))
    batch_size = (8 if on_cuda else 1) if batch == "auto" else batch
    rows, columns = count_tiles(height, width, tile_px)
    known = mpp or slide.mpp
    return Plan(
        level=level,
        height=height,
        width=width,
        downsample=slide.levels[level].downsample,
        stride=grid.stride,
        mpp=known and known * slide.levels[level].downsample,
        tile_px=tile_px,
        batch=batch_size,
        num_tiles=rows * columns,
        memory_bytes=_memory_bytes(spec, grid, tile_px, batch_size, width),
    )


def choose_level(slide: Slide, model_mpp: float | None, given_mpp: float | None) -> int:
    """Return the level whose scale is the model's; level 0 for a model without a scale.

    Raises
    ------
    InputError
        The slide's scale is unknown or no level is within 25 % of the model's.
    """
    if model_mpp is None:
        return 0
    slide_mpp = given_mpp or slide.mpp
    if slide_mpp is None:
        raise InputError(
            f"{slide.path}: the file does not say its micrometres per pixel, and the model was trained at "
            f"{model_mpp:.4g}. Give --mpp."
        )
    factors = [
        max(slide_mpp * level.downsample / model_mpp, model_mpp / (slide_mpp * level.downsample))
        for level in slide.levels
    ]
    level = min(range(len(factors)), key=factors.__getitem__)
    if factors[level] > MPP_TOLERANCE:
        there = ", ".join(f"{slide_mpp * one.downsample:.4g}" for one in slide.levels)
        raise InputError(
            f"{slide.path}: its levels have {there} um/px, and the model was trained at {model_mpp:.4g}; none is "
            f"within a factor of {MPP_TOLERANCE}. Use a model of that scale, or correct the slide's scale with --mpp."
        )
    return level


def _tile_px(tile: int | Literal["auto"], grid: TileGrid, preferred: int, longest_side: int) -> int:
    if tile == "auto":
        needed = -(-longest_side // grid.alignment) * grid.alignment
        return min(-(-preferred // grid.alignment) * grid.alignment, needed)
    if tile % grid.alignment:
        below = max(tile // grid.alignment, 1) * grid.alignment
        raise UsageError(
            f"--tile {tile}: this model needs a multiple of {grid.alignment}, e.g. {below} or {below + grid.alignment}."
        )
    return tile


def _memory_bytes(spec: ModelSpec, grid: TileGrid, tile_px: int, batch: int, width: int) -> int:
    read_px = grid.legal_size(tile_px + 2 * grid.halo) ** 2
    # At full resolution a U-Net holds a block's input, its output, the skip and the concatenation: about six
    # maps of base_channels, float32. A dense patch CNN doubles its maps and keeps the resolution.
    maps = spec.arguments.base_channels * (6 if isinstance(spec.arguments, UNetArguments) else 16)
    network = batch * read_px * maps * 4
    # Read ahead: two batches and a few single tiles. Rows of tiles: two, mask and probability.
    pixels = (3 * batch + 4) * read_px * spec.arguments.in_channels
    rows = 2 * 2 * tile_px * width * 4
    return network + pixels + rows
