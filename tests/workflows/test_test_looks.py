"""How often the test set was looked at is written down beside the model; training does not look at all."""

import json
from pathlib import Path

import pytest

from segkit.config import DataConfig, EvaluateConfig, build_config
from segkit.config.sections import ComputeConfig
from segkit.errors import InputError
from segkit.models.model_file import load_model
from segkit.workflows.evaluate import evaluate
from segkit.workflows.test_looks import WHAT_COUNTS, read_looks
from segkit.workflows.train import train
from tests.tiny import make_data, make_point_data, tiny_config, tiny_point_config

TESTED = ("field6", "field7", "disks6", "disks7")


def look(data: Path, model: Path, out: Path, split: str, notes: list[str] | None = None) -> None:
    config = build_config(EvaluateConfig, assignments=["bootstrap=20", f"split={split}"])
    config = config.model_copy(update={"compute": ComputeConfig(device="cpu", precision="float32")})
    on_note = (lambda _: None) if notes is None else notes.append
    evaluate(config, data=DataConfig(dir=data), model=model, out=out, on_note=on_note)


@pytest.fixture
def trained(tiny_data: Path, tmp_path: Path) -> Path:
    return train(tiny_config(tiny_data, "epochs=1"), out=tmp_path / "run").run


def test_each_look_at_the_test_set_is_a_line_beside_the_model(tiny_data: Path, trained: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    look(tiny_data, trained, tmp_path / "val", "val", notes)
    assert not (trained / "test_looks.csv").exists()
    look(tiny_data, trained, tmp_path / "first, with a comma", "test", notes)
    assert not any("looked at" in note for note in notes)
    told = f"the test set has been looked at 1 time with models of {trained}. {WHAT_COUNTS}"
    assert told in json.loads((tmp_path / "first, with a comma" / "metrics.json").read_text())["notes"]
    # The model's file means the same as its folder; all images are the test images, too.
    look(tiny_data, trained / "model.safetensors", tmp_path / "second", "all", notes)
    looks = read_looks(trained)
    assert [(one["split"], one["out"]) for one in looks] == [
        ("test", str(tmp_path / "first, with a comma")),
        ("all", str(tmp_path / "second")),
    ]
    assert {one["model_sha256"] for one in looks} == {load_model(trained).sha256}
    assert [one["date"] for one in looks] == sorted(one["date"] for one in looks)
    assert any("the test set has been looked at 2 times" in note for note in notes)
    assert f"2 times with models of {trained}. {WHAT_COUNTS}" in (tmp_path / "second" / "summary.md").read_text()
    page = (tmp_path / "second" / "report.html").read_text()
    assert page.count(WHAT_COUNTS.replace("'", "&#x27;")) == 2  # with the warning, and with the list of looks
    look(tiny_data, trained, tmp_path / "val", "val", notes)
    look(tiny_data, trained, tmp_path / "train", "train", notes)
    assert read_looks(trained) == looks


def test_looks_at_a_training_that_was_stopped_count_too(tiny_data: Path, trained: Path, tmp_path: Path) -> None:
    (trained / "run.json").unlink()  # as while it is trained
    look(tiny_data, trained, tmp_path / "out", "test")
    assert len(read_looks(trained)) == 1


def test_a_look_that_fails_is_not_counted_and_one_that_cannot_be_written_down_is_told(
    tiny_data: Path, trained: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError):
        look(make_data(tmp_path / "other", splits=("train", "val"), num_images=2), trained, tmp_path / "out", "test")
    assert read_looks(trained) == []
    (trained / "test_looks.csv").mkdir()
    notes: list[str] = []
    look(tiny_data, trained, tmp_path / "out", "test", notes)
    assert any("cannot be written down" in note for note in notes)


def test_looks_are_kept_when_the_run_is_trained_on(tiny_data: Path, trained: Path, tmp_path: Path) -> None:
    look(tiny_data, trained, tmp_path / "out", "test")
    train(tiny_config(tiny_data, "epochs=2"), resume=trained)
    assert len(read_looks(trained)) == 1


NAMED = "classes: {0: stroma, 255: disk}\n"


@pytest.mark.parametrize("kind", ["masks", "masks with named classes", "points"])
def test_training_never_opens_a_test_image(tmp_path: Path, kind: str) -> None:
    if kind == "points":
        data, make_config = make_point_data(tmp_path / "data"), tiny_point_config
    else:
        data = make_data(tmp_path / "data", description=NAMED if "named" in kind else "")
        make_config = tiny_config
    folders = ("images", "masks")  # in those of training and validation it is found which classes there are
    spoiled = [path for folder in folders for name in TESTED for path in data.glob(f"{folder}/{name}.png")]
    assert len(spoiled) == (2 if kind == "points" else 4)
    for path in spoiled:
        path.write_bytes(b"garbage")
    result = train(make_config(data, "epochs=2", "average_best=2", "patience=1"), out=tmp_path / "run")
    assert (result.run / "run.json").exists()
    with pytest.raises(InputError):  # they cannot be read, indeed
        look(data, result.run, tmp_path / "out", "test")
