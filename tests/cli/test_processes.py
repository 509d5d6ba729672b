"""The commands as processes: killed, interrupted, out of disk, given bad input; what they leave and how they end."""

import json
import os
import random
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segkit.cli.app import COMMANDS
from segkit.files import folder_lock
from segkit.models.model_file import load_model
from segkit.training.checkpoint import load_newest, newest_step
from tests.patch_model import draw_red_and_blue, make_model
from tests.processes import (
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
from tests.tiny import draw_field, make_data, save_png, write_slide

TINY = (
    *("--set", "model.base_channels=4", "--set", "model.depth=1", "--set", "patches.size_px=32"),
    *("--set", "patches.batch=4", "--set", "steps_per_epoch=4", "--set", "compute.precision=float32"),
    *("--device", "cpu"),
)
CPU = ("--device", "cpu", "--precision", "float32")

# Training


def training(data: Path, run_folder: object, *more: object) -> tuple[object, ...]:
    return ("train", "--data", data, "--out", run_folder, *TINY, *more)


def final_weights(run_folder: Path) -> tuple[str, list[Any]]:
    _, state, damaged = load_newest(run_folder / "checkpoints")
    assert not damaged
    return load_model(run_folder).sha256, [value.tolist() for value in state["network"].values()]


@pytest.fixture(scope="module")
def uninterrupted(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of five epochs that nothing disturbed."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    ended = Running(folder, segkit, *training(tiny_data, "run", "--epochs", 5)).wait()
    assert ended.code == 0, ended.err
    return folder / "run"


@pytest.mark.parametrize(("workers", "kills"), [(0, 4), (2, 2)])
def test_a_training_that_is_killed_again_and_again_ends_with_the_same_weights(
    start: Start, tiny_data: Path, uninterrupted: Path, tmp_path: Path, workers: int, kills: int
) -> None:
    run_folder = tmp_path / "run"
    moments = random.Random(workers)
    command = training(tiny_data, run_folder, "--epochs", 5, "--set", f"workers={workers}")
    for _ in range(kills):
        process = start(*command)
        before = newest_step(run_folder / "checkpoints")
        process.wait_for(lambda: newest_step(run_folder / "checkpoints") not in {None, before})  # noqa: B023
        time.sleep(moments.uniform(0, 0.3))
        process.send(signal.SIGKILL)
        if process.wait().code == 0:
            break  # it was quicker
        assert not (run_folder / "run.json").exists()
        # What has its final name is whole.
        _, state, damaged = load_newest(run_folder / "checkpoints")
        assert damaged == []
        if len(state["history"]) > 0:
            load_model(run_folder)
            assert len((run_folder / "metrics.csv").read_text().splitlines()) - 1 >= len(state["history"])
        command = ("train", "--resume", run_folder)
    ended = run(start, "train", "--resume", run_folder)
    assert ended.code == 0, ended.err
    assert final_weights(run_folder) == final_weights(uninterrupted)
    assert temporary_files(run_folder) == []


@pytest.mark.parametrize(
    ("number", "code", "to_group"),
    [(signal.SIGINT, 130, True), (signal.SIGTERM, 143, True), (signal.SIGTERM, 143, False)],
)
def test_an_interrupted_training_ends_quietly_with_its_workers_and_can_be_resumed(
    start: Start, tiny_data: Path, tmp_path: Path, number: signal.Signals, code: int, to_group: bool
) -> None:
    run_folder = tmp_path / "run"
    process = start(*training(tiny_data, run_folder, "--epochs", 500, "--set", "workers=2"))
    process.wait_for(lambda: (newest_step(run_folder / "checkpoints") or 0) >= 12)  # two epochs and validations
    workers = process.children()
    assert workers
    process.send(number, to_group=to_group)
    ended = process.wait(20)
    assert ended.code == code
    # In a step its state is saved; elsewhere, in a validation say, that was done before.
    assert re.fullmatch(
        rf"segkit: {run_folder}: stopped after step \d+ of 2000\. Go on with --resume {run_folder}"
        r"|segkit: interrupted\. Finished files are whole\. Run it again to go on \(a training: with --resume\)\.",
        message_of(ended),
    )
    assert ended.err.splitlines()[-1] == message_of(ended)
    assert not [pid for pid in workers if is_alive(pid)]
    assert temporary_files(run_folder) == []
    _, state, damaged = load_newest(run_folder / "checkpoints")
    epoch = len(state["history"])
    assert damaged == []
    refused = run(start, "train", "--resume", run_folder, "--epochs", epoch - 1)
    assert (refused.code, f"has {epoch} epochs already" in message_of(refused)) == (2, True)


def is_alive(pid: int) -> bool:
    state = Path(f"/proc/{pid}/stat")
    return state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_loader_process_that_is_killed_ends_the_training_with_the_cause(
    start: Start, tiny_data: Path, tmp_path: Path
) -> None:
    process = start(*training(tiny_data, tmp_path / "run", "--epochs", 500, "--set", "workers=2"))
    process.wait_for(lambda: newest_step(tmp_path / "run" / "checkpoints"))
    os.kill(process.children()[0], signal.SIGKILL)
    ended = process.wait(30)
    assert ended.code == 4
    assert re.fullmatch("segkit: a loader process was killed by signal 9.*memory.*", message_of(ended))
    assert load_newest(tmp_path / "run" / "checkpoints")[2] == []


def test_a_training_that_diverges_ends_in_6(start: Start, tiny_data: Path, tmp_path: Path) -> None:
    unstable = ("--set", "model.form=paper", "--set", "optimiser.learning_rate=1e20", "--set", "optimiser.clip_norm=0")
    ended = run(start, *training(tiny_data, tmp_path / "run", *unstable))
    assert ended.code == 6
    assert re.fullmatch(r"segkit: training diverged at step \d+: .*learning_rate.*", message_of(ended))


@pytest.mark.parametrize("limit", [4_000, 20_000, 60_000])
def test_a_full_disk_ends_a_training_in_4_and_it_goes_on_when_there_is_room(
    start: Start, tiny_data: Path, uninterrupted: Path, tmp_path: Path, limit: int
) -> None:
    command = training(tiny_data, tmp_path / "run", "--epochs", 5)
    ended = Running(tmp_path, with_full_disk, limit, *command).wait()
    assert ended.code == 4, ended.err
    assert re.fullmatch(r"segkit: .*: the disk is full .*", message_of(ended))
    assert temporary_files(tmp_path) == []
    if newest_step(tmp_path / "run" / "checkpoints") is not None:
        command = ("train", "--resume", tmp_path / "run")
    ended = run(start, *command)
    assert ended.code == 0, ended.err
    assert final_weights(tmp_path / "run") == final_weights(uninterrupted)


def test_a_folder_that_is_being_written_is_left_alone(start: Start, tiny_data: Path, tmp_path: Path) -> None:
    with folder_lock(tmp_path / "run"):
        ended = run(start, *training(tiny_data, tmp_path / "run"))
    assert (ended.code, "another segkit process" in message_of(ended)) == (2, True)


# Prediction


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_slide(tmp_path_factory.mktemp("slides") / "tissue.tif", draw_field(7, 500, 700)[0])


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide of four parts."""
    image = np.tile(draw_field(8, 520, 530)[0], (3, 2, 1))[:1200, :1060]
    return write_slide(tmp_path_factory.mktemp("slides") / "tissue.tif", image)


NUM_PARTS = 4


@pytest.fixture(scope="module")
def reference(large: Path, tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an undisturbed prediction of the large slide leaves."""
    folder = tmp_path_factory.mktemp("reference")
    ended = Running(folder, segkit, *prediction(large, tiny_run, "out")).wait()
    assert ended.code == 0, ended.err
    return outputs_in(folder / "out" / "tissue")


def prediction(slide: object, model: Path, out: object, *more: object) -> tuple[object, ...]:
    return ("predict", slide, "--model", model, "--out", out, "--tile", 128, "--probability", *CPU, *more)


MOMENTS: dict[str, Callable[[Path], object]] = {
    "the folder appears": lambda folder: folder.exists(),
    "it writes": temporary_files,
    "a part is done": parts_in,
    "three parts are done": lambda folder: len(parts_in(folder)) >= 3,
    "the map is done": lambda folder: (folder / "mask.tif").exists(),
    "the objects are done": lambda folder: (folder / "objects.geojson").exists(),
    "the overview is done": lambda folder: (folder / "overview.png").exists(),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_prediction_that_is_killed_leaves_nothing_torn_and_goes_on(
    start: Start, large: Path, tiny_run: Path, reference: dict[str, bytes], tmp_path: Path, moment: str
) -> None:
    folder = tmp_path / "out" / "tissue"
    process = start(*prediction(large, tiny_run, tmp_path / "out"))
    process.wait_for(lambda: MOMENTS[moment](folder))
    process.send(signal.SIGKILL)
    finished = process.wait().code == 0
    assert (folder / "run.json").exists() == finished
    assert outputs_in(folder).items() <= reference.items()
    number = len(parts_in(folder))
    ended = run(start, *prediction(large, tiny_run, tmp_path / "out"))
    assert ended.code == 0, ended.err
    if not finished:
        assert (f"tissue.tif: {number} of {NUM_PARTS} parts were finished before\n" in ended.err) == (number > 0)
        record = json.loads((folder / "run.json").read_text())
        assert record["parts"] == {"all": NUM_PARTS, "done_by_this_process": NUM_PARTS - number}
    assert outputs_in(folder) == reference
    assert set(in_words(folder)) == {".lock", "run.json", *reference}


def test_a_prediction_that_is_killed_again_and_again_gets_on(
    start: Start, large: Path, tiny_run: Path, reference: dict[str, bytes], tmp_path: Path
) -> None:
    """Each time after one more part; those that are there are not written again."""
    folder = tmp_path / "out" / "tissue"
    kept: dict[str, bytes] = {}
    for _ in range(NUM_PARTS - 1):
        process = start(*prediction(large, tiny_run, tmp_path / "out"))
        process.wait_for(lambda: len(parts_in(folder)) > len(kept))  # noqa: B023
        process.send(signal.SIGKILL)
        if process.wait().code == 0:
            break  # it was quicker
        assert kept.items() <= parts_in(folder).items() or not parts_in(folder)
        kept = parts_in(folder)
    ended = run(start, *prediction(large, tiny_run, tmp_path / "out"))
    assert ended.code == 0, ended.err
    assert outputs_in(folder) == reference


def test_a_part_that_was_damaged_is_done_again(
    start: Start, large: Path, tiny_run: Path, reference: dict[str, bytes], tmp_path: Path
) -> None:
    folder = tmp_path / "out" / "tissue"
    process = start(*prediction(large, tiny_run, tmp_path / "out"))
    process.wait_for(lambda: len(parts_in(folder)) >= 2)
    process.send(signal.SIGKILL)
    process.wait()
    damaged = folder / min(parts_in(folder))
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    number = len(parts_in(folder))
    ended = run(start, *prediction(large, tiny_run, tmp_path / "out"))
    assert ended.code == 0, ended.err
    assert f"{damaged}: is damaged, this part is done again" in ended.err
    assert f"{number - 1} of {NUM_PARTS} parts were finished before" in ended.err
    assert outputs_in(folder) == reference


@pytest.mark.parametrize(
    ("moment", "number", "code"),
    [
        ("it writes", signal.SIGINT, 130),
        ("a part is done", signal.SIGTERM, 143),
        ("the map is done", signal.SIGINT, 130),
        ("the map is done", signal.SIGTERM, 143),
    ],
)
def test_an_interrupted_prediction_ends_at_once_and_leaves_what_is_whole(
    start: Start,
    large: Path,
    tiny_run: Path,
    reference: dict[str, bytes],
    tmp_path: Path,
    moment: str,
    number: signal.Signals,
    code: int,
) -> None:
    folder = tmp_path / "out" / "tissue"
    process = start(*prediction(large, tiny_run, tmp_path / "out"))
    process.wait_for(lambda: MOMENTS[moment](folder))
    process.send(number)
    ended = process.wait(20)
    assert ended.code == code
    assert message_of(ended).startswith("segkit: interrupted.")
    assert temporary_files(folder) == []
    assert outputs_in(folder).items() <= reference.items()
    if (folder / "run.json").exists():  # the signal came when all was written, and nothing but the end was left
        assert moment == "the map is done"
        assert outputs_in(folder) == reference
    assert run(start, *prediction(large, tiny_run, tmp_path / "out")).code == 0
    assert outputs_in(folder) == reference


def test_good_inputs_are_finished_and_bad_ones_named(start: Start, slide: Path, tiny_run: Path, tmp_path: Path) -> None:
    cut, missing = tmp_path / "cut.tif", tmp_path / "missing.tif"
    cut.write_bytes(slide.read_bytes()[:-1000])
    ended = run(start, *prediction(slide, tiny_run, tmp_path / "out", cut, missing, "--json"))
    assert ended.code == 5
    statuses = {Path(one["input"]).name: one["status"] for one in json.loads(ended.out)["slides"]}
    assert statuses == {"tissue.tif": "done", "cut.tif": "failed", "missing.tif": "failed"}
    message, *causes = message_of(ended).splitlines()
    assert message == "segkit: 2 of 3 inputs failed:"
    assert [cause.split(":")[0] for cause in causes] == [f"  - {cut}", f"  - {missing}"]
    assert (tmp_path / "out" / "tissue" / "run.json").exists()
    ended = run(start, *prediction(cut, tiny_run, tmp_path / "out"))
    assert (ended.code, message_of(ended).splitlines()[0]) == (3, "segkit: 1 of 1 inputs failed:")


def test_predicting_again_skips_refuses_and_overwrites(
    start: Start, slide: Path, tiny_run: Path, tmp_path: Path
) -> None:
    command = prediction(slide, tiny_run, tmp_path / "out")
    assert run(start, *command).code == 0
    again = run(start, *command)
    assert (again.code, "skipped" in again.out) == (0, True)
    refused = run(start, *command, "--min-area", 50)
    assert (refused.code, "--overwrite" in message_of(refused)) == (2, True)
    assert run(start, *command, "--min-area", 50, "--overwrite").code == 0


def test_unusual_names_stay_on_one_line_and_inside_the_folder(start: Start, tiny_run: Path, tmp_path: Path) -> None:
    names = ["a b ü 日本", "new\nline", "-dash"]
    for name in names:
        write_slide(tmp_path / "in" / f"{name}.tif", draw_field(1)[0])
    bad = tmp_path / "in" / "bad\n\x1b[31m.tif"
    bad.write_bytes(b"no image")
    ended = run(start, *prediction(tmp_path / "in", tiny_run, tmp_path / "out"))
    assert ended.code == 5
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*names, "summary.csv"}
    assert "bad\\n\\x1b[31m.tif" in message_of(ended)
    assert "\x1b" not in ended.err + ended.out


@pytest.mark.parametrize("kind", ["none", "picture", "text"])
def test_what_is_no_model_ends_in_3(start: Start, slide: Path, tmp_path: Path, kind: str) -> None:
    model = tmp_path / "model.safetensors"
    if kind == "picture":
        save_png(tmp_path / "x.png", draw_field(0)[0]).rename(model)
    elif kind == "text":
        model.write_text("weights")
    ended = run(start, *prediction(slide, model, tmp_path / "out"))
    assert ended.code == 3
    assert re.fullmatch(f"segkit: {re.escape(str(model))}: .*", message_of(ended))


def test_a_full_disk_ends_a_prediction_in_4(start: Start, slide: Path, tiny_run: Path, tmp_path: Path) -> None:
    ended = Running(tmp_path, with_full_disk, 10_000, *prediction(slide, tiny_run, tmp_path / "out")).wait()
    assert ended.code == 4, ended.err
    assert re.fullmatch(r"segkit: .*: the disk is full .*", message_of(ended))
    assert outputs_in(tmp_path / "out" / "tissue") == {}
    assert temporary_files(tmp_path) == []


# Looking


def test_a_check_ends_in_3_and_lists_what_is_wrong(start: Start, tiny_data: Path, tmp_path: Path) -> None:
    good = run(start, "check", tiny_data)
    assert (good.code, "No problems." in good.out) == (0, True)
    data = make_data(tmp_path / "data")
    (data / "masks" / "field3.png").unlink()
    (data / "images" / "field4.png").write_bytes(b"damaged")
    bad = run(start, "check", data, "--json")
    assert bad.code == 3
    problems = json.loads(bad.out)["problems"]
    assert len(problems) == 2
    assert message_of(bad).splitlines() == [f"segkit: {data}: 2 problem(s):", *(f"  - {one}" for one in problems)]
    # A training says the same, before it begins.
    trained = run(start, *training(data, tmp_path / "run"))
    assert trained.code == 3
    assert "field3.png" in message_of(trained)


def test_each_command_gives_one_json_document(
    start: Start, tiny_data: Path, tiny_run: Path, slide: Path, tmp_path: Path
) -> None:
    commands: dict[str, tuple[object, ...]] = {
        "train": (*training(tiny_data, "run", "--epochs", 1)[1:],),
        "predict": prediction(slide, tiny_run, "out")[1:],
        "sliding-window": (
            write_slide(tmp_path / "disks.tif", draw_red_and_blue(1).image),
            *("--model", make_model(tmp_path / "patch.safetensors"), "--out", "found", "--verify", 5, *CPU[:2]),
        ),
        "evaluate": ("--data", tiny_data, "--model", tiny_run, "--split", "test", "--set", "bootstrap=20"),
        "check": (tiny_data,),
        "info": (tiny_run,),
        "preview": ("--data", tiny_data, *TINY[:-2]),
        "find-lr": ("--data", tiny_data, *TINY[:-2], "--steps", 20),
        "compare": ("evaluation", tiny_run, "--data", tiny_data, "--split", "test", "--set", "bootstrap=20"),
        "export": (tmp_path / "patch.safetensors", "--format", "torch"),
    }
    for name, arguments in commands.items():
        ended = run(start, name, *arguments, "--json")
        assert ended.code == 0, ended.err
        assert json.loads(ended.out, parse_constant=pytest.fail)
        assert message_of(ended) == ""
    # These have tests of their own: one takes long, one goes on until it is stopped.
    assert commands.keys() == COMMANDS.keys() - {"make-sample", "view"}
    assert {path.name for path in tmp_path.iterdir()} >= {"run", "out", "found", "evaluation", "preview.png"}


def test_a_name_cannot_steer_the_terminal(start: Start, tmp_path: Path) -> None:
    ended = run(start, "info", save_png(tmp_path / "x\x1b[31m\x07.png", draw_field(0)[0]))
    assert ended.code == 0
    assert "\\x1b[31m\\x07.png" in ended.out.replace("\n", "")
    assert not set(ended.out) & {"\x1b", "\x07"}


def small_sample(*arguments: str) -> None:
    """Be the command `segkit`, with a sample that takes no minute."""
    from segkit.workflows import sample

    sample.FIELDS, sample.FIELD_PX, sample.SLIDE_PX = 4, 128, 512
    segkit(*arguments)


def test_a_sample_is_a_data_folder_and_the_same_for_a_seed(start: Start, tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        made = Running(tmp_path, small_sample, "make-sample", name, "--seed", seed).wait()
        assert made.code == 0, made.err
    assert "Next: segkit check c" in made.out
    a, b, c = (in_words(tmp_path / name) for name in "abc")
    assert a == b
    assert a.keys() == c.keys()
    assert a != c
    assert run(start, "check", "a").code == 0


def test_a_sample_is_not_written_over_something(start: Start, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    ended = run(start, "make-sample", "mine")
    assert (ended.code, "not empty" in message_of(ended)) == (2, True)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["file"]


# The whole way


def test_from_a_data_folder_to_metrics(start: Start, tiny_data: Path, slide: Path, tmp_path: Path) -> None:
    trained = run(start, *training(tiny_data, "runs/a", "--epochs", 2, "--set", "workers=2"))
    assert trained.code == 0, trained.err
    assert "Model: runs/a/model.safetensors" in trained.out
    assert "Look at: runs/a/figures/curves.png" in trained.out
    predicted = run(start, "predict", slide)
    assert predicted.code == 0, predicted.err
    assert "model: runs/a (the newest finished run)" in predicted.err
    assert "Look at: predictions/tissue/overview.png" in predicted.out
    evaluated = run(start, "evaluate", "--data", tiny_data, "--split", "test")
    assert evaluated.code == 0, evaluated.err
    pictures = [line.removeprefix("Look at: ") for line in evaluated.out.splitlines() if line.startswith("Look at")]
    assert pictures == ["evaluation/figures/field6.png", "evaluation/figures/field7.png"]
    assert all((tmp_path / picture).is_file() for picture in pictures)


def test_the_interpreter_itself_ends_when_a_training_with_workers_is_interrupted(
    start_segkit: Callable[..., Any], tiny_data: Path, tmp_path: Path
) -> None:
    process = start_segkit(*training(tiny_data, "run", "--epochs", 500, "--set", "workers=2"))
    while newest_step(tmp_path / "run" / "checkpoints") in {None, 0} and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 143
    assert "Traceback" not in err
