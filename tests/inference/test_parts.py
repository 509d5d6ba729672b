"""A part comes back as it was written, or not at all."""

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from numpy.typing import NDArray
from safetensors.numpy import save_file

from segkit.errors import InputError, ResourceError
from segkit.geometry import BLOCK_PX, Box
from segkit.inference.layout import MapLayout
from segkit.inference.parts import PartStore
from tests.processes import limited_file_size

Blocks = list[dict[str, NDArray[Any]] | None]
KEY = {"slide": {"bytes": 10}, "models": ["abc"], "settings": {"tile": None, "mpp": 0.5}}
DTYPES = ["bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "int64", "float16", "float32", "float64"]

_numbers = itertools.count()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("parts")


def new_folder(root: Path) -> Path:
    """A folder of its own for each example of a property."""
    return root / str(next(_numbers))


def layout_of(rows: int = 1, columns: int = 2, part_blocks: int = 2) -> MapLayout:
    """A map of so many rows and columns of parts, the last of which are one block high or wide."""
    part_px = part_blocks * BLOCK_PX
    return MapLayout(
        region=Box(0, 0, (rows - 1) * part_px + 100, (columns - 1) * part_px + 100),
        stride=1, part_px=part_px, margin=0, tile_px=512, alignment=1,
    )  # fmt: skip


def store_in(folder: Path, key: dict[str, Any] | None = None, layout: MapLayout | None = None) -> PartStore:
    return PartStore(folder, KEY if key is None else key, layout or layout_of())


def refuse_damage(path: Path) -> None:
    pytest.fail(f"{path} is said to be damaged")


def some_blocks(number: int, seed: int = 0) -> Blocks:
    rng = np.random.default_rng(seed)
    return [{"mask/data": rng.integers(0, 256, 50, np.uint8), "pixels/count": np.arange(3)} for _ in range(number)]


def assert_equal_blocks(found: Blocks, expected: Blocks) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        if other is None or one is None:
            assert one is None
            assert other is None
            continue
        assert one.keys() == other.keys()
        for name in other:
            assert one[name].dtype == other[name].dtype
            assert one[name].shape == other[name].shape
            assert one[name].tobytes() == other[name].tobytes()


def any_array() -> st.SearchStrategy[NDArray[Any]]:
    return arrays_of.arrays(
        st.sampled_from(DTYPES).map(np.dtype), arrays_of.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4)
    )


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.none() | st.dictionaries(st.sampled_from(["a", "b/c", "count"]), any_array(), min_size=1),
        min_size=6, max_size=6,
    )
)  # fmt: skip
def test_arrays_come_back_to_the_last_bit(root: Path, blocks: Blocks) -> None:
    """A map of one row of two parts, with four blocks and two: two rows of blocks."""
    folder = new_folder(root)
    layout = MapLayout(region=Box(0, 0, 1025, 3000), stride=1, part_px=2048, margin=0, tile_px=512, alignment=1)
    assert [len(layout.blocks(index)) for index in range(2)] == [4, 2]
    written = [None if block is None else {f"x/{name}": array for name, array in block.items()} for block in blocks]
    store = store_in(folder, layout=layout)
    store.write(0, written[:4])
    store.write(1, written[4:])
    # By another process, which has seen nothing of it.
    again = store_in(folder, layout=layout)
    assert again.finished(refuse_damage) == {0, 1}
    assert_equal_blocks(again.row(0, "x"), [blocks[0], blocks[1], blocks[4]])
    assert_equal_blocks(again.row(1, "x"), [blocks[2], blocks[3], blocks[5]])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3,), (0,), (0, 4), (2, 3, 2)])
def test_every_type_comes_back(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(1).integers(0, 100, shape).astype(dtype)
    store = store_in(tmp_path)
    blocks: Blocks = [{"a/values": array, "a/strided": np.concatenate([array, array])[::2]}, None]
    store.write(0, blocks)
    assert store_in(tmp_path).finished(refuse_damage) == {0}
    store.write(1, [None])
    (found, *others) = store_in(tmp_path).row(0, "a")
    assert others == [None, None]
    assert_equal_blocks([found], [{"values": array, "strided": np.concatenate([array, array])[::2]}])


def test_only_the_arrays_that_were_asked_for_are_given(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    store.write(0, [{"mask/data": np.zeros(3, np.uint8), "masks/data": np.ones(3), "objects/mask/x": np.ones(1)}, None])
    store.write(1, [{"objects/area": np.ones(1)}])
    assert_equal_blocks(store.row(0, "mask"), [{"data": np.zeros(3, np.uint8)}, None, None])
    # A block that has nothing of that name is as one that has nothing at all.
    assert store.row(0, "pixels") == [None, None, None]


def test_blocks_past_the_tenth_are_not_taken_for_others(tmp_path: Path) -> None:
    layout = layout_of(rows=2, columns=2, part_blocks=4)
    store = store_in(tmp_path, layout=layout)
    for index in range(4):
        number = len(layout.blocks(index))
        store.write(index, [{"a/at": np.array([index, block])} for block in range(number)])
    for row in range(layout.block_rows):
        found = [block["at"].tolist() for block in store.row(row, "a") if block is not None]
        assert found == [list(place) for place in layout.row_of_blocks(row)]


@pytest.fixture(scope="module")
def content(root: Path) -> bytes:
    """The bytes of part 0."""
    store = store_in(new_folder(root))
    store.write(0, [*some_blocks(1), None])
    return store.path(0).read_bytes()


def damaged_store(root: Path, content: bytes) -> PartStore:
    store = store_in(new_folder(root))
    store.folder.mkdir(parents=True)
    store.path(0).write_bytes(content)
    store.write(1, some_blocks(1))
    return store_in(store.folder.parent.parent)


def assert_is_found_damaged(store: PartStore) -> None:
    said: list[Path] = []
    assert store.finished(said.append) == {1}
    assert said == [store.path(0)]
    assert not store.path(0).exists()
    assert store.present() == {1}


def data_of(content: bytes) -> int:
    """Where the arrays begin in a safetensors file: behind eight bytes with the length of what is before."""
    return 8 + int.from_bytes(content[:8], "little")


@settings(max_examples=50, deadline=None)
@given(data=st.data(), change=st.integers(1, 255))
def test_a_changed_byte_in_an_array_is_found(root: Path, content: bytes, data: st.DataObject, change: int) -> None:
    at = data.draw(st.integers(data_of(content), len(content) - 1))
    assert_is_found_damaged(
        damaged_store(root, content[:at] + bytes([content[at] ^ change]) + content[at + 1 :])
    )  # fmt: skip


@settings(max_examples=50, deadline=None)
@given(data=st.data(), change=st.integers(1, 255))
def test_a_changed_byte_in_the_header_is_found_or_changes_nothing(
    root: Path, content: bytes, data: st.DataObject, change: int
) -> None:
    """Blanks between the header's words may become others."""
    at = data.draw(st.integers(0, data_of(content) - 1))
    store = damaged_store(root, content[:at] + bytes([content[at] ^ change]) + content[at + 1 :])
    if store.finished(lambda _: None) == {1}:
        assert not store.path(0).exists()
    else:
        assert content[at : at + 1].isspace()
        (block, *_) = some_blocks(1)
        assert block is not None
        assert_equal_blocks(store.row(0, "mask"), [{"data": block["mask/data"]}, None, {"data": block["mask/data"]}])
        assert_equal_blocks(store.row(0, "pixels")[:2], [{"count": block["pixels/count"]}, None])


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_a_shorter_or_longer_file_is_found(root: Path, content: bytes, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(content) - 1))
    assert_is_found_damaged(damaged_store(root, content[:cut]))
    assert_is_found_damaged(damaged_store(root, content + b"\0" * (cut + 1)))


@pytest.mark.parametrize(("was", "now"), [(b'"I64"', b'"F64"'), (b"0/mask/data", b"0/mask/date")])
def test_other_types_and_names_of_the_same_bytes_are_found(root: Path, content: bytes, was: bytes, now: bytes) -> None:
    assert content.count(was) == 1
    assert_is_found_damaged(damaged_store(root, content.replace(was, now)))


def test_a_file_of_another_part_is_found(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    store.write(1, some_blocks(1))
    shutil.copy(store.path(1), store.path(0))
    assert_is_found_damaged(store_in(tmp_path))


def test_a_file_of_another_result_is_found(tmp_path: Path) -> None:
    other, store = store_in(tmp_path / "other", {**KEY, "models": ["abd"]}), store_in(tmp_path)
    other.write(0, some_blocks(2))
    store.write(1, some_blocks(1))
    shutil.copy(other.path(0), store.path(0))
    assert_is_found_damaged(store_in(tmp_path))


@pytest.mark.parametrize(
    "metadata", ["", "[]", "3", '"x"', '{"key": 1}', None], ids=["empty", "list", "number", "text", "other", "none"]
)
def test_a_file_of_another_program_is_found(tmp_path: Path, metadata: str | None) -> None:
    store = store_in(tmp_path)
    store.write(1, some_blocks(1))
    save_file({"0/a": np.zeros(2)}, store.path(0), None if metadata is None else {"segkit": metadata})
    assert_is_found_damaged(store_in(tmp_path))


def test_a_folder_in_a_parts_place_is_no_part(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    store.path(0).mkdir(parents=True)
    assert store.present() == set()
    assert store.finished(refuse_damage) == set()


def test_a_missing_part_and_an_unreadable_one_are_named(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    store.write(0, some_blocks(2))
    with pytest.raises(InputError, match=r"000001\.safetensors: cannot be read .*Run the same command again\."):
        store.row(0, "mask")
    store.write(1, some_blocks(1))
    assert len(store.row(0, "mask")) == 3
    store.path(1).write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"000001\.safetensors: cannot be read"):
        store.row(0, "mask")


def test_what_was_checked_once_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store_in(tmp_path).write(0, some_blocks(2))
    store = store_in(tmp_path)
    assert store.finished(refuse_damage) == {0}
    store.write(1, some_blocks(1))
    monkeypatch.setattr(PartStore, "_is_whole", lambda *_: pytest.fail("it is read again"))
    assert store.finished(refuse_damage) == {0, 1}


def test_parts_of_other_workers_are_seen_when_they_come(tmp_path: Path) -> None:
    mine, theirs = store_in(tmp_path), store_in(tmp_path)
    mine.write(0, some_blocks(2))
    assert mine.finished(refuse_damage) == {0}
    theirs.write(1, some_blocks(1))
    assert mine.present() == {0, 1}
    assert mine.finished(refuse_damage) == {0, 1}


def changes_of(key: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield {**key, "slide": {"bytes": 11}}
    yield {**key, "settings": {"tile": None, "mpp": 0.25}}
    yield {name: value for name, value in key.items() if name != "models"}


def test_stores_of_different_keys_do_not_meet(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    store.write(0, some_blocks(2))
    assert store_in(tmp_path, dict(reversed(KEY.items()))).present() == {0}  # the order of names says nothing
    for number, key in enumerate(changes_of(KEY)):
        other = store_in(tmp_path, key)
        assert other.present() == set()
        other.write(0, some_blocks(2, seed=number + 1))
        assert other.finished(refuse_damage) == {0}
    store.write(1, [None])
    (block, *_) = some_blocks(1)
    assert block is not None
    assert_equal_blocks(store.row(0, "mask")[:1], [{"data": block["mask/data"]}])


def test_parts_of_other_results_are_removed_and_their_keys_told(tmp_path: Path) -> None:
    others = list(changes_of(KEY))
    for key in others:
        for index in (0, 1):
            store_in(tmp_path, key).write(index, [None])
    unreadable = store_in(tmp_path, {"damaged": 1})
    unreadable.folder.mkdir()
    unreadable.path(0).write_bytes(b"damaged")
    store = store_in(tmp_path)
    store.write(0, some_blocks(2))
    keys = store.remove_others()
    assert sorted(map(str, keys)) == sorted(map(str, (store_in(tmp_path, key).key for key in others)))
    assert list(store.folder.parent.iterdir()) == [store.folder]
    assert store_in(tmp_path).finished(refuse_damage) == {0}
    assert store.remove_others() == []


def test_removing_leaves_nothing_but_what_is_not_a_part(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    store.write(0, some_blocks(2))
    (tmp_path / "mask.tif").touch()
    store.remove()
    store.remove()  # nothing is there
    assert [path.name for path in tmp_path.iterdir()] == ["mask.tif"]


def test_a_full_disk_leaves_nothing_of_a_part_and_the_others_as_they_are(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    store.write(0, some_blocks(2))
    before = store.path(0).read_bytes()
    large: Blocks = [{"a/b": np.zeros(100_000)}]
    for index in (0, 1):
        with limited_file_size(50_000), pytest.raises(ResourceError, match="the disk is full"):
            store.write(index, large)
    assert [path.name for path in store.folder.iterdir()] == ["000000.safetensors"]
    assert store.path(0).read_bytes() == before
    assert store.finished(refuse_damage) == {0}
    store.write(1, large)
    assert store.finished(refuse_damage) == {0, 1}
