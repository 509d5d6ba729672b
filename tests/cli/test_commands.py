"""Each command hands its options to one function and shows what that returns; the functions are stand-ins here."""

import json
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
from segkit.evaluation.tables import measure_pixels
from segkit.workflows import evaluate as evaluate_module
from segkit.workflows import inspect as inspect_module
from segkit.workflows import predict as predict_module
from segkit.workflows import sample as sample_module
from segkit.workflows import train as train_module
from segkit.workflows.evaluate import EvaluateResult
from segkit.workflows.predict import PredictResult, SlideResult
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


def test_resuming_takes_the_configuration_of_the_run(stand_in: Callable[..., StandIn], tmp_path: Path) -> None:
    function = stand_in(train_module, "train", TRAINED)
    (tmp_path / "config.yaml").write_text("data: {dir: d}\nepochs: 5\nseed: 3\n")
    assert run("train", "--resume", str(tmp_path), "--epochs", "8").exit_code == 0
    (config,) = function.arguments
    assert (config.epochs, config.seed, function.options["resume"]) == (8, 3, tmp_path)


def test_predict_hands_on_its_options(stand_in: Callable[..., StandIn]) -> None:
    function = stand_in(predict_module, "predict", PredictResult(model=Path("m"), slides=[slide_result("a.tif")]))
    result = run(
        *("predict", "a.tif", "b", "--model", "m", "--tile", "256", "--mpp", "0.25", "--dihedral", "--out", "out"),
        *("--min-area", "3", "--precision", "float32", "--device", "cpu", "--overwrite"),
    )
    assert result.exit_code == 0, result.output
    config = function.options["config"]
    assert function.arguments == ([Path("a.tif"), Path("b")],)
    assert (config.tile, config.mpp, config.batch, config.dihedral) == (256, 0.25, AUTO, True)
    assert (config.min_area, config.compute.precision, config.compute.device) == (3.0, "float32", "cpu")
    assert function.options["overwrite"] is True
    for words in ("a.tif", "done", "nucleus 25.0 %", "1 min 23 s", "Look at: out/a/overview.png"):
        assert words in result.stdout


def test_a_flag_can_switch_off_what_the_file_switches_on(stand_in: Callable[..., StandIn], tmp_path: Path) -> None:
    function = stand_in(predict_module, "predict", PredictResult(model=Path("m"), slides=[slide_result("a.tif")]))
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
    stand_in(predict_module, "predict", PredictResult(model=Path("m"), slides=slides))
    result = run("predict", "a.tif", "b.tif")
    failed = [slide for slide in slides if slide.status == "failed"]
    assert result.exit_code == code
    assert f"{len(failed)} of 2 inputs failed:" in result.stderr
    for slide in failed:
        assert f"  - {slide.input}: is cut off." in result.stderr
        assert f"Look at: {slide.folder}" not in result.stdout


def test_json_is_the_only_thing_on_standard_output_also_when_inputs_failed(stand_in: Callable[..., StandIn]) -> None:
    slides = [slide_result("a.tif"), slide_result("b.tif", **FAILED)]
    stand_in(predict_module, "predict", PredictResult(model=Path("m"), slides=slides))
    result = run("predict", "a.tif", "b.tif", "--json")
    assert result.exit_code == 5
    assert [slide["status"] for slide in json.loads(result.stdout)["slides"]] == ["done", "failed"]


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
    for words in ("nucleus", f"{pooled_dice.value:.3f}", "dice", "recall", "out/summary.md", "out/figures/a.png"):
        assert words in result.stdout


def test_evaluate_as_json_is_the_content_of_metrics_json(stand_in: Callable[..., StandIn]) -> None:
    stand_in(evaluate_module, "evaluate", evaluation())
    document = json.loads(run("evaluate", "--pred", "p", "--truth", "t", "--json").stdout)
    assert document["headline"]["value"] == pytest.approx(evaluation().report.headline.value)
    assert document["folder"] == "out"


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
    function = stand_in(inspect_module, "preview", Path("p.png"))
    result = run("preview", "--data", "d", "--out", "p.png", "--seed", "5")
    assert (function.arguments[0].seed, function.arguments[1]) == (5, Path("p.png"))
    assert result.stdout == "Look at: p.png\n"


def test_make_sample_says_what_comes_next(stand_in: Callable[..., StandIn]) -> None:
    function = stand_in(sample_module, "make_sample", None)
    result = run("make-sample", "folder", "--seed", "3")
    assert (function.arguments, function.options["seed"]) == ((Path("folder"),), 3)
    assert "segkit check folder" in result.stdout
