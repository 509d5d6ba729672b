"""Membranes in `segkit evaluate`: which class they are, given masks, and a threshold chosen on other images."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from segkit.config import DataConfig, EvaluateConfig, build_config
from segkit.data.rasters import read_values
from segkit.errors import ConfigError
from segkit.evaluation.membrane_images import MembraneRules
from segkit.evaluation.membrane_totals import METRICS
from segkit.evaluation.membranes import THRESHOLDS, thinned_scores, thinned_sweep
from segkit.evaluation.pixel_tables import PixelReport
from segkit.workflows import evaluate_masks
from segkit.workflows.evaluate import EvaluateResult, evaluate
from segkit.workflows.membrane_thresholds import membrane_rules
from tests.processes import Running, segkit
from tests.tiny import draw_field, save_png
from tests.workflows.predictions import run

CLASSES = "classes: [membrane, cell]\n"
COMPUTE = ("compute.device=cpu", "compute.precision=float32", "bootstrap=20")


def grid(shift: int, gap: int) -> NDArray[np.uint8]:
    """Return cells (1) in a grid of membranes (0), 2 px wide, with a gap between two cells."""
    mask = np.ones((48, 60), np.uint8)
    for start in range(5 + shift, 48, 14):
        mask[start : start + 2] = 0
    for start in range(8, 60, 17):
        mask[:, start : start + 2] = 0
    mask[20 : 20 + gap, 8:10] = 1
    return mask


TRUTHS = {f"slice{number}": grid(number, 0) for number in range(3)}
MASKS = {f"slice{number}": grid(number + 1, 2 * number) for number in range(3)}


def write(folder: Path, masks: dict[str, NDArray[np.uint8]]) -> Path:
    for name, mask in masks.items():
        save_png(folder / f"{name}.png", mask)
    return folder


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `found`, masks of membranes and cells, and `data`, a data folder of them; not to be changed."""
    root = tmp_path_factory.mktemp("membranes")
    write(root / "found", MASKS)
    write(root / "data" / "masks", TRUTHS)
    write(root / "data" / "images", {name: mask * 90 + 60 for name, mask in TRUTHS.items()})
    (root / "data" / "dataset.yaml").write_text(CLASSES)
    rows = "".join(f"{name},val,{animal}\n" for name, animal in zip(TRUTHS, ("fly", "fly", "mouse"), strict=True))
    (root / "data" / "splits.csv").write_text(f"image,split,animal\n{rows}")
    return root


def config(*assignments: str) -> EvaluateConfig:
    return build_config(EvaluateConfig, assignments=[*COMPUTE, *assignments])


def measure_given(root: Path, out: Path, *assignments: str) -> EvaluateResult:
    return evaluate(config(*assignments), prediction=root / "found", truth=root / "data", out=out)


def metrics_of(folder: Path) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return metrics


def report_of(result: EvaluateResult) -> PixelReport:
    assert isinstance(result.report, PixelReport)
    return result.report


def test_the_command_measures_masks_of_membranes(given: Path, tmp_path: Path) -> None:
    ended = Running(
        tmp_path, segkit, "evaluate", "--pred", given / "found", "--truth", given / "data", "--out", "measured"
    ).wait()
    assert ended.code == 0, ended.err
    scores = [thinned_scores(MASKS[name] > 0, TRUTHS[name] > 0) for name in TRUTHS]
    v_rand, v_info = ([getattr(one, metric).score for one in scores] for metric in ("v_rand", "v_info"))
    assert 0.5 < np.mean(v_rand) < 1  # two cells are merged
    out = tmp_path / "measured"
    metrics = metrics_of(out)
    found = metrics["membranes"]
    assert (found["class"], found["num_images"], found["headline"]["how"]) == ("membrane", 3, "mean")
    assert found["headline"]["value"] == pytest.approx(np.mean(v_rand), abs=1e-6)
    assert found["mean"]["v_info"]["value"] == pytest.approx(np.mean(v_info), abs=1e-6)
    assert set(METRICS) <= set(metrics["definitions"])
    assert (found["thresholds"], found["chosen_threshold"], found["best_threshold"]) == ([], None, {})
    assert [(one["by"], one["name"], one["num_images"]) for one in found["groups"]] == [
        ("animal", "fly", 2),
        ("animal", "mouse", 1),
    ]
    assert found["groups"][0]["mean"]["v_rand"]["value"] == pytest.approx(np.mean(v_rand[:2]), abs=1e-6)
    with (out / "metrics.csv").open() as handle:
        rows = [row for row in csv.DictReader(handle) if row["class"] == "cell"]
    assert [float(row["v_rand"]) for row in rows] == pytest.approx(v_rand, abs=1e-6)
    assert "## Membranes" in (out / "summary.md").read_text()
    assert "V-Rand" in (out / "table.tex").read_text()
    page = (out / "report.html").read_text()
    assert page.count("Membranes") > 1
    assert "V-Info" in page
    assert f"V-Rand {np.mean(v_rand):.3f}" in ended.out


@pytest.mark.parametrize("setting", ["membrane=none", "membrane=cell", "membrane=membrane"])
def test_which_class_is_membrane_can_be_said(given: Path, tmp_path: Path, setting: str) -> None:
    report = report_of(measure_given(given, tmp_path, setting))
    if setting == "membrane=none":
        assert report.membranes is None
        assert metrics_of(tmp_path)["membranes"] is None
        assert "V-Rand" not in (tmp_path / "report.html").read_text()
        assert "v_rand" not in metrics_of(tmp_path)["definitions"]
        return
    value = 0 if setting == "membrane=membrane" else 1
    scores = [thinned_scores(MASKS[name] != value, TRUTHS[name] != value).v_rand.score for name in TRUTHS]
    assert report.membranes is not None
    assert [row.metrics["v_rand"] for row in report.membranes.images] == pytest.approx(scores, abs=1e-6)


def test_only_a_class_that_there_is_can_be_membrane() -> None:
    with pytest.raises(ConfigError, match=r"membrane = wall: the classes are membrane, cell"):
        membrane_rules(config("membrane=wall"), ("membrane", "cell"))
    of_three = membrane_rules(config("membrane=wall"), ("cytoplasm", "nucleus", "wall"))
    assert of_three == MembraneRules(index=2)
    assert membrane_rules(config(), ("cytoplasm", "nucleus", "wall")) is None
    of_two = membrane_rules(config("membrane_threshold=0.72"), ("background", "wall"))
    assert of_two is not None
    assert (of_two.index, 0.72 in of_two.thresholds, len(of_two.thresholds)) == (1, True, len(THRESHOLDS) + 1)


def test_images_that_are_too_large_are_left_out_and_named(
    given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    small = TRUTHS["slice0"].copy()[:, :50]
    write(tmp_path / "data" / "masks", {**TRUTHS, "slice0": small})
    write(tmp_path / "found", {**MASKS, "slice0": small})
    monkeypatch.setattr(evaluate_masks, "LARGEST_WHOLE_PX", small.size)
    result = evaluate(
        config("membrane=background"), prediction=tmp_path / "found", truth=tmp_path / "data", out=tmp_path / "out",
        on_note=notes.append,
    )  # fmt: skip
    report = report_of(result)
    assert report.membranes is not None
    assert [row.image for row in report.membranes.images] == ["slice0"]
    assert len(report.images) == 3
    assert any("slice1 and 1 more" in note and "membranes" in note for note in notes)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "V-Rand" in page
    monkeypatch.setattr(evaluate_masks, "LARGEST_WHOLE_PX", 1)
    assert report_of(measure_given(given, tmp_path / "none")).membranes is None


def test_probabilities_beside_masks_are_swept(tiny_run: Path, tmp_path: Path) -> None:
    truth = {}
    for number in (4, 5):
        image, mask = draw_field(number)
        save_png(tmp_path / "images" / f"field{number}.png", image)
        truth[f"field{number}"] = mask
    write(tmp_path / "truth", truth)
    run(sorted((tmp_path / "images").iterdir()), tiny_run, tmp_path / "found", "probability=true", "mpp=0.5")
    result = evaluate(
        config("membrane=background", "membrane_threshold=0.33"),
        prediction=tmp_path / "found", truth=tmp_path / "truth", out=tmp_path / "out",
    )  # fmt: skip
    membranes = report_of(result).membranes
    assert membranes is not None
    assert membranes.chosen is not None
    assert (membranes.chosen.threshold, membranes.chosen.chosen_on) == (0.33, None)
    thresholds = [one.threshold for one in membranes.sweep]
    assert thresholds == sorted([*THRESHOLDS, 0.33])
    cells = [read_values(tmp_path / "found" / name / "probability.tif") / 255 for name in truth]
    sweeps = [thinned_sweep(one, mask == 1, thresholds) for one, mask in zip(cells, truth.values(), strict=True)]
    for place, at in enumerate(membranes.sweep):
        expected = np.mean([sweep[place].v_rand.score for sweep in sweeps])
        assert at.mean["v_rand"].value == pytest.approx(expected, abs=1e-6)
    assert len({at.mean["v_rand"].value for at in membranes.sweep}) > 1
    summary = (tmp_path / "out" / "summary.md").read_text()
    assert "The threshold 0.33 was given." in summary
    (tmp_path / "found" / "field5" / "probability.tif").unlink()
    notes: list[str] = []
    result = evaluate(
        config("membrane=background"),
        prediction=tmp_path / "found", truth=tmp_path / "truth", out=tmp_path / "out", on_note=notes.append,
    )  # fmt: skip
    without = report_of(result).membranes
    assert without is not None
    assert (without.sweep, without.mean) == ((), membranes.mean)
    assert any("probabilities are known of 1 of 2 images" in note for note in notes)


@pytest.mark.parametrize(
    ("split", "chosen_on"),
    [("val", "4 images of the split train"), ("test", "2 images of the split val"), ("all", None)],
)
def test_a_threshold_is_chosen_on_another_split(
    tiny_data: Path, tiny_run: Path, tmp_path: Path, split: str, chosen_on: str | None
) -> None:
    notes: list[str] = []
    result = evaluate(
        config("membrane=background", f"split={split}"),
        data=DataConfig(dir=tiny_data), model=tiny_run, out=tmp_path, on_note=notes.append,
    )  # fmt: skip
    membranes = report_of(result).membranes
    assert membranes is not None
    assert len(membranes.sweep) == len(THRESHOLDS)
    assert set(membranes.best) == {"v_rand", "v_info"}
    if chosen_on is None:
        assert membranes.chosen is None
        assert any("no threshold was chosen" in note for note in notes)
        return
    assert membranes.chosen is not None
    assert membranes.chosen.chosen_on == chosen_on
    assert any(f"chosen on {chosen_on}" in note for note in notes)
    assert not any(path.stem in {"field0", "field1"} for path in (tmp_path / "predictions").iterdir())
    assert f"chosen on {chosen_on}" in (tmp_path / "report.html").read_text()
    if split == "val":
        # The score is what measuring the training images themselves gives.
        of_train = evaluate(
            config("membrane=background", "split=train", "membrane_threshold=none"),
            data=DataConfig(dir=tiny_data), model=tiny_run, out=tmp_path / "train",
        )  # fmt: skip
        train = report_of(of_train).membranes
        assert train is not None
        assert train.chosen is None
        there = {one.threshold: one.mean["v_rand"].value for one in train.sweep}
        assert membranes.chosen.score == there[membranes.chosen.threshold]
        assert len(set(there.values())) > 1
