"""Several trainings, each validated on another part of the images, used as one model."""

import csv
import json
import statistics
from pathlib import Path

import numpy as np
import pytest

from segkit.config import TrainConfig, build_config
from segkit.data import cache
from segkit.errors import InputError, InterruptedRunError, UsageError
from segkit.models.model_file import load_model
from segkit.workflows.folds import FoldsResult, train_folds
from segkit.workflows.runs import read_splits
from tests.tiny import draw_field, make_data, tiny_config, write_slide
from tests.workflows.predictions import one, read_pixels, run
from tests.workflows.stopping import asking_at

FOLDS = 3


@pytest.fixture(scope="module")
def folds(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> FoldsResult:
    """Three folds of the tiny data; not to be changed."""
    return train_folds(tiny_config(tiny_data, "epochs=2"), FOLDS, out=tmp_path_factory.mktemp("folds") / "run")


def test_each_fold_is_a_run_of_its_own_and_the_table_has_their_scores(folds: FoldsResult) -> None:
    runs = [folds.run / f"fold-{number}" for number in range(1, FOLDS + 1)]
    assert [one.run for one in folds.folds] == runs
    for number, path in enumerate(runs, start=1):
        assert json.loads((path / "run.json").read_text())["complete"] is True
        config = build_config(TrainConfig, file=path / "config.yaml")
        assert (config.data.folds, config.data.fold) == (FOLDS, number)
    with (folds.run / "folds.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [(int(row["fold"]), int(row["best_epoch"]), float(row["dice"])) for row in rows] == [
        (number, one.best_epoch, one.score) for number, one in enumerate(folds.folds, start=1)
    ]
    scores = [one.score for one in folds.folds]
    assert (folds.mean, folds.deviation) == (statistics.fmean(scores), statistics.stdev(scores))
    assert len({load_model(path).sha256 for path in runs}) == FOLDS


def test_every_image_validates_once_and_the_test_set_never(folds: FoldsResult) -> None:
    splits = [read_splits(one.run) for one in folds.folds]
    for name in splits[0]:
        of_image = sorted(split[name] for split in splits)
        assert of_image == (["test"] * 3 if name in {"field6", "field7"} else ["train", "train", "val"])


def test_the_folder_is_the_average_of_its_models(folds: FoldsResult, tmp_path: Path) -> None:
    listed = json.loads((folds.run / "models.json").read_text())
    assert listed == {"models": [f"fold-{number}/model.safetensors" for number in range(1, FOLDS + 1)]}
    slide = write_slide(tmp_path / "tissue.tif", draw_field(50, 150, 210)[0])
    models = [one.model for one in folds.folds]
    as_one, given, first = (
        one(run([slide], model, tmp_path / name, "probability=true"))
        for name, model in {"as_one": [folds.run], "given": models, "first": models[:1]}.items()
    )
    for name in ("mask.tif", "objects.csv", "probability.tif"):
        assert (as_one.folder / name).read_bytes() == (given.folder / name).read_bytes()
    # The probability of the average is the average of the probabilities.
    singly = [
        one(run([slide], model, tmp_path / f"{number}", "probability=true")) for number, model in enumerate(models)
    ]
    mean = np.mean([read_pixels(found.folder / "probability.tif").astype(float) for found in singly], axis=0)
    assert np.abs(read_pixels(as_one.folder / "probability.tif") - mean).max() <= 1.5
    assert (as_one.folder / "probability.tif").read_bytes() != (first.folder / "probability.tif").read_bytes()


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file() and path.name not in {".lock", "log.txt"}
    }


def test_given_again_it_goes_on_in_the_fold_that_was_stopped(
    tiny_data: Path, folds: FoldsResult, tmp_path: Path
) -> None:
    config = tiny_config(tiny_data, "epochs=2")
    folder = tmp_path / "run"
    with pytest.raises(
        InterruptedRunError, match=r"stopped after step 7 of 10.*this fold alone.*--out .*run"
    ) as caught:
        train_folds(config, FOLDS, out=folder, hold=asking_at(folder / "fold-2", 7))
    assert caught.value.exit_code == 143
    assert not (folder / "models.json").exists()
    assert not (folder / "folds.csv").exists()
    assert not (folder / "fold-3").exists()
    before = contents(folder / "fold-1")
    notes: list[str] = []
    result = train_folds(config, FOLDS, out=folder, on_note=notes.append)
    assert contents(folder / "fold-1") == before
    assert any(note.startswith("resumed from") and "fold-2" in note and "step 7" in note for note in notes)
    assert any("fold-1: is finished" in note for note in notes)
    assert [load_model(one.model).sha256 for one in result.folds] == [
        load_model(one.model).sha256 for one in folds.folds
    ]
    assert [one.score for one in result.folds] == [one.score for one in folds.folds]
    assert (folder / "folds.csv").read_bytes() == (folds.run / "folds.csv").read_bytes()


def test_all_folds_share_the_decoded_images(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MEMORY_SHARE", 10**12)  # so that they would fill the memory
    folder = tmp_path / "run"
    train_folds(tiny_config(tiny_data, "epochs=1", "steps_per_epoch=1"), 2, out=folder)
    assert len(list((folder / "cache").glob("*.npy"))) == 2 * 6  # image and mask of each that is not for testing
    assert not list(folder.glob("fold-*/cache"))


def test_another_number_of_folds_or_other_settings_are_refused(tiny_data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(InterruptedRunError):
        train_folds(tiny_config(tiny_data, "epochs=1"), 2, out=folder, hold=asking_at(folder / "fold-1", 1))
    with pytest.raises(UsageError, match="settings that it was begun with") as caught:
        train_folds(tiny_config(tiny_data, "epochs=1"), 3, out=folder)
    assert caught.value.problems == ["data.folds = 3"]
    with pytest.raises(UsageError, match="settings that it was begun with"):
        train_folds(tiny_config(tiny_data, "epochs=1", "seed=1"), 2, out=folder)


def test_so_are_they_where_all_folds_are_finished(tiny_data: Path, folds: FoldsResult) -> None:
    before = contents(folds.run)
    with pytest.raises(UsageError, match="settings that it was begun with") as caught:
        train_folds(tiny_config(tiny_data, "epochs=2"), FOLDS + 1, out=folds.run)
    assert caught.value.problems == [f"data.folds = {FOLDS + 1}"]
    with pytest.raises(UsageError, match="settings that it was begun with") as caught:
        train_folds(tiny_config(tiny_data, "epochs=2", "seed=1"), FOLDS, out=folds.run)
    assert caught.value.problems == ["seed = 1"]
    assert contents(folds.run) == before


def test_more_folds_than_images_are_refused(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data", splits=("train", "val", "test"), num_images=3)
    with pytest.raises(InputError, match=r"3 folds need as many images .* there are 2"):
        train_folds(tiny_config(data), 3, out=tmp_path / "run")
