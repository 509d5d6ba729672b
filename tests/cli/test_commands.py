"""Each command hands its options to one function and shows what that returns; the functions are stand-ins here."""

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from segkit.cli.app import app
from segkit.config import AUTO
from segkit.data.check import CheckReport, Facts, SplitFacts
from segkit.errors import InputError
from segkit.evaluation.calibration_tables import stack_calibrations
from segkit.evaluation.image_counts import ComparedImage, count_image
from segkit.evaluation.pixel_tables import measure_pixels
from segkit.evaluation.point_tables import measure_points
from segkit.evaluation.surface_tables import stack_surfaces
from segkit.points import Detections, Points
from segkit.workflows import evaluate as evaluate_module
from segkit.workflows import inspect as inspect_module
from segkit.workflows import predict as predict_module
from segkit.workflows import preview as preview_module
from segkit.workflows import sample as sample_module
from segkit.workflows import sliding_window as sliding_window_module
from segkit.workflows import train as train_module
from segkit.workflows.evaluate import EvaluateResult
from segkit.workflows.predict import PredictResult, SlideResult
from segkit.workflows.sliding_window import SlidingWindowResult, WindowResult
from segkit.workflows.train import TrainResult


class StandIn:
    """Keeps what it was called with, reports some progress and returns what it was told to."""

    def __init__(self, result: Any) -> None:
        self.result = result
        self.arguments: tuple[Any, ...] = ()
        self.options: dict[str, Any] = {}

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.arguments, self.options = arguments, options
        if "on_progress" in options:
            options["on_progress"]("stage", 1, 1, {"loss": 0.5})
        return self.result


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Callable[..., StandIn]:
    """Return a function that replaces a workflow's function by a stand-in."""

    def replace(module: object, name: str, result: Any) -> StandIn:
        function = StandIn(result)
        monkeypatch.setattr(module, name, function)
        return function

    return replace


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def slide_result(name: str, **values: Any) -> SlideResult:
    known = {"status": "done", "num_objects": 7, "shares": {"background": 0.75, "nucleus": 0.25}, "seconds": 83.0}
    return SlideResult(input=Path(name), folder=Path("out") / Path(name).stem, **{**known, **values})


TRAINED = TrainResult(
    run=Path("runs/x"),
    model=Path("runs/x/model.safetensors"),
    best_epoch=3,
    metric="dice",
    score=0.8125,
    scores={"nucleus": 0.8125, "mitosis": None},
    seconds=61.0,
    figures=[Path("runs/x/figures/curves.png")],
)
FAILED = {
    "status": "failed",
    "cause": "is cut off.",
    "exit_code": 3,
    "num_objects": None,
    "shares": {},
    "seconds": None,
}


def test_train_builds_the_configuration_and_shows_what_it_left(stand_in: Callable[..., StandIn]) -> None:
    function = stand_in(train_module, "train", TRAINED)
    result = run("train", "--data", "d", "--epochs", "4", "--set", "patches.batch=2", "--set", "epochs=9", "--out", "r")
    assert result.exit_code == 0, result.output
    (config,) = function.arguments
    assert (config.data.dir, config.epochs, config.patches.batch, config.seed) == (Path("d"), 4, 2, 0)
    assert (function.options["out"], function.options["resume"]) == (Path("r"), None)
    for words in ("best epoch", "0.8125", "1 min 01 s", "Look at: runs/x/figures/curves.png", "mitosis"):
        assert words in result.stdout
    assert "stage 1/1" in result.stderr
    assert "Dice (validation)" in result.stdout
    stand_in(train_module, "train", dataclasses.replace(TRAINED, metric="f1"))
    assert "F1 (validation)" in run("train", "--data", "d").stdout


def test_resuming_takes_the_configuration_of_the_run(stand_in: Callable[..., StandIn], tmp_path: Path) -> None:
    function = stand_in(train_module, "train", TRAINED)
    (tmp_path / "config.yaml").write_text("data: {dir: d}\nepochs: 5\nseed: 3\n")
    assert run("train", "--resume", str(tmp_path), "--epochs", "8").exit_code == 0
    (config,) = function.arguments
    assert (config.epochs, config.seed, function.options["resume"]) == (8, 3, tmp_path)


def test_predict_hands_on_its_options(stand_in: Callable[..., StandIn]) -> None:
    function = stand_in(predict_module, "predict", PredictResult(models=[Path("m")], slides=[slide_result("a.tif")]))
    result = run(
        *("predict", "a.tif", "b", "--model", "m", "--model", "n", "--tile", "256", "--mpp", "0.25", "--dihedral"),
        *("--out", "out", "--min-area", "3", "--precision", "float32", "--device", "cpu", "--overwrite"),
        *("--probability-type", "float16", "--inexact"),
    )
    assert result.exit_code == 0, result.output
    config = function.options["config"]
    assert function.arguments == ([Path("a.tif"), Path("b")],)
    assert (config.tile, config.mpp, config.batch, config.dihedral) == (256, 0.25, AUTO, True)
    assert (config.min_area, config.compute.precision, config.compute.device) == (3.0, "float32", "cpu")
    assert (config.probability_type, config.inexact) == ("float16", True)
    assert function.options["models"] == [Path("m"), Path("n")]
    assert (function.options["out"], function.options["overwrite"]) == (Path("out"), True)
    for words in ("a.tif", "done", "nucleus 25.0 %", "1 min 23 s", "Look at: out/a/overview.png"):
        assert words in result.stdout


@pytest.mark.parametrize("status", ["planned", "shared"])
def test_what_is_not_done_yet_is_no_failure_and_has_no_picture(stand_in: Callable[..., StandIn], status: str) -> None:
    waiting = slide_result("b.tif", status=status, num_objects=None, shares={}, seconds=None)
    stand_in(predict_module, "predict", PredictResult(models=[Path("m")], slides=[slide_result("a.tif"), waiting]))
    result = run("predict", "a.tif", "b.tif")
    assert result.exit_code == 0
    assert status in result.stdout
    assert "Look at: out/a/overview.png" in result.stdout
    assert "out/b" not in result.stdout


WORKING_THROUGH_SLIDES = {
    "predict": (predict_module, PredictResult(models=[Path("m")], slides=[slide_result("a.tif")])),
    "sliding-window": (
        sliding_window_module,
        SlidingWindowResult(
            models=[Path("m")],
            method="atrous",
            slides=[WindowResult(input=Path("a.tif"), folder=Path("out/a"), status="done", seconds=1.0)],
        ),
    ),
}


@pytest.mark.parametrize("command", WORKING_THROUGH_SLIDES)
def test_what_both_commands_can_do_with_slides_is_handed_on(stand_in: Callable[..., StandIn], command: str) -> None:
    module, result = WORKING_THROUGH_SLIDES[command]
    function = stand_in(module, command.replace("-", "_"), result)
    ended = run(
        *(command, "a.tif", "--region", "10,20,300,400", "--tissue", "off", "--max-memory", "3GB", "--dry-run"),
        *("--format", "ome-zarr", "--verify-seams", "5", "--shard", "2/3"),
    )
    assert ended.exit_code == 0, ended.output
    config = function.options["config"]
    assert (config.region_box, config.tissue, config.max_memory_bytes) == ((10, 20, 300, 400), "off", 3_000_000_000)
    assert (config.format, config.verify_seams) == ("ome-zarr", 5)
    assert function.options["dry_run"] is True
    assert (function.options["share"].number, function.options["share"].count) == (2, 3)
    assert run(command, "a.tif").exit_code == 0
    assert (function.options["dry_run"], function.options["share"].count) == (False, 1)
    assert (function.options["config"].region_box, function.options["config"].tissue) == (None, AUTO)


@pytest.mark.parametrize("command", WORKING_THROUGH_SLIDES)
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (("--region", "1,2,3"), "X,Y,WIDTH,HEIGHT"),
        (("--region", "1,2,0,9"), "X,Y,WIDTH,HEIGHT"),
        (("--max-memory", "much"), "max_memory"),
        (("--format", "png"), "format"),
        (("--verify-seams", "-1"), "verify_seams"),
        (("--shard", "4/3"), "4/3"),
    ],
)
def test_slides_are_not_touched_where_a_value_makes_no_sense(
    stand_in: Callable[..., StandIn], command: str, wrong: tuple[str, str], words: str
) -> None:
    module, result = WORKING_THROUGH_SLIDES[command]
    function = stand_in(module, command.replace("-", "_"), result)
    ended = run(command, "a.tif", *wrong)
    assert ended.exit_code == 2
    assert words in " ".join(ended.stderr.split())
    assert function.options == {}


def test_a_flag_can_switch_off_what_the_file_switches_on(stand_in: Callable[..., StandIn], tmp_path: Path) -> None:
    function = stand_in(predict_module, "predict", PredictResult(models=[Path("m")], slides=[slide_result("a.tif")]))
    (tmp_path / "c.yaml").write_text("dihedral: true\nprobability: true\n")
    assert run("predict", "a.tif", "--config", str(tmp_path / "c.yaml"), "--no-dihedral").exit_code == 0
    assert (function.options["config"].dihedral, function.options["config"].probability) == (False, True)


@pytest.mark.parametrize(
    ("slides", "code"),
    [
        ([slide_result("a.tif"), slide_result("b.tif", **FAILED)], 5),
        ([slide_result("a.tif", **FAILED), slide_result("b.tif", **FAILED | {"exit_code": 2})], 3),
    ],
)
def test_inputs_that_failed_are_named_with_their_cause(
    stand_in: Callable[..., StandIn], slides: list[SlideResult], code: int
) -> None:
    stand_in(predict_module, "predict", PredictResult(models=[Path("m")], slides=slides))
    result = run("predict", "a.tif", "b.tif")
    failed = [slide for slide in slides if slide.status == "failed"]
    assert result.exit_code == code
    assert f"{len(failed)} of 2 inputs failed:" in result.stderr
    for slide in failed:
        assert f"  - {slide.input}: is cut off." in result.stderr
        assert f"Look at: {slide.folder}" not in result.stdout


def test_json_is_the_only_thing_on_standard_output_also_when_inputs_failed(stand_in: Callable[..., StandIn]) -> None:
    slides = [slide_result("a.tif"), slide_result("b.tif", **FAILED)]
    stand_in(predict_module, "predict", PredictResult(models=[Path("m")], slides=slides))
    result = run("predict", "a.tif", "b.tif", "--json")
    assert result.exit_code == 5
    assert [slide["status"] for slide in json.loads(result.stdout)["slides"]] == ["done", "failed"]


def window_result(name: str, **values: Any) -> WindowResult:
    known = {"status": "done", "num_detections": {"mitosis": 12, "other": 0}, "seconds": 83.0}
    return WindowResult(input=Path(name), folder=Path("out") / Path(name).stem, **{**known, **values})


def scan(*slides: WindowResult) -> SlidingWindowResult:
    return SlidingWindowResult(models=[Path("m")], method="atrous", slides=list(slides))


def test_sliding_window_hands_on_its_options(stand_in: Callable[..., StandIn]) -> None:
    function = stand_in(
        sliding_window_module, "sliding_window", scan(window_result("a.tif", largest_difference=1.2e-7))
    )
    result = run(
        *("sliding-window", "a.tif", "b", "--model", "m", "--model", "n", "--stride", "4", "--method", "fragments"),
        *("--verify", "7", "--threshold", "0.25", "--mpp", "0.5", "--tile", "256", "--no-dihedral", "--out", "out"),
        *("--device", "cpu", "--set", "nms_radius=9um", "--set", "stride=8", "--overwrite"),
    )
    assert result.exit_code == 0, result.output
    config = function.options["config"]
    assert function.arguments == ([Path("a.tif"), Path("b")],)
    assert function.options["models"] == [Path("m"), Path("n")]
    assert (function.options["out"], function.options["overwrite"]) == (Path("out"), True)
    assert (config.stride, config.method, config.verify, config.threshold) == (4, "fragments", 7, 0.25)
    assert (config.mpp, config.tile, config.dihedral, config.compute.device) == (0.5, 256, False, "cpu")
    assert (config.nms_radius, config.smooth_radius) == ("9um", AUTO)
    words = ("Detections (atrous)", "a.tif", "done", "mitosis 12", "other 0", "1 min 23 s", "1.2e-07")
    for word in (*words, "Look at: out/a/overview.png"):
        assert word in result.stdout


def test_sliding_window_alone_leaves_everything_to_the_model(stand_in: Callable[..., StandIn]) -> None:
    function = stand_in(sliding_window_module, "sliding_window", scan(window_result("a.tif")))
    result = run("sliding-window", "a.tif", "--threshold", "auto")
    assert result.exit_code == 0, result.output
    config = function.options["config"]
    assert function.options["models"] == []
    assert {config.stride, config.method, config.threshold, config.mpp, config.tile} == {AUTO}
    assert (config.verify, config.dihedral, function.options["out"]) == (0, False, Path("detections"))
    assert "difference" not in result.stdout


def test_json_of_sliding_window_names_the_inputs_that_failed(stand_in: Callable[..., StandIn]) -> None:
    bad = window_result("b.tif", status="failed", cause="is cut off.", exit_code=3, num_detections={}, seconds=None)
    stand_in(sliding_window_module, "sliding_window", scan(window_result("a.tif", largest_difference=0.0), bad))
    result = run("sliding-window", "a.tif", "b.tif", "--json")
    assert result.exit_code == 5
    assert "  - b.tif: is cut off." in result.stderr
    document = json.loads(result.stdout)
    assert (document["models"], document["method"]) == (["m"], "atrous")
    assert [slide["status"] for slide in document["slides"]] == ["done", "failed"]
    assert document["slides"][0]["num_detections"] == {"mitosis": 12, "other": 0}
    assert [slide["largest_difference"] for slide in document["slides"]] == [0.0, None]
    shown = run("sliding-window", "a.tif", "b.tif")
    assert "failed" in shown.stdout
    assert "Look at: out/b" not in shown.stdout


@pytest.mark.parametrize(
    "wrong",
    [("--stride", "0"), ("--method", "quick"), ("--verify", "-1"), ("--threshold", "1.5"), ("--set", "nms_radius=0um")],
)
def test_values_that_make_no_sense_are_refused_before_any_work(
    stand_in: Callable[..., StandIn], wrong: tuple[str, str]
) -> None:
    function = stand_in(sliding_window_module, "sliding_window", scan(window_result("a.tif")))
    result = run("sliding-window", "a.tif", *wrong)
    assert result.exit_code == 2
    assert function.options == {}
    assert "nms_radius" in result.stderr or wrong[0].removeprefix("--") in result.stderr


def evaluation() -> EvaluateResult:
    confusions = np.array([[[90, 2], [3, 5]], [[80, 4], [6, 10]]], np.int64)
    report = measure_pixels(["a", "b"], confusions, ["background", "nucleus"], num_samples=50)
    return EvaluateResult(report=report, folder=Path("out"), figures=[Path("out/figures/a.png")])


def test_evaluate_shows_metrics_with_intervals(stand_in: Callable[..., StandIn]) -> None:
    function = stand_in(evaluate_module, "evaluate", evaluation())
    result = run("evaluate", "--data", "d", "--model", "m", "--split", "test", "--set", "bootstrap=50")
    assert result.exit_code == 0, result.output
    assert (function.arguments[0].split, function.arguments[0].bootstrap) == ("test", 50)
    assert function.options["data"].dir == Path("d")
    pooled_dice = evaluation().report.per_class[-1].pooled["dice"]
    for words in ("nucleus", f"{pooled_dice.value:.3f}", "dice", "recall", "out/report.html", "out/figures/a.png"):
        assert words in result.stdout


def test_evaluate_shows_distances_and_calibration_where_they_were_measured(stand_in: Callable[..., StandIn]) -> None:
    truth, found = np.eye(8, dtype=np.uint8), np.eye(8, k=1, dtype=np.uint8)
    counts = count_image(
        ComparedImage(name="a", truth=truth, prediction=found, mpp=0.5, foreground=found * 200), 2, tolerance_px=2
    )
    report = measure_pixels(
        ["a"], counts.confusion[np.newaxis], ["background", "nucleus"],
        surfaces=stack_surfaces([counts.surfaces], [counts.mpp], 2), tolerance="2px",
        calibrations=stack_calibrations([counts.calibrations]),
    )  # fmt: skip
    stand_in(evaluate_module, "evaluate", EvaluateResult(report=report, folder=Path("out"), figures=[]))
    said = " ".join(run("evaluate", "--pred", "p", "--truth", "t").stdout.split())
    assert "HD95 (um) 0.500, ASSD (um) 0.500, NSD 1.000 within 2px, means over images" in said
    assert f"ECE {report.calibrations[0].pooled['ece'].value:.3f} of nucleus" in said
    stand_in(evaluate_module, "evaluate", evaluation())
    assert not re.search("HD95|ECE", run("evaluate", "--pred", "p", "--truth", "t").stdout)


def test_evaluate_as_json_is_the_content_of_metrics_json(stand_in: Callable[..., StandIn]) -> None:
    stand_in(evaluate_module, "evaluate", evaluation())
    document = json.loads(run("evaluate", "--pred", "p", "--truth", "t", "--json").stdout)
    assert document["headline"]["value"] == pytest.approx(evaluation().report.headline.value)
    assert document["folder"] == "out"


def points_evaluation(mpp: float | None = 0.5) -> EvaluateResult:
    found = Detections(np.array([[5.0, 5.0], [20.0, 20.0]]), np.array([1, 1]), np.array([0.9, 0.8]))
    truth = Points(np.array([[5.0, 6.0], [40.0, 40.0], [60.0, 60.0]]), np.array([1, 1, 1]))
    report = measure_points(
        ["a", "b"], [found, found], [truth, truth], ["background", "mitosis"],
        radius_px=7.5, mpp=mpp, areas_px=[100, 100], thresholds=[0.5], num_samples=50,
    )  # fmt: skip
    return EvaluateResult(report=report, folder=Path("out"), figures=[Path("out/curves.png")])


def test_evaluate_of_points_shows_metrics_with_intervals(stand_in: Callable[..., StandIn]) -> None:
    function = stand_in(evaluate_module, "evaluate", points_evaluation())
    result = run("evaluate", "--pred", "p", "--truth", "t", "--set", "match_radius=3.75um")
    assert result.exit_code == 0, result.output
    assert (function.options["prediction"], function.options["truth"]) == (Path("p"), Path("t"))
    assert (function.options["data"], function.arguments[0].match_radius) == (None, "3.75um")
    words = ("within 7.5 px (3.75 um)", "mitosis", "F1", "0.400", "AP", "2 right, 2 wrong, 4 missed", "out/curves.png")
    for word in (*words, "out/report.html", "resamplings of 2 images; with so few"):
        assert word in result.stdout
    stand_in(evaluate_module, "evaluate", points_evaluation(mpp=None))
    assert "within 7.5 px, with" in run("evaluate", "--data", "d").stdout


def test_evaluate_of_points_as_json_is_the_content_of_metrics_json(stand_in: Callable[..., StandIn]) -> None:
    stand_in(evaluate_module, "evaluate", points_evaluation())
    document = json.loads(run("evaluate", "--data", "d", "--json").stdout)
    assert document["headline"]["value"] == pytest.approx(0.4)
    assert (document["folder"], document["figures"]) == ("out", ["out/curves.png"])
    assert document["classes"][0]["tp"] == 2


def report(problems: list[str]) -> CheckReport:
    facts = Facts(
        annotation="masks",
        classes=("background", "nucleus"),
        mpp=None,
        num_images=4,
        num_empty=1,
        heights=(256, 512),
        widths=(512, 512),
        channels={3: 4},
        splits={"train": SplitFacts(4, 2, (75, 25), 0)},
    )
    return CheckReport(Path("d"), problems, ["a warning"], facts, None)


def test_check_shows_facts_and_warnings(stand_in: Callable[..., StandIn]) -> None:
    function = stand_in(inspect_module, "check", report([]))
    result = run("check", "d", "--set", "data.ignore=255")
    assert result.exit_code == 0, result.output
    assert (function.arguments[0].dir, function.arguments[0].ignore) == (Path("d"), 255)
    for words in ("256 to 512 x 512 px", "25.0 %", "unknown", "Warning: a warning", "No problems."):
        assert words in result.stdout


def test_check_of_points_shows_their_numbers_and_the_hard_negatives(stand_in: Callable[..., StandIn]) -> None:
    facts = Facts(
        annotation="points",
        classes=("background", "mitosis"),
        mpp=0.25,
        num_images=4,
        num_empty=1,
        heights=(256, 256),
        widths=(512, 512),
        channels={3: 4},
        splits={"train": SplitFacts(4, 2, (), 0, class_points=(17, 23))},
    )
    stand_in(inspect_module, "check", CheckReport(Path("d"), [], [], facts, None))
    out = run("check", "d").stdout
    for words in ("4, of which 1 have no point of a class", "Number of points", "hard negatives", "17", "23"):
        assert words in out
    assert "%" not in out


@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_check_ends_in_3_where_there_are_problems(stand_in: Callable[..., StandIn], as_json: list[str]) -> None:
    stand_in(inspect_module, "check", report(["x: has no mask", "y: is cut off"]))
    result = run("check", "d", *as_json)
    assert result.exit_code == InputError.exit_code
    assert "2 problem" in result.stderr
    assert "  - x: has no mask\n  - y: is cut off" in result.stderr
    assert "No problems" not in result.stdout
    if as_json:
        assert json.loads(result.stdout)["problems"] == ["x: has no mask", "y: is cut off"]


def test_info_shows_nested_facts(stand_in: Callable[..., StandIn]) -> None:
    facts = {"mpp": None, "levels": [{"width": 512, "downsample": 1.0}], "properties": {"a": "b"}, "mean": [0.1, 1 / 3]}
    stand_in(inspect_module, "info", facts)
    out = run("info", "x.tif").stdout
    for words in ("unknown", "width 512, downsample 1", "a: b", "0.1, 0.333333"):
        assert words in out


def test_preview_names_its_picture(stand_in: Callable[..., StandIn]) -> None:
    function = stand_in(preview_module, "preview", Path("p.png"))
    result = run("preview", "--data", "d", "--out", "p.png", "--seed", "5")
    assert (function.arguments[0].seed, function.arguments[1]) == (5, Path("p.png"))
    assert result.stdout == "Look at: p.png\n"


def test_make_sample_says_what_comes_next(stand_in: Callable[..., StandIn]) -> None:
    function = stand_in(sample_module, "make_sample", None)
    result = run("make-sample", "folder", "--seed", "3")
    assert (function.arguments, function.options["seed"]) == ((Path("folder"),), 3)
    assert "segkit check folder" in result.stdout
