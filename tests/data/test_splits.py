"""Splits: no leaks, always something to train on and to validate on, reproducible."""

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segkit.data.layout import Dataset, Item
from segkit.data.splits import SPLIT_COLUMNS, assign_fold, assign_splits, count_splits, split_rows
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


splits_and_groups = st.lists(
    st.tuples(st.one_of(st.none(), st.sampled_from("pqrst")), st.sampled_from(["train", "val", "test"])),
    min_size=3,
    max_size=30,
)


def one_split_for_each_group(units: list[tuple[str | None, str | None]]) -> list[tuple[str | None, str | None]]:
    first = dict(reversed(units))
    return [(group, split if group is None else first[group]) for group, split in units]


@given(splits_and_groups, st.integers(2, 6), st.integers(0, 1000))
def test_over_the_folds_every_unit_validates_once_and_the_test_set_stays(
    drawn: list[tuple[str | None, str | None]], folds: int, seed: int
) -> None:
    dataset = dataset_of(one_split_for_each_group(drawn))
    usable = units_of(tuple(item for item in dataset.items if item.split != "test"))
    if len(usable) < folds:
        with pytest.raises(InputError, match=f"{folds} folds need .* there are {len(usable)}"):
            assign_fold(dataset, folds=folds, fold=1, seed=seed)
        return
    results = [assign_fold(dataset, folds=folds, fold=number, seed=seed) for number in range(1, folds + 1)]
    validated = [units_of(result.of_split("val")) for result in results]
    assert set.union(*validated) == usable
    assert sum(map(len, validated)) == len(usable)  # none twice
    for result in results:
        assert result.of_split("test") == dataset.of_split("test")
        assert result.of_split("train")
        assert result.of_split("val")
        # No group is divided.
        assert not units_of(result.of_split("train")) & units_of(result.of_split("val"))
        assert [item.name for item in result.items] == [item.name for item in dataset.items]
    assert f"fold 2 of {folds} with seed {seed}" in results[1].notes[-1]


@given(st.integers(2, 5), st.integers(2, 40), st.integers(0, 1000), st.randoms())
def test_folds_are_about_equal_and_depend_on_the_seed_alone(
    folds: int, count: int, seed: int, shuffler: Random
) -> None:
    if count < folds:
        return
    dataset = dataset_of([(None, "train")] * count)
    sizes = [len(assign_fold(dataset, folds=folds, fold=one, seed=seed).of_split("val")) for one in range(1, folds + 1)]
    assert max(sizes) - min(sizes) <= 1
    mixed = list(dataset.items)
    shuffler.shuffle(mixed)
    shuffled = assign_fold(replace(dataset, items=tuple(mixed)), folds=folds, fold=1, seed=seed)
    assert set(shuffled.items) == set(assign_fold(dataset, folds=folds, fold=1, seed=seed).items)


def test_large_groups_are_spread_over_the_folds() -> None:
    dataset = dataset_of([(group, "train") for group in "aaaaabbbbbcccdde" for _ in range(2)])
    sizes = [len(assign_fold(dataset, folds=3, fold=one, seed=0).of_split("val")) for one in (1, 2, 3)]
    assert sorted(sizes) == [10, 10, 12]


def test_another_seed_gives_other_folds() -> None:
    dataset = dataset_of([(None, "train")] * 30)
    assert len({assign_fold(dataset, folds=5, fold=1, seed=seed).items for seed in range(5)}) == 5
