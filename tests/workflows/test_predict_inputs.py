"""Many inputs, results that are there, and all that cannot be predicted: it says why and stops no other."""

import csv
import errno
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from segkit.errors import ModelError, ResourceError, UsageError
from segkit.workflows.predict import SlideResult, predict
from segkit.workflows.train import train
from tests.processes import limited_file_size
from tests.tiny import draw_field, save_png, tiny_config, write_slide
from tests.workflows.predictions import IMAGE, LEAVES, config, files_in, one, record_of, results_in, run


def test_a_bad_input_stops_no_other_and_says_why(slide: Path, tiny_run: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.tif"
    cut.write_bytes(slide.read_bytes()[:-500])
    other = write_slide(tmp_path / "other.tif", draw_field(51)[0])
    result = run([cut, tmp_path / "missing.svs", other, tmp_path], tiny_run, tmp_path / "out")
    assert [one.status for one in result.slides] == ["failed", "failed", "done"]
    for failed in result.slides[:2]:
        assert failed.exit_code == 3
        assert failed.cause is not None
        assert str(failed.input) in failed.cause
        assert not failed.folder.exists()
    assert files_in(result.slides[2].folder) == LEAVES
    # And a table says so of all of them.
    with (tmp_path / "out" / "summary.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [(row["input"], row["status"], row["cause"]) for row in rows] == [
        (str(one.input), one.status, one.cause or "") for one in result.slides
    ]
    assert int(rows[2]["num_objects"]) == result.slides[2].num_objects


def test_folders_and_globs_give_their_images_once_and_sorted(tiny_run: Path, tmp_path: Path) -> None:
    for name in ("b.tif", "a.TIF", "c.png", "._a.tif", "notes.txt"):
        (tmp_path / "slides" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "slides" / name).write_bytes(b"no slide")
    (tmp_path / "slides" / "folder.tif").mkdir()
    for inputs, names in {
        (tmp_path / "slides",): ["a.TIF", "b.tif", "c.png"],
        (tmp_path / "slides" / "*.tif",): ["._a.tif", "b.tif"],
        (tmp_path / "slides" / "b.tif", tmp_path / "slides" / "?.*"): ["b.tif", "a.TIF", "c.png"],
    }.items():
        result = run(list(inputs), tiny_run, tmp_path / "out")
        assert [one.input.name for one in result.slides] == names


def test_globs_may_be_relative(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_slide(Path("a.tif"), draw_field(1)[0])
    assert one(run([Path("*.tif")], tiny_run, Path("out"))).status == "done"


def test_nothing_to_predict_is_an_error(tiny_run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for given in (tmp_path / "empty", tmp_path / "*.svs"):
        with pytest.raises(UsageError, match=r"no images in this folder|no file matches"):
            run([given], tiny_run, tmp_path / "out")


def test_inputs_that_would_share_a_folder_are_refused_by_name(tiny_run: Path, tmp_path: Path) -> None:
    paths = [tmp_path / "a" / "x.tif", tmp_path / "b" / "x.png", tmp_path / "y.tif"]
    with pytest.raises(UsageError, match="same folder") as caught:
        run(paths, tiny_run, tmp_path / "out")
    assert caught.value.problems == [f"x: {paths[0]}, {paths[1]}"]


@pytest.mark.parametrize("name", ["...tif", "..tif"])
def test_results_never_leave_the_output_folder(tiny_run: Path, tmp_path: Path, name: str) -> None:
    write_slide(tmp_path / name, draw_field(1)[0])
    with pytest.raises(UsageError, match="Rename"):
        run([tmp_path / name], tiny_run, tmp_path / "out" / "inner")
    assert not (tmp_path / "out" / "run.json").exists()


@pytest.mark.parametrize("name", ["a b.tif", "日本 ü.tif", "-x.tif", "new\nline.tif", "[a]*?.tif"])
def test_unusual_names(tiny_run: Path, tmp_path: Path, name: str) -> None:
    path = write_slide(tmp_path / name, draw_field(1)[0])
    result = one(run([path], tiny_run, tmp_path / "out"))
    assert result.status == "done", result.cause
    assert result.folder == tmp_path / "out" / name.removesuffix(".tif")
    assert files_in(result.folder) == LEAVES


def test_an_input_is_never_written_over(tiny_run: Path, tmp_path: Path) -> None:
    path = write_slide(tmp_path / "mask" / "mask.tif", IMAGE)
    before = path.read_bytes()
    failed = one(run([path], tiny_run, tmp_path))
    assert (failed.status, failed.exit_code) == ("failed", 2)
    assert path.read_bytes() == before


"""What happens where there is a result already."""


@pytest.fixture
def done(slide: Path, tiny_run: Path, tmp_path: Path) -> Path:
    return one(run([slide], tiny_run, tmp_path, "probability=true")).folder


def test_a_finished_one_is_skipped(done: Path, slide: Path, tiny_run: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in done.iterdir()}
    first = record_of(done)
    again = one(run([slide], tiny_run, done.parent, "probability=true"))
    assert again.status == "skipped"
    assert (again.num_objects, again.shares) == (first["num_objects"], first["shares"])
    assert {path: path.stat().st_mtime_ns for path in done.iterdir()} == before


@pytest.mark.parametrize("what", ["settings", "model", "slide"])
def test_another_result_is_not_replaced_without_being_asked(
    done: Path, slide: Path, tiny_run: Path, tiny_data: Path, tmp_path: Path, what: str
) -> None:
    before = {path: path.read_bytes() for path in done.iterdir()}
    model, given, assignments = tiny_run, slide, ["probability=true"]
    if what == "settings":
        assignments = ["min_area=3"]
    elif what == "model":
        model = train(tiny_config(tiny_data, "epochs=1"), out=tmp_path / "other").run
    else:
        given = write_slide(tmp_path / "new" / "tissue.tif", draw_field(3)[0])
    failed = one(run([given], model, done.parent, *assignments))
    assert (failed.status, failed.exit_code) == ("failed", 2)
    assert failed.cause is not None
    assert "--overwrite" in failed.cause
    assert {path: path.read_bytes() for path in done.iterdir()} == before
    replaced = one(run([given], model, done.parent, *assignments, overwrite=True))
    assert replaced.status == "done"
    # Nothing of the former result stays.
    assert files_in(done) == LEAVES | ({"probability.tif"} if "probability=true" in assignments else set())
    assert one(run([given], model, done.parent, *assignments)).status == "skipped"


@pytest.mark.parametrize("assignment", ["tile=64", "max_memory=60GB", "verify_seams=2"])
def test_settings_that_change_nothing_make_no_other_result(
    done: Path, slide: Path, tiny_run: Path, assignment: str
) -> None:
    assert one(run([slide], tiny_run, done.parent, "probability=true", assignment)).status == "skipped"


def test_the_same_result_is_made_again_where_it_is_to_be_replaced(done: Path, slide: Path, tiny_run: Path) -> None:
    before = results_in(done)
    (done / "mask.tif").write_bytes(b"not what was written")
    again = one(run([slide], tiny_run, done.parent, "probability=true", overwrite=True))
    assert again.status == "done"
    assert results_in(done) == before
    assert files_in(done) == LEAVES | {"probability.tif"}


@pytest.mark.parametrize("record", ["", "{", "[]", '{"complete": false}', "{}"])
def test_without_a_record_that_says_complete_it_is_done_again(
    done: Path, slide: Path, tiny_run: Path, record: str
) -> None:
    before = results_in(done)
    (done / "mask.tif").write_bytes(b"torn")
    (done / "run.json").write_text(record)
    assert one(run([slide], tiny_run, done.parent, "probability=true")).status == "done"
    assert results_in(done) == before


def test_a_tile_off_the_models_grid_names_tiles_that_fit(slide: Path, tiny_run: Path, tmp_path: Path) -> None:
    failed = one(run([slide], tiny_run, tmp_path / "out", "tile=63"))
    assert failed.exit_code == 2
    assert failed.cause == "--tile 63: this model needs a multiple of 2, e.g. 62 or 64."
    assert not failed.folder.exists()


@pytest.mark.parametrize("kind", ["safetensors of another program", "picture", "folder", "missing", "checkpoint"])
def test_what_is_no_model_ends_everything_at_once(slide: Path, tiny_run: Path, tmp_path: Path, kind: str) -> None:
    model = tmp_path / "model"
    if kind == "safetensors of another program":
        save_file({"weight": torch.zeros(3)}, model)
    elif kind == "picture":
        save_png(tmp_path / "model.png", IMAGE).rename(model)
    elif kind == "folder":
        model.mkdir()
    elif kind == "checkpoint":
        shutil.copy(max((tiny_run / "checkpoints").iterdir()), model)
    with pytest.raises(ModelError, match=str(model)):
        run([slide], model, tmp_path / "out")


def test_an_output_that_is_a_file_is_refused_before_the_model_is_loaded(slide: Path, tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(UsageError, match="is a file"):
        run([slide], tmp_path / "no model", tmp_path / "out")


def test_a_folder_of_results_that_is_a_file_fails_that_input(slide: Path, tiny_run: Path, tmp_path: Path) -> None:
    (tmp_path / "tissue").write_text("mine")
    failed = one(run([slide], tiny_run, tmp_path))
    assert (failed.status, failed.exit_code) == ("failed", 2)
    assert (tmp_path / "tissue").read_text() == "mine"


@pytest.mark.parametrize("name", sorted(LEAVES))
def test_a_full_disk_ends_the_command_and_leaves_no_torn_file(
    predicted: SlideResult, slide: Path, tiny_run: Path, tmp_path: Path, name: str
) -> None:
    """The disk has room for all files that are smaller than this one, which are written before and after it."""
    size = (predicted.folder / name).stat().st_size
    with limited_file_size(size - 1), pytest.raises(ResourceError, match="disk is full"):
        run([slide], tiny_run, tmp_path / "out")
    assert_nothing_is_torn(tmp_path / "out" / "tissue", predicted.folder)
    assert one(run([slide], tiny_run, tmp_path / "out")).status == "done"
    assert results_in(tmp_path / "out" / "tissue") == results_in(predicted.folder)
    assert files_in(tmp_path / "out" / "tissue") == LEAVES


def assert_nothing_is_torn(folder: Path, reference: Path) -> None:
    """Whatever is there under its final name is whole, and the parts stay for the next run."""
    left = files_in(folder)
    assert left <= LEAVES - {"run.json"} | {"parts"}
    for name in left - {"parts"}:
        assert (folder / name).read_bytes() == results_in(reference)[name]
    assert not list(folder.rglob("*.partial"))


@pytest.mark.parametrize("name", [*sorted(LEAVES), "000000.safetensors"])
def test_a_disk_that_is_full_for_one_file_leaves_the_parts_for_the_next_run(
    predicted: SlideResult, slide: Path, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    honest = Path.replace

    def replace(self: Path, target: Path) -> Path:
        if target.name == name:
            raise OSError(errno.ENOSPC, "No space left on device")
        return honest(self, target)

    with monkeypatch.context() as context:
        context.setattr(Path, "replace", replace)
        with pytest.raises(ResourceError, match=f"{name}: the disk is full"):
            run([slide], tiny_run, tmp_path)
    folder = tmp_path / "tissue"
    assert_nothing_is_torn(folder, predicted.folder)
    assert name not in files_in(folder)
    parts = list(folder.rglob("*.safetensors"))
    assert len(parts) == (name != "000000.safetensors")
    notes: list[str] = []
    predict([slide], models=[tiny_run], out=tmp_path, config=config(), on_note=notes.append)
    assert ("tissue.tif: 1 of 1 parts were finished before" in notes) == bool(parts)
    assert record_of(folder)["parts"] == {"all": 1, "done_by_this_process": 1 - len(parts)}
    assert results_in(folder) == results_in(predicted.folder)
    assert files_in(folder) == LEAVES


def test_too_little_free_space_is_said_before_the_work(
    slide: Path, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segkit.files.free_bytes", lambda _: 100)
    with pytest.raises(ResourceError, match=r"needs about 3\.9 kB, and 100 B are free"):
        run([slide], tiny_run, tmp_path / "out")
    assert files_in(tmp_path / "out" / "tissue") == set()


def test_a_new_run_makes_its_newest_model_the_default(
    slide: Path, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"no finished training of a U-Net under .*segkit train"):
        predict([slide], config=config())
    shutil.copytree(tiny_run, "runs/only")
    notes: list[str] = []
    result = predict([slide], config=config(), on_note=notes.append)
    assert result.models == [Path("runs/only/model.safetensors")]
    assert one(result).folder == Path("predictions/tissue")
    assert any("runs/only" in note for note in notes)
