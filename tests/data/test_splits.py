"""Splits: no leaks, always something to train on and to validate on, reproducible."""

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segkit.data.layout import Dataset, Item
from segkit.data.splits import SPLIT_COLUMNS, assign_splits, count_splits, split_rows
from segkit.errors import ConfigError, InputError


def dataset_of(units: list[tuple[str | None, str | None]]) -> Dataset:
    """Return a data set with an image for every (group, split)."""
    items = tuple(
        Item(name=f"image{number:03}", image=Path(f"{number}.png"), annotation=None, split=split, group=group)
        for number, (group, split) in enumerate(units)
    )
    return Dataset(
        root=Path("data"), annotation="masks", classes=("a", "b"), mpp=None, ignore=None, values={0: 0}, items=items
    )


def units_of(items: tuple[Item, ...]) -> set[str]:
    return {f"group {item.group}" if item.group else item.name for item in items}


groups = st.lists(st.one_of(st.none(), st.sampled_from("pqrst")), min_size=2, max_size=30)


@given(groups, st.floats(0, 0.9), st.floats(0, 0.9), st.integers(0, 2**32 - 1))
def test_every_image_gets_a_split_and_no_group_is_divided(
    names: list[str | None], val: float, test: float, seed: int
) -> None:
    dataset = dataset_of([(name, None) for name in names])
    num_units = len(units_of(dataset.items))
    if val + test >= 1 or num_units < 2:
        with pytest.raises((ConfigError, InputError)):
            assign_splits(dataset, val_fraction=val, test_fraction=test, seed=seed)
        return
    result = assign_splits(dataset, val_fraction=val, test_fraction=test, seed=seed)
    parts = [units_of(result.of_split(split)) for split in ("train", "val", "test")]
    assert set.union(*parts) == units_of(dataset.items)
    assert sum(map(len, parts)) == num_units
    assert parts[0]
    assert parts[1]
    assert abs(len(parts[1]) - val * num_units) <= 1
    assert len(parts[2]) <= test * num_units + 0.5
    assert [item.name for item in result.items] == [item.name for item in dataset.items]
    assert f"seed {seed}" in result.notes[-1]


@given(groups, st.integers(0, 1000), st.randoms())
def test_splits_depend_on_the_seed_and_not_on_the_order(names: list[str | None], seed: int, shuffler: Random) -> None:
    dataset = dataset_of([(name, None) for name in names])
    if len(units_of(dataset.items)) < 2:
        return
    mixed = list(dataset.items)
    shuffler.shuffle(mixed)
    shuffled = replace(dataset, items=tuple(mixed))
    first = assign_splits(dataset, val_fraction=0.3, test_fraction=0.2, seed=seed)
    second = assign_splits(shuffled, val_fraction=0.3, test_fraction=0.2, seed=seed)
    assert set(first.items) == set(second.items)


def test_another_seed_gives_other_splits() -> None:
    dataset = dataset_of([(None, None)] * 40)
    drawn = {assign_splits(dataset, val_fraction=0.2, test_fraction=0.2, seed=seed).items for seed in range(5)}
    assert len(drawn) == 5
    assert count_splits(assign_splits(dataset, val_fraction=0.2, test_fraction=0.2, seed=0)) == {
        "train": 24,
        "val": 8,
        "test": 8,
    }


def test_existing_splits_are_kept() -> None:
    dataset = dataset_of([(None, "train"), (None, "val"), (None, "test")])
    assert assign_splits(dataset, val_fraction=0.5, test_fraction=0.1, seed=1) == dataset


def test_validation_is_taken_from_training_and_never_from_the_test_set() -> None:
    dataset = dataset_of([("p", "train")] * 4 + [("q", "train")] * 4 + [("r", "test")] * 4)
    result = assign_splits(dataset, val_fraction=0.2, test_fraction=0.2, seed=3)
    assert count_splits(result) == {"train": 4, "val": 4, "test": 4}
    assert units_of(result.of_split("test")) == {"group r"}
    assert "val out of train" in result.notes[-1]


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ([(None, None)], "it is one image"),
        ([("p", None)] * 5, "all images belong to group p"),
        ([(None, "train"), (None, "test")], "it is one image"),
        ([(None, "val"), (None, "test")], "no image is in the split train"),
    ],
)
def test_too_few_images_are_refused_with_advice(units: list[tuple[str | None, str | None]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        assign_splits(dataset_of(units), val_fraction=0.2, test_fraction=0.2, seed=0)


def test_rows_are_those_of_the_table() -> None:
    rows = split_rows(dataset_of([("p", "train"), (None, "val")]))
    assert rows == [
        {"image": "image000", "split": "train", "group": "p"},
        {"image": "image001", "split": "val", "group": None},
    ]
    assert all(tuple(row) == SPLIT_COLUMNS for row in rows)
