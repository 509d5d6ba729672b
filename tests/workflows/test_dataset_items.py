from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from segkit.config import DataConfig
from segkit.data.layout import Item, load_dataset
from segkit.workflows.dataset_items import attributes_of, groups_of

HEADER = "image,split,group,scanner,site,note,file"


def folder_with(root: Path, rows: list[str]) -> Path:
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True)
        for row in rows:
            Image.fromarray(np.eye(4, dtype=np.uint8)).save(root / kind / f"{row.split(',')[0]}.png")
    (root / "splits.csv").write_text("\n".join([HEADER, *rows]) + "\n", encoding="utf-8")
    return root


def test_further_columns_of_the_split_table_are_groups_to_report_on(tmp_path: Path) -> None:
    rows = ["a,train,,old, x ,same,1", "b,train,,new,,same,2", "c,val,,new,x,same,3"]
    items = load_dataset(DataConfig(dir=folder_with(tmp_path, rows), annotation="masks")).items

    # A value is missing here and there: no reason to leave the column out.
    assert attributes_of(items) == {"scanner": ["old", "new", "new"], "site": ["x", "", "x"]}


def test_a_column_with_too_many_values_makes_no_groups(tmp_path: Path) -> None:
    rows = [f"i{number},train,,{number // 2},,,{number // 4}" for number in range(44)]
    items = load_dataset(DataConfig(dir=folder_with(tmp_path, rows), annotation="masks")).items

    assert list(attributes_of(items)) == ["file"]


def with_groups(groups: dict[str, str | None]) -> list[Item]:
    return [Item(name, Path(name), None, "val", group) for name, group in groups.items()]


@given(st.dictionaries(st.sampled_from(["a", "b", "c", "image a"]), st.sampled_from([None, "a", "image a", "s"])))
def test_an_image_without_a_group_shares_its_group_with_no_other(groups: dict[str, str | None]) -> None:
    """As the units are that splits are drawn from."""
    found = groups_of(with_groups(groups))
    if not any(groups.values()):
        assert found is None
        return
    assert found is not None
    units = [("group", group) if group is not None else ("image", name) for name, group in groups.items()]
    for first, unit in zip(found, units, strict=True):
        assert [other == first for other in found] == [other == unit for other in units]


def test_a_group_of_one_image_is_called_like_it() -> None:
    assert groups_of(with_groups({"a": "s", "b": None})) == ["s", "b"]
    assert groups_of(with_groups({"a": "b", "b": None})) == ["b", "image b"]
    assert groups_of(with_groups({"a": None, "image a": None, "c": "a"})) == ["image image a", "image a", "a"]
    assert groups_of([]) is None
