"""What the cache of decoded tiles keeps."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from segkit.slides.tile_cache import TileCache


def tile(num_bytes: int) -> NDArray[np.uint8]:
    return np.zeros((1, num_bytes, 1), np.uint8)


def test_tiles_that_were_used_up_make_room_first_then_the_oldest() -> None:
    cache = TileCache(30)
    cache.put("part", tile(10), used_up=False)
    cache.put("whole", tile(10), used_up=True)
    cache.put("part 2", tile(10), used_up=False)
    cache.put("part 3", tile(10), used_up=False)
    assert cache.get("whole") is None
    assert cache.get("part") is not None  # and is now the newest
    cache.put("part 4", tile(10), used_up=False)
    assert cache.get("part 2") is None
    assert cache.get("part") is not None


def test_one_tile_larger_than_the_bound_is_kept_until_the_next() -> None:
    cache = TileCache(30)
    cache.put("large", tile(100), used_up=True)
    assert cache.get("large") is not None
    cache.put("small", tile(1), used_up=True)
    assert cache.get("large") is None
    assert cache.get("small") is not None


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 40), st.booleans()), max_size=60))
def test_the_bound_is_kept(puts: list[tuple[int, int, bool]]) -> None:
    cache = TileCache(100)
    sizes = {}
    for key, size, used_up in puts:
        sizes.setdefault(key, size)
        if cache.get(key) is None:
            sizes[key] = size
        cache.put(key, tile(size), used_up=used_up)
        held = {one: array.nbytes for one in sizes if (array := cache.get(one)) is not None}
        assert key in held
        assert sum(held.values()) <= 100
    cache.clear()
    assert all(cache.get(key) is None for key in sizes)
