"""Reading: all images with equal channels, kept in files where that is asked for, all problems at once, slides."""

import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segkit.config import DataConfig
from segkit.data import cache, rasters
from segkit.data.cache import CacheSetting, InMemory, MappedFiles
from segkit.data.layout import Dataset, load_dataset
from segkit.data.sampling import PatchSource, sample_rng
from segkit.errors import ConfigError, InputError, ResourceError
from segkit.memory import MemoryLimit
from segkit.slides.geojson import GeoJSONWriter
from segkit.training.validation import LabelledImage
from segkit.workflows import reading
from segkit.workflows.callbacks import quiet_note, quiet_progress
from segkit.workflows.prepare import prepare
from segkit.workflows.reading import (
    Readings,
    channel_statistics,
    kept_planes,
    labelled_image,
    labelled_objects,
    labelled_points,
    read_labelled,
)
from segkit.workflows.tasks import build_task
from tests.tiny import draw_field, make_data, make_point_data, save_png, tiny_config, write_slide


def read(
    dataset: Dataset, setting: CacheSetting = "none", usual: Path | None = None, notes: list[str] | None = None
) -> Readings[LabelledImage]:
    return read_labelled(
        dataset,
        labelled_image,
        bytes_per_pixel=1,
        cache=setting,
        usual_cache=usual,
        by_region=True,
        on_progress=quiet_progress,
        on_note=quiet_note if notes is None else notes.append,
    )


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return load_dataset(DataConfig(dir=make_data(tmp_path / "data")))


def equal(one: Readings[LabelledImage], other: Readings[LabelledImage]) -> bool:
    pairs = zip([*one.train, *one.val], [*other.train, *other.val], strict=True)
    return all(
        a.name == b.name and np.array_equal(a.image, b.image) and np.array_equal(a.mask, b.mask) for a, b in pairs
    )


def test_as_many_threads_read_as_there_are_cores_to_use(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container may use a few of its machine's cores, and each thread holds a whole image."""
    monkeypatch.setattr(reading, "usable_cores", lambda: 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    threads: set[int] = set()

    def make(*args: Any) -> LabelledImage:
        threads.add(threading.get_ident())
        time.sleep(0.02)  # so that others would have begun
        return labelled_image(*args)

    read_labelled(
        dataset, make, bytes_per_pixel=1, cache="none", usual_cache=None, on_progress=quiet_progress, on_note=quiet_note
    )
    assert len(threads) == 1


def test_images_are_those_of_the_files_wherever_they_are_kept(
    tmp_path: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_memory = read(dataset)
    image, mask = draw_field(0)
    assert [one.name for one in in_memory.train] == [f"field{number}" for number in range(4)]
    assert [one.name for one in in_memory.val] == ["field4", "field5"]
    assert np.array_equal(in_memory.train[0].image, image)
    assert np.array_equal(in_memory.train[0].mask, mask)
    mapped = read(dataset, tmp_path / "cache")
    assert equal(mapped, in_memory)
    assert not mapped.train[0].image.flags.writeable
    assert len(list((tmp_path / "cache").iterdir())) == 12
    monkeypatch.setattr(reading, "read_image", None)  # the second time nothing is decoded
    monkeypatch.setattr(reading, "read_mask", None)
    assert equal(read(dataset, tmp_path / "cache"), in_memory)


def test_auto_says_where_decoded_images_go_that_would_fill_the_memory(
    tmp_path: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    needed = 6 * 64 * 72 * 4
    monkeypatch.setattr(cache, "memory_limit", lambda: MemoryLimit(4 * needed, "machine"))
    assert isinstance(read(dataset, "auto", tmp_path / "cache", notes).store, InMemory)
    monkeypatch.setattr(cache, "memory_limit", lambda: MemoryLimit(4 * needed - 1, "machine"))
    assert isinstance(read(dataset, "auto", tmp_path / "cache", notes).store, MappedFiles)
    assert len(notes) == 1
    assert str(tmp_path / "cache") in notes[0]


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(
    tmp_path: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segkit.files.free_bytes", lambda _: 1000)
    with pytest.raises(ResourceError, match=r"data\.cache"):
        read(dataset, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_grey_images_among_colour_ones_become_colour(tmp_path: Path, dataset: Dataset) -> None:
    grey, _ = draw_field(1, channels=1)
    save_png(dataset.root / "images" / "field1.png", grey)
    for setting in ("none", tmp_path / "cache"):
        found = read(dataset, setting).train[1].image
        assert np.array_equal(found, np.repeat(grey, 3, axis=2))


def test_all_problems_are_told_at_once(dataset: Dataset) -> None:
    (dataset.root / "images" / "field0.png").write_bytes(b"no picture")
    save_png(dataset.root / "masks" / "field3.png", np.zeros((5, 5), np.uint8))
    with pytest.raises(InputError) as caught:
        read(dataset)
    assert len(caught.value.problems) == 2
    assert "field0.png" in caught.value.problems[0]
    assert "is 5 x 5 pixels" in caught.value.problems[1]


def test_points_and_objects_are_read_too(tmp_path: Path) -> None:
    points = read_labelled(
        load_dataset(DataConfig(dir=make_point_data(tmp_path / "points"))), labelled_points,
        bytes_per_pixel=0, cache=tmp_path / "cache", usual_cache=None, on_progress=quiet_progress, on_note=quiet_note,
    )  # fmt: skip
    assert all(len(one.points.classes) for one in points.train)
    objects = read_labelled(
        load_dataset(DataConfig(dir=make_data(tmp_path / "masks"))), labelled_objects,
        bytes_per_pixel=5, cache=tmp_path / "cache", usual_cache=None, on_progress=quiet_progress, on_note=quiet_note,
    )  # fmt: skip
    assert all(np.array_equal(one.labels > 0, one.mask == 1) for one in objects.train)
    assert objects.train[0].labels.max() > 1


def test_planes_are_made_once_and_again_where_their_kind_differs(tmp_path: Path, dataset: Dataset) -> None:
    made = []

    def make(one: LabelledImage) -> np.ndarray:
        made.append(one.name)
        return np.stack([one.mask, 255 - one.mask], axis=2)

    for kind, count in (("first", 4), ("first", 4), ("second", 8)):
        found = read(dataset, tmp_path / "cache")
        planes = kept_planes(dataset, found.train, found.store, kind, make, on_progress=quiet_progress)
        assert all(np.array_equal(one[..., 0], image.mask) for one, image in zip(planes, found.train, strict=True))
        assert len(made) == count


@pytest.fixture
def slides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with a small and a large image for training and a small one for validation, with polygons."""
    for name, side in (("small", 64), ("large", 300), ("other", 64)):
        (tmp_path / "images").mkdir(exist_ok=True)
        write_slide(tmp_path / "images" / f"{name}.tif", draw_field(side, side, side)[0])
        (tmp_path / "geojson").mkdir(exist_ok=True)
        with GeoJSONWriter(tmp_path / "geojson" / f"{name}.geojson") as writer:
            corners = np.array([(10, 10), (50, 12), (30, 60)], np.float64)
            writer.add_polygon([corners], label="tumour", colour=(200, 0, 0))
    (tmp_path / "splits.csv").write_text("image,split\nsmall,train\nlarge,train\nother,val\n")
    monkeypatch.setattr(rasters, "MAX_PIXELS", 10_000)
    monkeypatch.setattr(reading, "MAX_PIXELS", 10_000)
    return tmp_path


def test_slides_that_cannot_be_read_whole_are_cut_by_region(slides: Path) -> None:
    found = read(load_dataset(DataConfig(dir=slides)))
    assert [one.name for one in found.train] == ["small"]
    (slide,) = found.slides
    assert slide.image.shape == (300, 300, 3)
    source = PatchSource(
        [found.train[0].image, slide.image], [found.train[0].mask[..., np.newaxis], slide.mask],
        patch_px=32, balanced=0.5, num_classes=2,
    )  # fmt: skip
    whole, _ = draw_field(300, 300, 300)
    targets = [source.draw(sample_rng(0, 0, number), 48)[1] for number in range(40)]
    assert {int(target.max()) for target in targets} == {0, 1}
    mean, _ = channel_statistics([slide.image])
    assert mean == pytest.approx((whole.reshape(-1, 3).mean(axis=0) / 255).tolist(), abs=0.02)


@pytest.mark.parametrize("setting", ["loss.class_weights=balanced", "loss.weight_map=true"])
def test_what_is_counted_in_whole_images_is_refused_with_slides(slides: Path, setting: str) -> None:
    """The slide's classes would not be counted, without a word."""
    prepared = prepare(tiny_config(slides, "data.mpp=0.5", setting), on_progress=quiet_progress, on_note=quiet_note)
    with pytest.raises(ConfigError, match=rf"{setting.replace('=', ' = ')}: .*large is\s+read by region"):
        build_task(prepared, on_progress=quiet_progress, on_note=quiet_note)


def test_slides_that_are_too_large_to_validate_on_are_refused(slides: Path) -> None:
    (slides / "splits.csv").write_text("image,split\nsmall,train\nlarge,val\nother,val\n")
    with pytest.raises(InputError) as caught:
        read(load_dataset(DataConfig(dir=slides)))
    assert "300 x 300 pixels are too many to be read whole" in caught.value.problems[0]
