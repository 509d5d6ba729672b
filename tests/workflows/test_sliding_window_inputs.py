"""Many inputs and models, results that are there, and all that goes wrong: it says why and leaves nothing torn."""

import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from segkit.errors import ModelError, ResourceError, UsageError
from segkit.files import folder_lock
from segkit.inference import verification
from segkit.inference.parts import PartStore
from segkit.inference.window import WindowPredictor
from segkit.models.model_file import load_model
from segkit.workflows import point_outputs as point_outputs_module
from segkit.workflows.predict import predict
from segkit.workflows.sliding_window import WindowResult, sliding_window
from tests.patch_model import draw_red_and_blue, make_model, make_run
from tests.processes import limited_file_size
from tests.tiny import write_slide
from tests.workflows import predictions
from tests.workflows.predictions import files_in, record_of
from tests.workflows.scans import DISKS, LEAVES, config, found_in, one, results_in, run


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "model.safetensors")


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_slide(tmp_path_factory.mktemp("slides") / "tissue.tif", DISKS.image)


@pytest.fixture(scope="module")
def scanned(slide: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> WindowResult:
    """A scan in small tiles; not to be changed."""
    return one(run([slide], model, tmp_path_factory.mktemp("scanned"), "tile=64"))


def test_a_bad_input_stops_no_other_and_says_why(slide: Path, model: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.tif"
    cut.write_bytes(slide.read_bytes()[:-500])
    other = write_slide(tmp_path / "other.tif", draw_red_and_blue(3).image)
    coarse = write_slide(tmp_path / "slides" / "coarse.tif", DISKS.image, mpp=2.5)
    result = run([cut, tmp_path / "missing.svs", other, tmp_path, coarse], model, tmp_path / "out")
    assert [one.status for one in result.slides] == ["failed", "failed", "done", "failed"]
    for failed in (result.slides[0], result.slides[1], result.slides[3]):
        assert failed.exit_code == 3
        assert failed.cause is not None
        assert str(failed.input) in failed.cause
        assert not failed.folder.exists()
        assert (dict(failed.num_detections), failed.largest_difference) == ({}, None)
    assert files_in(result.slides[2].folder) == LEAVES


def test_an_input_is_never_written_over(model: Path, tmp_path: Path) -> None:
    path = write_slide(tmp_path / "probability" / "probability.tif", DISKS.image)
    before = path.read_bytes()
    failed = one(run([path], model, tmp_path))
    assert (failed.status, failed.exit_code) == ("failed", 2)
    assert path.read_bytes() == before


# What is there already


@pytest.fixture
def done(slide: Path, model: Path, tmp_path: Path) -> Path:
    return one(run([slide], model, tmp_path, "verify=5")).folder


def test_a_finished_one_is_skipped(done: Path, slide: Path, model: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in done.iterdir()}
    notes: list[str] = []
    result = sliding_window(
        [slide], models=[model], out=done.parent, config=config("verify=5"), on_note=notes.append
    )  # fmt: skip
    again = one(result)
    assert again.status == "skipped"
    record = record_of(done)
    assert (again.num_detections, again.seconds) == (record["num_detections"], record["seconds"])
    assert again.largest_difference == record["largest_difference"] == 0
    assert "skipped" in notes[0]
    assert {path: path.stat().st_mtime_ns for path in done.iterdir()} == before


@pytest.mark.parametrize("what", ["settings", "method", "model", "another model", "slide"])
def test_another_result_is_not_replaced_without_being_asked(
    done: Path, slide: Path, model: Path, tmp_path: Path, what: str
) -> None:
    before = {path: path.read_bytes() for path in done.iterdir()}
    models, given, assignments = [model], slide, ["verify=5"]
    other = make_model(tmp_path / "other.safetensors", thresholds=(0.5, 0.5))
    match what:
        case "settings":
            assignments += ["threshold=0.3"]
        case "method":
            assignments += ["method=fragments"]
        case "model":
            models = [other]
        case "another model":
            models = [model, other]
        case "slide":
            given = write_slide(tmp_path / "new" / "tissue.tif", draw_red_and_blue(3).image)
    failed = one(run([given], models, done.parent, *assignments))
    assert (failed.status, failed.exit_code) == ("failed", 2)
    assert failed.cause is not None
    assert "--overwrite" in failed.cause
    assert {path: path.read_bytes() for path in done.iterdir()} == before
    assert one(run([given], models, done.parent, *assignments, overwrite=True)).status == "done"
    assert one(run([given], models, done.parent, *assignments)).status == "skipped"


def test_what_a_model_is_called_and_where_it_lies_does_not_matter(
    done: Path, slide: Path, model: Path, tmp_path: Path
) -> None:
    moved = Path(shutil.copy(model, tmp_path / "moved.safetensors"))
    assert one(run([slide], moved, done.parent, "verify=5")).status == "skipped"


def test_nothing_of_a_former_result_stays(done: Path, slide: Path, tmp_path: Path) -> None:
    blind = make_model(tmp_path / "blind.safetensors", at=2.0)
    assert (done / "windows.png").exists()
    assert one(run([slide], blind, done.parent, overwrite=True)).status == "done"
    assert files_in(done) == LEAVES - {"windows.png"}


@pytest.mark.parametrize("record", ["", "{", "[]", '{"complete": false}', "{}"])
def test_without_a_record_that_says_complete_it_is_done_again(
    done: Path, slide: Path, model: Path, record: str
) -> None:
    before = results_in(done)
    (done / "probability.tif").write_bytes(b"torn")
    (done / "detections.csv").write_text("x_px\n")
    (done / "run.json").write_text(record)
    assert one(run([slide], model, done.parent, "verify=5")).status == "done"
    assert results_in(done) == before


def test_a_finished_prediction_is_not_taken_for_a_scan(
    slide: Path, model: Path, tiny_run: Path, tmp_path: Path
) -> None:
    predictions.run([slide], tiny_run, tmp_path)
    before = files_in(tmp_path / "tissue")
    failed = one(run([slide], model, tmp_path))
    assert (failed.status, failed.exit_code) == ("failed", 2)
    assert files_in(tmp_path / "tissue") == before


def test_a_folder_that_another_process_writes_is_left_alone(slide: Path, model: Path, tmp_path: Path) -> None:
    with folder_lock(tmp_path / "tissue"):
        failed = one(run([slide], model, tmp_path))
    assert (failed.status, failed.exit_code) == ("failed", 2)
    assert failed.cause is not None
    assert "another segkit process" in failed.cause
    assert files_in(tmp_path / "tissue") == set()


# What goes wrong on the way


def no_memory(*_: Any, **__: Any) -> None:
    raise ResourceError("no memory is left")


def at_call(honest: Callable[..., Any], number: int) -> Callable[..., Any]:
    """Return a function that fails when it is called for the so-many-th time."""
    calls = itertools.count(1)

    def call(*arguments: Any, **options: Any) -> Any:
        if next(calls) == number:
            no_memory()
        return honest(*arguments, **options)

    return call


def fail_in_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WindowPredictor, "submit", at_call(WindowPredictor.submit, 5))


def fail_in_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(point_outputs_module, "find_runs", no_memory)


def fail_in_the_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PartStore, "write", no_memory)


def fail_in_the_pyramid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of it is written."""
    honest = point_outputs_module.join_pyramid

    def join(*arguments: Any, **options: Any) -> None:
        honest(*arguments, **{**options, "on_row": no_memory})

    monkeypatch.setattr(point_outputs_module, "join_pyramid", join)


def fail_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(point_outputs_module, "detections_of_runs", no_memory)


def fail_in_verification(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "largest_difference", no_memory)


def fail_in_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(point_outputs_module, "draw_contact_sheet", no_memory)


WHOLE = {"probability.tif", "detections.csv", "detections.geojson"}
# What is there then; before the parts are joined nothing is.
FAILURES: dict[Callable[[pytest.MonkeyPatch], None], set[str]] = {
    fail_in_the_network: set(),
    fail_in_a_worker: set(),
    fail_in_the_writer: set(),
    fail_in_the_pyramid: {"parts"},
    fail_in_the_table: {"parts", "probability.tif"},
    fail_in_verification: WHOLE | {"parts"},
    fail_in_the_picture: WHOLE | {"parts", "overview.png"},
}


@pytest.mark.parametrize("fail", FAILURES)
def test_a_failure_on_the_way_leaves_no_torn_file_and_the_next_run_ends_well(
    slide: Path,
    model: Path,
    scanned: WindowResult,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fail: Callable[[pytest.MonkeyPatch], None],
) -> None:
    with monkeypatch.context() as context:
        fail(context)
        with pytest.raises(ResourceError, match="no memory is left"):
            run([slide], model, tmp_path, "tile=64", "verify=1")
    assert files_in(tmp_path / "tissue") == FAILURES[fail]
    for name in FAILURES[fail] - {"parts"}:
        assert (tmp_path / "tissue" / name).read_bytes() == results_in(scanned.folder)[name]
    assert one(run([slide], model, tmp_path, "tile=64", "verify=1")).status == "done"
    # Parts that were whole are not computed again.
    assert record_of(tmp_path / "tissue")["parts"] == {
        "all": 1, "done_by_this_process": int("parts" not in FAILURES[fail])
    }  # fmt: skip
    assert files_in(tmp_path / "tissue") == LEAVES
    assert results_in(tmp_path / "tissue") == results_in(scanned.folder)


@pytest.mark.parametrize("name", sorted(LEAVES))
def test_a_full_disk_ends_the_command_and_leaves_no_torn_file(
    scanned: WindowResult, slide: Path, model: Path, tmp_path: Path, name: str
) -> None:
    """The disk has room for all files that are smaller than this one, which are written before and after it."""
    size = (scanned.folder / name).stat().st_size
    with limited_file_size(size - 1), pytest.raises(ResourceError, match="disk is full"):
        run([slide], model, tmp_path, "tile=64")
    left = files_in(tmp_path / "tissue")
    assert left <= LEAVES - {"run.json", name} | {"parts"}
    for whole in left - {"parts"}:
        assert (tmp_path / "tissue" / whole).read_bytes() == results_in(scanned.folder)[whole]
    assert one(run([slide], model, tmp_path, "tile=64")).status == "done"
    assert results_in(tmp_path / "tissue") == results_in(scanned.folder)


def test_too_little_free_space_is_said_before_the_work(
    slide: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segkit.files.free_bytes", lambda _: 100)
    with pytest.raises(ResourceError, match=r"needs about .*100 B are free"):
        run([slide], model, tmp_path / "out")
    assert files_in(tmp_path / "out" / "tissue") == set()


def test_a_tile_off_the_stride_names_tiles_that_fit(slide: Path, model: Path, tmp_path: Path) -> None:
    failed = one(run([slide], model, tmp_path / "out", "tile=63", "stride=4"))
    assert (failed.exit_code, failed.cause) == (2, "--tile 63: this model needs a multiple of 4, e.g. 60 or 64.")
    assert not failed.folder.exists()


# Models


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"classes": ("background", "red")}, "same classes.*red.*blue"),
        ({"classes": ("background", "blue", "red")}, "same classes.*blue.*red"),
        ({"mpp": 0.25}, "same mpp.*0.5.*0.25"),
        ({"mpp": None}, "same mpp.*0.5.*None"),
    ],
)
def test_models_that_do_not_fit_each_other_are_refused(
    slide: Path, model: Path, tmp_path: Path, other: dict[str, Any], words: str
) -> None:
    second = make_model(tmp_path / "other.safetensors", **other)
    with pytest.raises(UsageError, match=words) as caught:
        run([slide], [model, second], tmp_path / "out")
    assert caught.value.exit_code == 2
    assert not (tmp_path / "out" / "tissue").exists()


def test_a_grey_and_a_colour_model_are_not_averaged(slide: Path, tmp_path: Path) -> None:
    grey, colour = (
        make_model(tmp_path / f"{channels}.safetensors", classes=("background", "bright"), channels=channels)
        for channels in (1, 3)
    )
    with pytest.raises(UsageError, match="one is for grey, one for colour"):
        run([slide], [grey, colour], tmp_path / "out")


def test_a_u_net_is_sent_to_predict(slide: Path, model: Path, tiny_run: Path, tmp_path: Path) -> None:
    for models in ([tiny_run], [model, tiny_run]):
        with pytest.raises(ModelError, match=r"is a U-Net.*`segkit predict`") as caught:
            run([slide], models, tmp_path / "out")
        assert str(tiny_run) in caught.value.message
        assert caught.value.exit_code == 3
    assert not (tmp_path / "out" / "tissue").exists()


def test_a_patch_cnn_is_sent_to_sliding_window(slide: Path, model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"is a patch CNN.*`segkit sliding-window`") as caught:
        predictions.run([slide], model, tmp_path / "out")
    assert str(model) in caught.value.message
    assert not (tmp_path / "out" / "tissue").exists()


def test_of_several_models_the_missing_one_is_named(slide: Path, model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=str(tmp_path / "none")):
        run([slide], [model, tmp_path / "none"], tmp_path / "out")


def test_the_newest_run_of_the_right_kind_is_the_default(
    slide: Path, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_run, "runs/masks")
    with pytest.raises(ModelError, match=r"no finished training of a patch CNN under .*segkit train"):
        sliding_window([slide], config=config())
    make_run(Path("runs/old"), thresholds=(0.1, 0.1))
    newest = make_run(Path("runs/new"))
    (make_run(Path("runs/unfinished")) / "run.json").write_text('{"command": "train", "task": "points"}')
    for number, name in enumerate(["old", "new", "masks"]):  # the last is the newest of all
        os.utime(Path("runs") / name / "run.json", (1e9 + number, 1e9 + number))
    notes: list[str] = []
    result = sliding_window([slide], config=config(), on_note=notes.append)
    assert result.models == [newest / "model.safetensors"]
    assert one(result).folder == Path("detections/tissue")
    assert notes[0] == "model: runs/new (the newest finished run)"
    assert len(found_in(Path("detections/tissue")).scores) == 18
    assert load_model(result.models[0]).spec.task == "points"
    # And the other way round.
    make_run(Path("runs/newer"))
    assert predict([slide], config=predictions.config()).models == [Path("runs/masks/model.safetensors")]
