"""A small cache of decoded tiles, shared by the threads that read a slide."""

import threading
from collections import OrderedDict
from collections.abc import Hashable

import numpy as np
from numpy.typing import NDArray


class TileCache:
    """The tiles that were used last, bounded in bytes.

    A tile that a region has used up whole is seldom needed again when a slide is read region by region, while one
    that it has used in part is needed by the neighbour. So whole ones make room first, then the others, oldest
    first. The newest tile always stays, also where it alone is larger than the bound (an image in one strip).
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._lock = threading.Lock()
        self._used_up: OrderedDict[Hashable, NDArray[np.uint8]] = OrderedDict()
        self._used_in_part: OrderedDict[Hashable, NDArray[np.uint8]] = OrderedDict()

    def get(self, key: Hashable) -> NDArray[np.uint8] | None:
        """Return the tile, or None where it is not here."""
        with self._lock:
            for tiles in (self._used_in_part, self._used_up):
                if key in tiles:
                    tiles.move_to_end(key)
                    return tiles[key]
        return None

    def put(self, key: Hashable, tile: NDArray[np.uint8], *, used_up: bool) -> None:
        """Keep a tile, of which the caller uses all (`used_up`) or a part."""
        with self._lock:
            for tiles in (self._used_in_part, self._used_up):
                if key in tiles:  # another thread decoded it at the same time
                    return
            (self._used_up if used_up else self._used_in_part)[key] = tile
            self._bytes += tile.nbytes
            while self._bytes > self._max_bytes and len(self._used_up) + len(self._used_in_part) > 1:
                self._evict(keep=key)

    def _evict(self, keep: Hashable) -> None:
        for tiles in (self._used_up, self._used_in_part):
            oldest = next((key for key in tiles if key != keep), None)
            if oldest is not None:
                self._bytes -= tiles.pop(oldest).nbytes
                return

    def clear(self) -> None:
        """Forget all tiles."""
        with self._lock:
            self._used_up.clear()
            self._used_in_part.clear()
            self._bytes = 0
