"""Decoded images as mapped files: made once, made anew when a source changes, whole or absent, explained when full."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from segkit import files
from segkit.data import cache
from segkit.data.cache import InMemory, MappedFiles, choose_store
from segkit.errors import ResourceError
from segkit.memory import MemoryLimit
from tests.processes import limited_file_size


def picture(seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (30, 40, 3), dtype=np.uint8)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "image.png"
    path.write_bytes(b"one")
    return path


def refuse() -> NDArray[np.uint8]:
    raise AssertionError("it is there already")


def test_an_array_is_made_once_and_mapped_read_only(tmp_path: Path, source: Path) -> None:
    store = MappedFiles(tmp_path / "cache")
    assert not store.holds([source], "image")
    first = store.keep([source], "image", picture)
    assert np.array_equal(first, picture())
    assert store.holds([source], "image")
    again = MappedFiles(tmp_path / "cache").keep([source], "image", refuse)
    assert np.array_equal(again, picture())
    assert not again.flags.writeable
    base = again
    while isinstance(base, np.ndarray) and base.base is not None:
        base = base.base
    assert type(base).__name__ == "mmap"


def test_kinds_sources_and_changed_sources_are_told_apart(tmp_path: Path, source: Path) -> None:
    store = MappedFiles(tmp_path / "cache")
    other = tmp_path / "other.png"
    other.write_bytes(b"one")
    assert np.array_equal(store.keep([source], "image", picture), picture())
    assert np.array_equal(store.keep([source], "mask", lambda: picture(1)), picture(1))
    assert np.array_equal(store.keep([other], "image", lambda: picture(2)), picture(2))
    assert np.array_equal(store.keep([source, other], "image", lambda: picture(3)), picture(3))
    stat = source.stat()
    os.utime(source, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert np.array_equal(store.keep([source], "image", lambda: picture(4)), picture(4))
    source.write_bytes(b"longer")
    os.utime(source, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert np.array_equal(store.keep([source], "image", lambda: picture(5)), picture(5))


@pytest.mark.parametrize("damage", [b"", b"no array", None])
def test_a_damaged_file_is_made_anew(tmp_path: Path, source: Path, damage: bytes | None) -> None:
    store = MappedFiles(tmp_path / "cache")
    store.keep([source], "image", picture)
    (path,) = (tmp_path / "cache").glob("*.npy")
    path.write_bytes(path.read_bytes()[:-100] if damage is None else damage)
    assert np.array_equal(store.keep([source], "image", picture), picture())


def test_pickled_objects_are_not_loaded(tmp_path: Path, source: Path) -> None:
    store = MappedFiles(tmp_path / "cache")
    store.keep([source], "image", picture)
    (path,) = (tmp_path / "cache").glob("*.npy")
    np.save(path, np.array([{"a": 1}], object), allow_pickle=True)
    assert np.array_equal(store.keep([source], "image", picture), picture())


def test_several_fill_a_folder_at_once(tmp_path: Path, source: Path) -> None:
    def work(number: int) -> bool:
        store = MappedFiles(tmp_path / "cache")
        arrays = [store.keep([source], str(kind), lambda kind=kind: picture(kind)) for kind in range(5)]
        return all(np.array_equal(array, picture(kind)) for kind, array in enumerate(arrays))

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(work, range(8)))
    assert len(list((tmp_path / "cache").iterdir())) == 5


def test_a_full_disk_names_the_setting_and_leaves_nothing(tmp_path: Path, source: Path) -> None:
    store = MappedFiles(tmp_path / "cache")
    with limited_file_size(2000), pytest.raises(ResourceError, match=r"cache: .*File too large.*data\.cache"):
        store.keep([source], "image", picture)
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("damage", ["cut", "empty", "longer", "other shape", "folder"])
def test_what_is_damaged_is_made_anew(tmp_path: Path, source: Path, damage: str) -> None:
    store = MappedFiles(tmp_path / "cache")
    store.keep([source], "image", picture)
    (path,) = (tmp_path / "cache").iterdir()
    content = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
        with pytest.raises(ResourceError, match=r"Is a directory.*data\.cache"):
            store.keep([source], "image", picture)
        return
    damaged = {"cut": content[:999], "empty": b"", "longer": content + b"x"}
    path.write_bytes(damaged.get(damage, content.replace(b"(30, 40, 3)", b"(10, 40, 3)")))
    np.testing.assert_array_equal(store.keep([source], "image", picture), picture())
    assert path.read_bytes() == content


def test_any_array_is_read_back_as_it_was(tmp_path: Path, source: Path) -> None:
    store = MappedFiles(tmp_path / "cache")
    for number, array in enumerate([picture()[::2, ::-1], np.zeros((0, 4), np.int32), np.arange(5).astype(">i8")]):
        found = store.keep([source], str(number), lambda array=array: array)
        np.testing.assert_array_equal(found, array)
        assert (found.dtype, found.shape) == (array.dtype, array.shape)


def test_a_place_that_is_no_folder_names_the_setting(source: Path) -> None:
    with pytest.raises(ResourceError, match=r"data\.cache"):
        MappedFiles(source)


def test_too_little_room_is_said_before_anything_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MappedFiles(tmp_path)
    monkeypatch.setattr(files, "free_bytes", lambda _: 1000)
    store.require_room(1000)
    with pytest.raises(ResourceError, match=r"take 1\.0 kB, and 1\.0 kB are free.*data\.cache"):
        store.require_room(1001)


@pytest.mark.parametrize(
    ("num_bytes", "processes", "mapped"), [(25, 1, False), (26, 1, True), (13, 2, True), (12, 2, False)]
)
def test_auto_maps_what_takes_more_than_a_quarter_of_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_bytes: int, processes: int, mapped: bool
) -> None:
    monkeypatch.setattr(cache, "memory_limit", lambda: MemoryLimit(100, "cgroup"))
    store, note = choose_store("auto", num_bytes, tmp_path / "cache", processes=processes)
    assert isinstance(store, MappedFiles) == mapped == (note is not None)
    assert isinstance(choose_store("none", num_bytes, tmp_path / "cache", processes=processes)[0], InMemory)
    assert isinstance(choose_store("auto", num_bytes, None, processes=processes)[0], InMemory)
    chosen, _ = choose_store(tmp_path / "mine", num_bytes, None)
    assert isinstance(chosen, MappedFiles)
    assert chosen.folder == tmp_path / "mine"
