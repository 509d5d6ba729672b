"""RESULTS.md says what evaluations left, and stands beside it only what published.toml says."""

import json
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segkit.evaluation import membrane_exports
from segkit.evaluation.membrane_tables import ChosenThreshold, tabulate_membranes
from segkit.evaluation.membrane_totals import measure_membranes
from segkit.evaluation.object_exports import write_object_report
from segkit.evaluation.object_tables import measure_objects
from segkit.evaluation.objects import match_objects
from segkit.evaluation.pixel_exports import as_json as pixels_as_json
from segkit.evaluation.pixel_tables import measure_pixels
from segkit.evaluation.point_exports import as_json as points_as_json
from segkit.evaluation.point_tables import measure_points
from segkit.files import write_json
from segkit.points import Detections, Points

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import results  # noqa: E402
import results_rows  # noqa: E402

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
SHIPPED = tomllib.loads(results.PUBLISHED.read_text(encoding="utf-8"))
PAPER = {"text": "A paper, 2018", "link": "<https://doi.org/10.1/1>", "seen": "read"}


def entry(**changes: Any) -> dict[str, Any]:
    return {
        "name": "nuclei",
        "title": "nuclei_of_two_kinds",
        "kind": "objects",
        "split": "val",
        "target": "real-dsb2018",
        "not_comparable": "Other\nimages.",
        **changes,
    }


def published(*entries: dict[str, Any]) -> dict[str, Any]:
    return {"sources": {"other": PAPER, "paper": PAPER}, "results": list(entries)}


def record(**changes: Any) -> dict[str, Any]:
    return {
        "command": "evaluate",
        "settings": {"split": "val", "dihedral": True},
        "versions": {"python": "3.11.7"},
        "finished": "2026-11-21T19:20:52+00:00",
        "complete": True,
        **changes,
    }


@pytest.fixture
def nuclei(tmp_path: Path) -> Path:
    """Return an evaluation of four images of two kinds, in which 4 of 5 and 1 of 3 objects are found."""
    run, folder = tmp_path / "run", tmp_path / "evaluation"
    pairs = [
        ([[1, 0, 2, 0, 3, 0]], [[1, 0, 2, 0, 0, 0]]),
        ([[1, 0, 2, 0, 0, 0]], [[1, 0, 2, 0, 0, 0]]),
        ([[1, 0, 2, 0, 0, 0]], [[1, 0, 0, 0, 0, 0]]),
        ([[1, 0, 0, 0, 0, 0]], [[0, 0, 0, 0, 0, 0]]),
    ]
    report = measure_objects(
        ["a", "b", "c", "d"],
        [match_objects(np.array(truth), np.array(found)) for truth, found in pairs],
        name="nucleus",
        attributes={"modality": ["fluo", "fluo", "histo", "histo"]},
        num_samples=50,
    )
    write_object_report(report, folder)
    training = {
        "epochs": 12,
        "best_epoch": 11,
        "stopped_early": False,
        "seconds": 600.0,
        "peak_memory_bytes": 2 * 10**9,
    }
    write_json(run / "run.json", training)
    model = {"model": str(run / "model.safetensors"), "model_sha256": "0123456789abcdef"}
    write_json(folder / "run.json", record(**model))
    return folder


def of(folder: Path) -> results.Evaluation:
    evaluation = results.read_evaluation(folder)
    assert evaluation is not None
    return evaluation


def test_rows_are_those_of_the_report_with_its_groups(nuclei: Path) -> None:
    rows = {(row.metric, row.part): row for row in results_rows.rows_of(of(nuclei).metrics)}
    assert [part for _, part in rows] == [""] * len(results_rows.OBJECTS) + ["modality fluo"] * 2 + [
        "modality histo"
    ] * 2
    every = rows["AP at IoU 0.5, pooled", ""]
    assert (every.num_images, every.estimate.value) == (4, 5 / 8)
    assert every.estimate.low is not None
    assert every.estimate.low < 5 / 8 < every.estimate.high
    assert rows["AP at IoU 0.5, pooled", "modality fluo"].estimate.value == 4 / 5
    assert rows["AP at IoU 0.5, mean over images", "modality histo"].estimate.value == 1 / 4
    assert rows["AP at IoU 0.5, mean over images", "modality histo"].num_images == 2
    assert rows["Dice, pooled", ""].estimate.value == pytest.approx(10 / 13, abs=1e-6)
    assert results_rows.missing_metrics(of(nuclei).metrics) == []


def test_the_threshold_is_the_one_that_is_named(nuclei: Path) -> None:
    metrics = json.loads(json.dumps(of(nuclei).metrics))
    for place, one in enumerate(metrics["pooled"]["average_precision"]):
        one["value"] = place
    rows = {row.metric: row.estimate.value for row in results_rows.rows_of(metrics) if not row.part}
    assert rows["AP at IoU 0.5, pooled"] == 0
    assert rows["AP at IoU 0.75, pooled"] == metrics["thresholds"].index(0.75) == 5


def test_what_an_earlier_version_did_not_measure_is_named_and_left_out(nuclei: Path) -> None:
    metrics = json.loads(json.dumps(of(nuclei).metrics))
    del metrics["pooled"]["aji"], metrics["groups"]
    metrics["thresholds"] = [0.5]
    assert results_rows.missing_metrics(metrics) == ["AP at IoU 0.75, pooled", "AJI, pooled"]
    assert results_rows.missing_metrics(metrics, ["Dice, pooled"]) == []
    assert {row.part for row in results_rows.rows_of(metrics)} == {""}


def test_points_and_pixels_have_their_rows() -> None:
    positions = np.array([[5.0, 5.0], [50.0, 50.0]])
    points = measure_points(
        names=["a", "b"],
        detections=[Detections(positions, np.ones(2, np.int64), np.array([0.9, 0.8]))] * 2,
        truths=[Points(positions, np.ones(2, np.int64)), Points(positions[:1], np.ones(1, np.int64))],
        classes=("background", "nucleus"),
        radius_px=6.0,
        mpp=None,
        areas_px=[10_000] * 2,
        thresholds=(0.5,),
        num_samples=20,
    )
    document = points_as_json(points)
    rows = {row.metric: row.estimate for row in results_rows.rows_of(document)}
    assert rows["precision"].value == 3 / 4
    assert (
        rows["FROC, mean sensitivity at 1/4 to 8 false positives per image"] == points.per_class[0].froc_mean_per_image
    )
    assert results_rows.kind_of(document) == "points"
    assert results_rows.missing_metrics(document) == []
    assert {"f1", "froc", "matching", "rule_optimal"} <= set(results_rows.definitions_of(document))

    tables = np.array([[[50, 10], [0, 40]], [[60, 0], [0, 40]]])
    document = pixels_as_json(measure_pixels(["a", "b"], tables, ("membrane", "cell"), num_samples=20))
    rows = {row.metric: row.estimate for row in results_rows.rows_of(document)}
    assert rows["pixel error, mean over images"].value == 0.05
    assert rows["Dice, pooled"].value == pytest.approx(2 * 80 / (80 + 90), abs=1e-6)
    assert "V-Rand, mean over images" in results_rows.missing_metrics(document)
    assert results_rows.kind_of(document) == "pixels"
    assert results_rows.kind_of({"accuracy": 1.0}) is None


def test_membranes_have_rows_as_predicted_at_the_chosen_and_at_the_best_threshold(nuclei: Path) -> None:
    truth = np.zeros((20, 20), np.bool_)
    truth[1:9, 1:19] = truth[11:19, 1:19] = True
    probability = np.where(truth, 0.9, 0.3)  # below 0.3 both cells are one
    measured = measure_membranes(np.ones_like(truth), truth, cell_probability=probability, thresholds=(0.2, 0.6))
    report = tabulate_membranes(
        ["a", "b"],
        [measured] * 2,
        membrane="membrane",
        thresholds=(0.2, 0.6),
        chosen=ChosenThreshold(0.2, "5 images of the split train", 0.9),
        num_samples=20,
    )
    tables = np.array([[[50, 10], [0, 40]], [[60, 0], [0, 40]]])
    pixels = pixels_as_json(measure_pixels(["a", "b"], tables, ("membrane", "cell"), num_samples=20))
    document = {**pixels, "membranes": membrane_exports.as_json(report)}
    document["definitions"] = {**pixels["definitions"], **membrane_exports.DEFINITIONS}
    rows = {row.metric: row.estimate for row in results_rows.rows_of(document)}
    assert rows["Rand score, mean over images"] == report.mean["rand_score"]
    assert rows["V-Rand, mean over images"] == report.mean["v_rand"]
    merged = report.mean["v_rand"].value
    assert merged is not None
    assert merged < 0.8
    assert rows["V-Rand at a threshold chosen on other images, mean over images"].value == pytest.approx(merged)
    best = rows["V-Rand at the best threshold on these images (optimistic)"]
    assert (best.value, best.low) == (1.0, None)
    assert rows["V-Info at the best threshold on these images (optimistic)"].value == 1.0
    assert {"v_rand", "v_info", "rand_score", "membranes_mean"} <= set(results_rows.definitions_of(document))
    said = results.provenance(of(nuclei)._replace(metrics=document))
    assert "Threshold of the cells: 0.2, chosen on 5 images of the split train." in said


def test_how_thresholds_were_chosen_is_told(nuclei: Path) -> None:
    evaluation = of(nuclei)
    assert "Thresholds" not in results.provenance(evaluation)
    choice = {"num_validation_images": 6, "num_measured_images_among_them": 0}
    said = results.provenance(evaluation._replace(metrics={**evaluation.metrics, "choice": choice}))
    assert "chosen in training on 6 validation images, none of the measured images among them." in said
    choice["num_measured_images_among_them"] = 6
    said = results.provenance(evaluation._replace(metrics={**evaluation.metrics, "choice": choice}))
    assert "6 of the measured images among them" in said


def test_the_table_has_published_numbers_beside_ours(nuclei: Path) -> None:
    beside = [
        {"metric": "AP at IoU 0.5, pooled", "part": "modality fluo", "of": "One", "value": "0.9", "source": "paper"},
        {"metric": "AP at IoU 0.5, pooled", "part": "modality fluo", "of": "Two", "value": "0.8", "source": "paper"},
        {"metric": "AP at IoU 0.9, pooled", "of": "Three", "value": "0.1", "source": "other"},
    ]
    missing = entry(name="later", title="later", target="real-crc")
    text = results.document(
        published(entry(published=beside), missing), {"nuclei": of(nuclei)}, MAKEFILE, "a machine, 2 cores"
    )
    lines = text.splitlines()
    (fluo,) = [line for line in lines if "modality fluo" in line and "pooled" in line]
    assert fluo.startswith(r"| nuclei\_of\_two\_kinds, modality fluo | val | 2 | AP at IoU 0.5, pooled | 0.800 (")
    assert fluo.endswith("| One 0.9; Two 0.8 | [2] |")
    assert r"| nuclei\_of\_two\_kinds | val |  | AP at IoU 0.9, pooled | not measured | Three 0.1 | [1] |" in lines
    assert "| later | val |  |  | not measured |  |  |" in lines
    assert len([line for line in lines if line.startswith("| data set")]) == 1
    assert "[2] A paper, 2018, <https://doi.org/10.1/1> (read)  " in lines
    assert "Other images." in lines
    (said,) = [line for line in lines if line.startswith("Model 0123456789ab,")]
    assert "trained in 10 minutes (12 epochs, of which number 11 was the best) with at most 2.0 GB" in said
    assert "mean of 8 flips and turns" in said
    assert "95% intervals, percentile bootstrap over images, 50 samples, seed 0" in text
    assert "a machine, 2 cores" in text
    assert "segkit evaluate --data dsb2018 --model runs/dsb2018 --set dihedral=true --out evaluation/dsb2018" in lines
    assert "- aji: " in text
    assert "$(" not in text
    assert "hausdorff" not in text


def test_only_the_metrics_that_were_asked_for_are_shown(nuclei: Path) -> None:
    rows = list(results.cells_of(entry(metrics=["AJI, pooled"]), of(nuclei), {}))
    assert [cells[3] for cells in rows] == ["AJI, pooled"]


def test_looks_at_the_test_set_are_told(nuclei: Path, tmp_path: Path) -> None:
    look = "2026-11-21T19:20:52+00:00,test,0123,out\n"
    (tmp_path / "run" / "test_looks.csv").write_text("date,split,model_sha256,out\n" + 3 * look)
    assert "looked at" not in results.provenance(of(nuclei))
    told = json.loads((nuclei / "run.json").read_text())
    write_json(nuclei / "run.json", told | {"settings": {"split": "test", "dihedral": False}})
    said = results.provenance(of(nuclei))
    assert "looked at 3 times" in said
    assert "Predicted once" in said


def test_a_source_that_is_not_listed_is_an_error() -> None:
    one = {"metric": "F1", "of": "One", "value": "0.9", "source": "hearsay"}
    with pytest.raises(ValueError, match="hearsay"):
        results.document(published(entry(published=[one])), {}, MAKEFILE, "")


def test_a_target_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ValueError, match="real-nothing"):
        results.document(published(entry(target="real-nothing")), {}, MAKEFILE, "")


@pytest.mark.parametrize("missing", ["metrics.json", "run.json", "complete"])
def test_a_folder_without_a_finished_evaluation_is_none(nuclei: Path, missing: str) -> None:
    if missing == "complete":
        write_json(nuclei / "run.json", record(complete=False))
    else:
        (nuclei / missing).unlink()
    assert results.read_evaluation(nuclei) is None


def test_an_evaluation_of_something_else_is_refused(nuclei: Path) -> None:
    assert results.mismatch(entry(), of(nuclei)) is None
    assert "split val" in str(results.mismatch(entry(split="test"), of(nuclei)))
    assert "objects" in str(results.mismatch(entry(kind="points"), of(nuclei)))


def test_the_command_writes_what_there_is_and_names_what_is_not(
    nuclei: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(results, "machine", lambda: "a machine")
    out = tmp_path / "RESULTS.md"
    arguments = [f"dsb2018={nuclei}", f"crc={tmp_path / 'nowhere'}", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["results.py", *arguments])
    results.main()
    said = capsys.readouterr()
    assert "1 of 6 evaluations" in said.out
    assert f"crc: not measured ({tmp_path / 'nowhere'})" in said.err
    assert "glioma: not measured (no folder given)" in said.err
    assert "| dsb2018 | val | 4 | AP at IoU 0.5, pooled | 0.625 (" in out.read_text()
    for wrong, message in ((f"nothing={nuclei}", "nothing"), (str(nuclei), "NAME=FOLDER")):
        monkeypatch.setattr(sys, "argv", ["results.py", wrong])
        with pytest.raises(SystemExit) as ended:
            results.main()
        assert ended.value.code == 2
        assert message in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["results.py", f"glioma={nuclei}"])
    with pytest.raises(SystemExit, match="split val"):
        results.main()


def test_what_is_shipped_fits_the_rows_the_sources_and_the_makefile() -> None:
    text = results.document(SHIPPED, {}, MAKEFILE, "a machine")
    used = {one["source"] for result in SHIPPED["results"] for one in result.get("published", ())}
    assert used == set(SHIPPED["sources"])
    for result in SHIPPED["results"]:
        words = {metric.words for metric in results_rows.METRICS[result["kind"]]}
        assert {one["metric"] for one in result.get("published", ())} <= words
        assert set(result.get("metrics", ())) <= words
        commands = list(results.commands(MAKEFILE, result["target"]))
        split = "" if result["split"] == "val" else f"--split {result['split']} "
        evaluates = [line for line in commands if line.endswith(f"--out evaluation/{result['name']}")]
        assert len(evaluates) == 1
        assert evaluates[0].startswith("segkit evaluate")
        assert split in evaluates[0]
        assert f"{result['name']}=evaluation/" in MAKEFILE or f" {result['name']} " in MAKEFILE.replace(",", " ")
    assert text.count("Not measured.") == len(SHIPPED["results"])
