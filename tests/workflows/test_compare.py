"""Comparing evaluations and runs: what is compared, what is said of it, and what is refused, in one line."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segkit.config import DataConfig, EvaluateConfig, build_config
from segkit.errors import InputError, UsageError
from segkit.workflows.compare import CompareResult, compare, labels_of
from segkit.workflows.evaluate import evaluate
from segkit.workflows.test_looks import read_looks
from tests.processes import Running, segkit
from tests.tiny import save_png

SIDE = 24
NAMES = ("a", "b", "c")


def config(*assignments: str) -> EvaluateConfig:
    return build_config(
        EvaluateConfig, assignments=["bootstrap=40", "compute.device=cpu", "compute.precision=float32", *assignments]
    )


def compared(*inputs: Path, out: Path, **options: Any) -> CompareResult:
    return compare(inputs, out=out, config=config(), **options)


def squares(offset: int) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[4:16, 4 + offset : 16 + offset] = 1
    return mask


def evaluated(root: Path, name: str, offset: int, images: tuple[str, ...] = NAMES, folder: str = "truth") -> Path:
    """Evaluate masks that lie `offset` pixels beside the truth; the further down the alphabet, the more."""
    for number, image in enumerate(images):
        save_png(root / folder / f"{image}.png", squares(0))
        save_png(root / "found" / name / f"{image}.png", squares(offset + number))
    evaluate(config(), prediction=root / "found" / name, truth=root / folder, out=root / "evaluations" / name)
    shutil.rmtree(root / folder)
    return root / "evaluations" / name


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two evaluations of the same images; not to be changed."""
    root = tmp_path_factory.mktemp("pair")
    return evaluated(root, "near", 1), evaluated(root, "far", 4)


def changed(folder: Path, to: Path, change: Callable[[dict[str, Any]], Any], name: str = "metrics.json") -> Path:
    """Copy an evaluation and change one of its JSON files."""
    shutil.copytree(folder, to)
    content = json.loads((to / name).read_text())
    change(content)
    (to / name).write_text(json.dumps(content))
    return to


# Evaluations


def test_evaluations_are_compared_and_files_are_left(pair: tuple[Path, Path], tmp_path: Path) -> None:
    notes: list[str] = []
    result = compared(*pair, out=tmp_path / "out", on_note=notes.append)
    assert {path.name for path in (tmp_path / "out").iterdir()} - {".lock"} == {
        "comparison.json", "comparison.csv", "comparison.md", "table.tex", "run.json"
    }  # fmt: skip
    near, far = (json.loads((folder / "metrics.json").read_text()) for folder in pair)
    headline = result.comparison.headline
    assert [value.value for value in headline.values] == [near["headline"]["value"], far["headline"]["value"]]
    (difference,) = headline.differences
    assert difference.estimate.value == pytest.approx(far["headline"]["value"] - near["headline"]["value"], abs=2e-6)
    assert (difference.share_better, difference.share_worse) == (0, 1)
    assert result.comparison.labels == ("near", "far")
    assert notes == result.remarks == []
    content = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert content["folders"] == {"near": str(pair[0]), "far": str(pair[1])}
    assert {"dice", "share_better"} <= content["definitions"].keys()
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (record["command"], record["images"], record["complete"]) == ("compare", list(NAMES), True)
    with (tmp_path / "out" / "comparison.csv").open() as handle:
        assert {row["image"] for row in csv.DictReader(handle)} == set(NAMES)


def test_images_that_not_all_have_are_left_out_and_named(pair: tuple[Path, Path], tmp_path: Path) -> None:
    more = evaluated(tmp_path, "more", 2, ("a", "b", "d", "e"))
    notes: list[str] = []
    result = compared(pair[0], more, out=tmp_path / "out", on_note=notes.append)
    assert [image.image for image in result.comparison.images] == ["a", "b"]
    assert notes == [
        "near: 1 of 3 images are not in all evaluations and are left out: c",
        "more: 2 of 4 images are not in all evaluations and are left out: d, e",
    ]
    assert all(note in (tmp_path / "out" / "comparison.md").read_text() for note in notes)
    other = evaluated(tmp_path, "other", 2, ("x",))
    with pytest.raises(InputError, match="no image in common") as caught:
        compared(pair[0], other, out=tmp_path / "none")
    assert len(caught.value.problems) == 2


def test_three_are_compared_with_the_first(pair: tuple[Path, Path], tmp_path: Path) -> None:
    third = evaluated(tmp_path, "third", 2)
    comparison = compared(*pair, third, out=tmp_path / "out").comparison
    assert comparison.labels == ("near", "far", "third")
    values = [value.value or 0 for value in comparison.headline.values]
    differences = [one.estimate.value for one in comparison.headline.differences]
    assert differences == pytest.approx([values[1] - values[0], values[2] - values[0]], abs=2e-6)


def test_groups_are_resampled_where_all_agree_on_them(pair: tuple[Path, Path], tmp_path: Path) -> None:
    folders = []
    for number, folder in enumerate(pair):
        copy = tmp_path / str(number)
        shutil.copytree(folder, copy)
        text = (
            (copy / "metrics.csv").read_text().replace("a,,", "a,s1,").replace("b,,", "b,s1,").replace("c,,", "c,s2,")
        )
        (copy / "metrics.csv").write_text(text)
        folders.append(copy)
    comparison = compared(*folders, out=tmp_path / "out").comparison
    assert (comparison.unit, comparison.num_units) == ("group", 2)
    (folders[1] / "metrics.csv").write_text((folders[1] / "metrics.csv").read_text().replace("b,s1,", "b,s2,"))
    result = compared(*folders, out=tmp_path / "out")
    assert (result.comparison.unit, result.comparison.num_units) == ("image", 3)
    assert result.remarks == ["the evaluations have images in different groups: intervals are over images"]


def test_what_differs_and_may_differ_is_said(pair: tuple[Path, Path], tmp_path: Path) -> None:
    def measured_on_val(record: dict[str, Any]) -> None:
        record["model"] = "n"
        record["settings"]["split"] = "val"

    def change(record: dict[str, Any]) -> None:
        record["model"] = "m"
        record["settings"] |= {"split": "all", "dihedral": True, "bootstrap": 7}

    first = changed(pair[0], tmp_path / "first", measured_on_val, "run.json")
    second = changed(pair[1], tmp_path / "second", change, "run.json")
    metrics = json.loads((second / "metrics.json").read_text())
    metrics["definitions"]["dice"] = "otherwise"
    (second / "metrics.json").write_text(json.dumps(metrics))
    assert compared(first, second, out=tmp_path / "out").remarks == [
        "first and second were measured on the splits val and all: images that a model has learned from may be among "
        "the common ones",
        "first and second differ in dihedral: False and True",
        "first and second define dice otherwise: they come from different versions of segkit",
    ]


def test_another_comparison_replaces_the_former_one(pair: tuple[Path, Path], tmp_path: Path) -> None:
    compared(*pair, out=tmp_path / "out")
    again = compared(pair[1], pair[0], out=tmp_path / "out")
    assert json.loads((tmp_path / "out" / "comparison.json").read_text())["evaluations"] == ["far", "near"]
    assert again.comparison.headline.differences[0].share_better == 1


# What is refused


def test_other_truths_are_refused_by_image(pair: tuple[Path, Path], tmp_path: Path) -> None:
    mask = squares(0)
    mask[0, :3] = 1
    for image in NAMES:
        save_png(tmp_path / "truth" / f"{image}.png", mask if image == "b" else squares(0))
        save_png(tmp_path / "found" / f"{image}.png", squares(1))
    evaluate(config(), prediction=tmp_path / "found", truth=tmp_path / "truth", out=tmp_path / "evaluation")
    with pytest.raises(InputError, match=r"different truths\. In b 432 and 429 pixels of background are labelled"):
        compared(pair[0], tmp_path / "evaluation", out=tmp_path / "out")


def test_other_tasks_classes_and_rules_are_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    for name in NAMES:
        save_png(tmp_path / "labels" / f"{name}.png", squares(0) * 7)
        save_png(tmp_path / "ids" / f"{name}.png", squares(1) * 7)
    evaluate(config(), prediction=tmp_path / "ids", truth=tmp_path / "labels", out=tmp_path / "objects")
    with pytest.raises(InputError, match="they measure pixels and objects"):
        compared(pair[0], tmp_path / "objects", out=tmp_path / "out")
    shutil.copytree(pair[1], tmp_path / "renamed")
    table = tmp_path / "renamed" / "metrics.csv"
    table.write_text(table.read_text().replace("foreground", "gland"))
    with pytest.raises(InputError, match=r"their classes are \(background, foreground\) and \(background, gland\)"):
        compared(pair[0], tmp_path / "renamed", out=tmp_path / "out")
    for key, value, words in (
        ("radius_px", 7.5, "radius of a match in pixels is None and 7.5"),
        ("rule", "midog", "rule of matching is None and midog"),
        ("thresholds", [0.5], "thresholds of IoU"),
    ):
        other = changed(pair[1], tmp_path / key, lambda metrics, key=key, value=value: metrics.update({key: value}))
        with pytest.raises(InputError, match=words):
            compared(pair[0], other, out=tmp_path / "out")
    assert not (tmp_path / "out" / "comparison.json").exists()


@pytest.mark.parametrize("what", ["none", "file", "predict", "unfinished", "damaged", "empty", "short"])
def test_what_is_no_evaluation_and_no_run_is_refused(pair: tuple[Path, Path], tmp_path: Path, what: str) -> None:
    folder = tmp_path / "other"
    shutil.copytree(pair[1], folder)
    words = {
        "none": "is no folder. Give folders that `segkit evaluate` left",
        "file": "is no folder",
        "predict": "is what `segkit predict` left",
        "unfinished": "an evaluation that was not finished",
        "damaged": "no evaluation that was finished",
        "empty": r"metrics\.csv: has the columns , which are not those of an evaluation",
        "short": r"metrics\.csv: holds 5 rows, and 3 images with 2 classes",
    }[what]
    if what == "none":
        shutil.rmtree(folder)
    elif what == "file":
        shutil.rmtree(folder)
        folder.touch()
    elif what == "predict":
        (folder / "run.json").write_text('{"command": "predict"}')
    elif what == "unfinished":
        (folder / "run.json").unlink()
    elif what == "damaged":
        (folder / "metrics.json").write_text("{")
    elif what == "empty":
        (folder / "metrics.csv").write_text("")
    else:
        rows = (folder / "metrics.csv").read_text().splitlines()
        (folder / "metrics.csv").write_text("\n".join(rows[:-1]))
    with pytest.raises(InputError, match=words):
        compared(pair[0], folder, out=tmp_path / "out")


def test_one_alone_or_twice_is_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least two"):
        compared(pair[0], out=tmp_path)
    with pytest.raises(UsageError, match="is given twice"):
        compared(pair[0], pair[0] / "." / "", out=tmp_path)
    with pytest.raises(UsageError, match="all that is given has been evaluated already"):
        compared(*pair, out=tmp_path, data=DataConfig(dir=tmp_path))


def test_files_that_nobody_signed_are_not_replaced_and_those_of_an_interrupted_comparison_are(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, words in (
        (
            "comparison.md",
            r"holds comparison\.md, which would be replaced, and nothing says that `segkit compare`",
        ),
        ("table.tex", r"holds table\.tex"),
        ("checkpoints", r"is the folder of a training \(checkpoints\)"),
    ):
        (tmp_path / name / name).mkdir(parents=True)
        with pytest.raises(UsageError, match=words):
            compared(*pair, out=tmp_path / name)
    out = tmp_path / "out"

    def stop(*_: Any, **__: Any) -> None:
        (out / "comparison.csv").write_text("half of it")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("segkit.workflows.compare.write_comparison", stop)
        with pytest.raises(KeyboardInterrupt):
            compared(*pair, out=out)
    compared(*pair, out=out)
    assert json.loads((out / "run.json").read_text())["complete"] is True
    assert not (out / ".started.json").exists()


def test_an_evaluation_is_not_replaced_by_the_comparison(pair: tuple[Path, Path]) -> None:
    with pytest.raises(UsageError, match="holds what `segkit evaluate` left"):
        compared(*pair, out=pair[0])
    assert not (pair[0] / "comparison.json").exists()


def test_labels_are_what_tells_paths_apart(tmp_path: Path) -> None:
    def labels(*names: str) -> list[str]:
        return list(labels_of([tmp_path / name for name in names]))

    assert labels("runs/one", "runs/two") == ["one", "two"]
    assert labels("one/evaluation", "two/evaluation") == ["one/evaluation", "two/evaluation"]
    assert labels("runs/one/model.safetensors", "models/b.safetensors") == ["one", "b.safetensors"]
    with pytest.raises(UsageError, match="they are the same"):
        labels("runs/one", "runs/one/model.safetensors")


# Runs


def test_runs_are_evaluated_first_and_looks_at_the_test_set_are_recorded(
    tiny_run: Path, tiny_data: Path, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    runs = [tmp_path / "first", tmp_path / "second"]
    for run in runs:
        shutil.copytree(tiny_run, run)
        (run / "test_looks.csv").unlink(missing_ok=True)
    with pytest.raises(UsageError, match=r"a run is evaluated first, and needs images\. Give --data DIR"):
        compared(*runs, out=tmp_path / "out")
    notes: list[str] = []
    told: list[str] = []
    result = compare(
        [runs[0], runs[1] / "model.safetensors"], out=tmp_path / "out", data=DataConfig(dir=tiny_data),
        config=config("split=test"), on_note=notes.append, on_progress=lambda stage, *_: told.append(stage),
    )  # fmt: skip
    assert [image.image for image in result.comparison.images] == ["field6", "field7"]
    assert result.comparison.headline.differences[0].estimate.value == 0
    for run in runs:
        (look,) = read_looks(run)
        assert (look["split"], look["out"]) == ("test", str(tmp_path / "out" / run.name))
        assert (tmp_path / "out" / run.name / "metrics.json").is_file()
    assert "first: evaluate" in told
    assert any(note.startswith("second: splits: those of the training") for note in notes)
    # Runs and evaluations together, and what is there of the former comparison is used again.
    other = compare(
        [tmp_path / "out" / "first", runs[1]], out=tmp_path / "mixed", data=DataConfig(dir=tiny_data),
        config=config("split=test"),
    )  # fmt: skip
    assert other.comparison.headline == result.comparison.headline
    # Before a model is run it is seen that the evaluation is of no use.
    (tmp_path / "out" / "first" / "metrics.csv").write_text("")
    with pytest.raises(InputError, match="not those of an evaluation"):
        compare(
            [runs[1], tmp_path / "out" / "first"], out=tmp_path / "last", data=DataConfig(dir=tiny_data),
            config=config("split=test"),
        )  # fmt: skip
    assert len(read_looks(runs[1])) == 2


# The command


def test_the_command_shows_one_table_and_leaves_the_files(pair: tuple[Path, Path], tmp_path: Path) -> None:
    near, far = pair
    ended = Running(tmp_path, segkit, "compare", near, far, "--set", "bootstrap=40").wait()
    assert ended.code == 0, ended.err
    for words in (
        "far - near",
        "better in",
        "Dice",
        "pixel error",
        "no p-value",
        "comparison/comparison.md",
        "  c: 0.",
    ):
        assert words in ended.out
    ended = Running(tmp_path, segkit, "compare", near, far, "--out", tmp_path / "o", "--json").wait()
    assert json.loads(ended.out)["comparison"]["labels"] == ["near", "far"]
    ended = Running(tmp_path, segkit, "compare", near).wait()
    assert (ended.code, "at least two" in ended.err) == (2, True)
    ended = Running(tmp_path, segkit, "compare", near, tmp_path / "nothing").wait()
    assert (ended.code, len(ended.err.strip().splitlines())) == (3, 1)
