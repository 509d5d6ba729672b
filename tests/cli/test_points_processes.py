"""`sliding-window` and what belongs to it as processes: killed, interrupted, out of disk, given bad input."""

import json
import re
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from segkit.inference.detection_outputs import read_detections
from tests.patch_model import CLASSES, draw_red_and_blue, make_model, make_points_data, make_run
from tests.processes import (
    Ended,
    Running,
    Start,
    in_words,
    message_of,
    outputs_in,
    parts_in,
    run,
    segkit,
    temporary_files,
    with_full_disk,
)
from tests.tiny import save_png, write_slide

DISKS = draw_red_and_blue(7, 500, 700)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "model.safetensors")


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_slide(tmp_path_factory.mktemp("slides") / "tissue.tif", DISKS.image)


def scan(slide: object, model: object, out: object, *more: object) -> tuple[object, ...]:
    return ("sliding-window", slide, "--model", model, "--out", out, "--tile", 64, "--device", "cpu", *more)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide whose map of every pixel has four parts."""
    image = np.tile(DISKS.image, (3, 2, 1))[:1100, :1060]
    return write_slide(tmp_path_factory.mktemp("slides") / "tissue.tif", image)


NUM_PARTS = 4
DENSELY = ("--stride", 1, "--tile", 128)


@pytest.fixture(scope="module")
def reference(large: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an undisturbed scan of the large slide leaves."""
    folder = tmp_path_factory.mktemp("reference")
    ended = Running(folder, segkit, *scan(large, model, "out", *DENSELY)).wait()
    assert ended.code == 0, ended.err
    assert len(read_detections(folder / "out" / "tissue" / "detections.csv", CLASSES).scores) > 300
    return outputs_in(folder / "out" / "tissue")


# Stopped on the way

MOMENTS: dict[str, Callable[[Path], object]] = {
    "the folder appears": lambda folder: folder.exists(),
    "it writes": temporary_files,
    "two parts are done": lambda folder: len(parts_in(folder)) >= 2,
    "the map is done": lambda folder: (folder / "probability.tif").exists(),
    "the table is done": lambda folder: (folder / "detections.csv").exists(),
    "the overview is done": lambda folder: (folder / "overview.png").exists(),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_scan_that_is_killed_leaves_nothing_torn_and_goes_on(
    start: Start, large: Path, model: Path, reference: dict[str, bytes], tmp_path: Path, moment: str
) -> None:
    folder = tmp_path / "out" / "tissue"
    process = start(*scan(large, model, tmp_path / "out", *DENSELY))
    process.wait_for(lambda: MOMENTS[moment](folder))
    process.send(signal.SIGKILL)
    finished = process.wait().code == 0
    assert (folder / "run.json").exists() == finished
    assert outputs_in(folder).items() <= reference.items()
    number = len(parts_in(folder))
    ended = run(start, *scan(large, model, tmp_path / "out", *DENSELY))
    assert ended.code == 0, ended.err
    record = json.loads((folder / "run.json").read_text())
    assert record["complete"] is True
    if not finished:
        assert record["parts"] == {"all": NUM_PARTS, "done_by_this_process": NUM_PARTS - number}
    assert outputs_in(folder) == reference
    assert set(in_words(folder)) == {".lock", "run.json", *reference}


@pytest.mark.parametrize(
    ("moment", "number", "code"),
    [("it writes", signal.SIGINT, 130), ("two parts are done", signal.SIGTERM, 143)],
)
def test_an_interrupted_scan_ends_at_once_and_leaves_what_is_whole(
    start: Start,
    large: Path,
    model: Path,
    reference: dict[str, bytes],
    tmp_path: Path,
    moment: str,
    number: signal.Signals,
    code: int,
) -> None:
    folder = tmp_path / "out" / "tissue"
    process = start(*scan(large, model, tmp_path / "out", *DENSELY))
    process.wait_for(lambda: MOMENTS[moment](folder))
    process.send(number)
    ended = process.wait(20)
    assert ended.code == code
    assert message_of(ended).startswith("segkit: interrupted.")
    assert temporary_files(folder) == []
    assert outputs_in(folder).items() <= reference.items()
    assert not (folder / "run.json").exists()
    assert run(start, *scan(large, model, tmp_path / "out", *DENSELY)).code == 0
    assert outputs_in(folder) == reference


def test_a_full_disk_ends_a_scan_in_4(start: Start, slide: Path, model: Path, tmp_path: Path) -> None:
    ended = Running(tmp_path, with_full_disk, 10_000, *scan(slide, model, tmp_path / "out")).wait()
    assert ended.code == 4, ended.err
    assert re.fullmatch(r"segkit: .*: the disk is full .*", message_of(ended))
    assert outputs_in(tmp_path / "out" / "tissue") == {}
    assert temporary_files(tmp_path) == []


# Many inputs, many times


def test_good_inputs_are_finished_and_bad_ones_named(start: Start, slide: Path, model: Path, tmp_path: Path) -> None:
    cut, missing = tmp_path / "cut.tif", tmp_path / "missing.tif"
    cut.write_bytes(slide.read_bytes()[:-1000])
    ended = run(start, *scan(slide, model, tmp_path / "out", cut, missing, "--json"))
    assert ended.code == 5
    statuses = {Path(one["input"]).name: one["status"] for one in json.loads(ended.out)["slides"]}
    assert statuses == {"tissue.tif": "done", "cut.tif": "failed", "missing.tif": "failed"}
    message, *causes = message_of(ended).splitlines()
    assert message == "segkit: 2 of 3 inputs failed:"
    assert [cause.split(":")[0] for cause in causes] == [f"  - {cut}", f"  - {missing}"]
    ended = run(start, *scan(cut, model, tmp_path / "out"))
    assert (ended.code, message_of(ended).splitlines()[0]) == (3, "segkit: 1 of 1 inputs failed:")


def test_scanning_again_skips_refuses_and_overwrites(start: Start, slide: Path, model: Path, tmp_path: Path) -> None:
    command = scan(slide, model, tmp_path / "out")
    assert run(start, *command).code == 0
    again = run(start, *command)
    assert (again.code, "skipped" in again.out) == (0, True)
    refused = run(start, *command, "--threshold", 0.5)
    assert (refused.code, "--overwrite" in message_of(refused)) == (2, True)
    assert run(start, *command, "--threshold", 0.5, "--overwrite").code == 0


def test_verification_is_told(start: Start, slide: Path, model: Path, tmp_path: Path) -> None:
    ended = run(start, *scan(slide, model, tmp_path / "out", "--verify", 20, "--stride", 3, "--tile", 48))
    assert ended.code == 0, ended.err
    assert "tissue.tif: largest difference to single windows 0\n" in ended.out
    assert f"Look at: {tmp_path / 'out' / 'tissue' / 'overview.png'}" in ended.out


# The whole way


def test_from_points_to_metrics(start: Start, tmp_path: Path) -> None:
    splits = [("train", "a"), ("train", "a"), ("train", "b"), ("train", "c"), ("val", "d"), ("val", "e")]
    rows = "".join(f"field{number},{split},{group}\n" for number, (split, group) in enumerate(splits))
    data = make_points_data(tmp_path / "data", splits=f"image,split,group\n{rows}")
    assert run(start, "check", data).code == 0
    trained = run(
        start, "train", "--data", data, "--out", "runs/a", "--epochs", 2, "--device", "cpu",
        *("--set", "patches.size_px=11", "--set", "patches.batch=16", "--set", "steps_per_epoch=15"),
        *("--set", "model.base_channels=4", "--set", "model.depth=1", "--set", "optimiser.learning_rate=0.01"),
    )  # fmt: skip
    assert trained.code == 0, trained.err
    assert "F1 (validation)" in trained.out
    # `predict` must not take it, though it is the newest and only one.
    refused = run(start, "predict", data / "images", "--mpp", 0.5)
    assert (refused.code, "no finished training of a U-Net" in message_of(refused)) == (3, True)
    scanned = run(start, "sliding-window", data / "images", "--mpp", 0.5, "--verify", 10)
    assert scanned.code == 0, scanned.err
    assert "model: runs/a (the newest finished run)" in scanned.err
    assert "Look at: detections/field0/overview.png" in scanned.out
    evaluated = run(start, "evaluate", "--data", data)
    assert evaluated.code == 0, evaluated.err
    assert "Look at: evaluation/curves.png" in evaluated.out
    assert "splits: those of the training" in evaluated.err
    metrics = json.loads((tmp_path / "evaluation" / "metrics.json").read_text())
    assert (metrics["num_images"], metrics["intervals"]["over"]) == (2, "group")
    given = run(
        start, "evaluate", "--pred", "detections", "--truth", data, "--out", "given", "--set", "match_radius=3um",
        "--json",
    )  # fmt: skip
    assert given.code == 0, given.err
    document = json.loads(given.out)
    assert (document["num_images"], document["radius_px"]) == (6, 6.0)


# Bad input


def bad(start: Start, code: int, *command: object) -> str:
    """Run a command that must fail so, in one message; return the message."""
    ended: Ended = run(start, *command)
    assert ended.code == code, ended.err
    message = message_of(ended)
    assert len([line for line in message.splitlines() if line.startswith("segkit: ")]) == 1
    assert "bug" not in message
    return message


def train(data: Path, *more: object) -> tuple[object, ...]:
    return ("train", "--data", data, "--out", data.parent / "run", "--epochs", 1, "--device", "cpu", *more)


def spoil_points(data: Path) -> None:
    table = (data / "points.csv").read_text().splitlines()
    table[1] = "field0,5000,20,red"
    (data / "points.csv").write_text("\n".join([*table, "field77,3,3,red", "field1,three,3,red", ""]))


def test_everything_wrong_with_points_is_listed_together(start: Start, tmp_path: Path) -> None:
    data = make_points_data(tmp_path / "data")
    spoil_points(data)
    (data / "dataset.yaml").write_text("mpp: 0.5\nclasses: [background, red, blue, green]\n")
    (data / "images" / "field5.png").write_bytes(b"damaged")
    message = bad(start, 3, "check", data)
    head, *problems = message.splitlines()
    assert head == f"segkit: {data}: {len(problems)} problem(s):"
    for words in (
        r"points\.csv: points lie outside of field0\.png, which has 106 x 80 pixels: 1 of \d+, the first at x = 5000, ",
        r"points\.csv: there is no image 'field77' \(line \d+\)\.",
        r"points\.csv: line \d+: x is 'three', which is no number\.",
        r"classes: green: no point has this label \(the labels are blue, look_alike, red\)\.",
        r"field5\.png: ",
    ):
        assert len([line for line in problems if re.search(words, line)]) == 1, (words, message)
    assert len(problems) == 5
    document = json.loads(run(start, "check", data, "--json").out)
    assert [f"  - {one}" for one in document["problems"]] == problems
    # A training says what is wrong with the files before it reads any image; an evaluation does, too.
    trained = bad(start, 3, *train(data)).splitlines()[1:]
    assert len(trained) == 3
    assert set(trained) < set(problems)
    make_run(tmp_path / "runs" / "p")
    evaluated = bad(start, 3, "evaluate", "--data", data, "--split", "all").splitlines()
    assert set(evaluated[1:]) < set(problems)


def one_point_outside(data: Path) -> None:
    (data / "points.csv").write_text("image,x,y,label\nfield0,106.01,20,red\n")


def unknown_image(data: Path) -> None:
    (data / "points.csv").write_text("image,x,y,label\nfield0,6,20,red\nfield9,6,20,red\n")


def empty_table(data: Path) -> None:
    (data / "points.csv").write_text("")


def table_without_rows(data: Path) -> None:
    (data / "points.csv").write_text("image,x,y,label\n")


def empty_label_files(data: Path) -> None:
    (data / "points.csv").unlink()
    for number in range(6):
        save_text(data / "points" / f"field{number}.csv", "x,y,label\n")


def one_empty_label_file(data: Path) -> None:
    empty_label_files(data)
    save_text(data / "points" / "field1.csv", "")
    save_text(data / "points" / "field2.csv", "x,y,label\n3,3,red\n")


def class_without_points(data: Path) -> None:
    (data / "dataset.yaml").write_text("mpp: 0.5\nclasses: [background, red, blue, green]\n")


def only_hard_negatives(data: Path) -> None:
    (data / "points.csv").write_text("image,x,y,label\nfield0,6,20,look_alike\n")


def save_text(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (one_point_outside, r"points\.csv: points lie outside of field0\.png.*the first at x = 106\.01, y = 20"),
        (unknown_image, r"points\.csv: there is no image 'field9' \(line 3\)\. Correct the names"),
        (empty_table, r"points\.csv: holds no points, and its first line is empty"),
        (table_without_rows, r"points\.csv: holds no points, so there is nothing to learn"),
        (empty_label_files, r"points: holds no points, so there is nothing to learn"),
        (one_empty_label_file, r"field1\.csv: holds no points, and its first line is empty"),
        (class_without_points, r"classes: green: no point has this label"),
        (only_hard_negatives, r"only hard negatives \(look_alike\)"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_points_that_cannot_be_learned_from_are_one_clear_line(
    start: Start, tmp_path: Path, spoil: Callable[[Path], None], words: str
) -> None:
    data = make_points_data(tmp_path / "data")
    spoil(data)
    head, problem = bad(start, 3, "check", data).splitlines()
    assert head == f"segkit: {data}: 1 problem(s):"
    assert re.search(words, problem)
    trained = bad(start, 3, *train(data)).splitlines()
    assert trained[1:] == [problem]
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_a_patch_larger_than_the_image_is_one_clear_line(start: Start, tmp_path: Path) -> None:
    splits = "".join(f"field{number},{'val' if number == 5 else 'train'}\n" for number in range(6))
    data = make_points_data(tmp_path / "data", splits=f"image,split\n{splits}")
    save_png(data / "images" / "field3.png", draw_red_and_blue(3, 60, 106).image)
    (data / "points.csv").write_text("image,x,y,label\nfield0,6,20,red\nfield3,6,20,red\nfield5,6,20,red\n")
    head, *small = bad(start, 3, *train(data, "--set", "patches.size_px=71")).splitlines()
    assert "71 px are larger than these images" in head
    assert "patches.size_px" in head
    assert small == ["  - field3: 106 x 60 px"]


@pytest.mark.parametrize("length", ["0px", "0um", "0", "-3px", "3", "3 mm"])
def test_a_radius_that_is_none_is_one_clear_line(
    start: Start, slide: Path, model: Path, tmp_path: Path, length: str
) -> None:
    data = make_points_data(tmp_path / "data")
    commands: dict[str, tuple[object, ...]] = {
        "points.match_radius": train(data),
        "points.positive_radius": train(data),
        "nms_radius": scan(slide, model, tmp_path / "out"),
        "smooth_radius": scan(slide, model, tmp_path / "out"),
        "match_radius": ("evaluate", "--data", data, "--model", model),
    }
    for key, command in commands.items() if length == "0px" else [*commands.items()][::3]:
        message = bad(start, 2, *command, "--set", f"{key}={length}")
        assert f"{key} = " in message
        assert "length above 0 with its unit, e.g. 7.5um or 6px" in message or "should be" in message
    assert not (tmp_path / "out").exists()


def test_a_model_of_the_wrong_kind_names_the_right_command(
    start: Start, slide: Path, model: Path, tiny_run: Path, tmp_path: Path
) -> None:
    message = bad(start, 3, *scan(slide, tiny_run, tmp_path / "out"))
    assert message == (f"segkit: {tiny_run / 'model.safetensors'}: is a U-Net. Use it with `segkit predict`.")
    message = bad(start, 3, "predict", slide, "--model", model, "--out", tmp_path / "out")
    assert message == f"segkit: {model}: is a patch CNN, which finds points. Use it with `segkit sliding-window`."
    assert not (tmp_path / "out" / "tissue").exists()


def test_models_that_do_not_fit_are_no_bug(start: Start, slide: Path, model: Path, tmp_path: Path) -> None:
    other = make_model(tmp_path / "other.safetensors", classes=("background", "red"))
    message = bad(start, 2, *scan(slide, model, tmp_path / "out", "--model", other))
    assert "need the same classes" in message


@pytest.mark.parametrize("command", ["check", "info", "preview"])
def test_looking_at_points_gives_json_too(start: Start, model: Path, tmp_path: Path, command: str) -> None:
    data = make_points_data(tmp_path / "data")
    arguments: dict[str, tuple[object, ...]] = {
        "check": (data,),
        "info": (model,),
        "preview": ("--data", data, "--set", "patches.size_px=33"),
    }
    ended = run(start, command, *arguments[command], "--json")
    assert ended.code == 0, ended.err
    assert json.loads(ended.out, parse_constant=pytest.fail)
    assert run(start, command, *arguments[command]).code == 0
