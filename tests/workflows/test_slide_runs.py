"""However a slide's parts come about, in one run or several, by one worker or more, the result is the same files."""

import csv
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from numpy.typing import NDArray

from segkit import files
from segkit.errors import ResourceError, UsageError
from segkit.geometry import Box
from segkit.inference.image_segmentation import segment_image
from segkit.inference.network import Predictor
from segkit.inference.parts import PartStore
from segkit.inference.pipeline import predict_image
from segkit.inference.sources import ArrayImage
from segkit.models.model_file import build_network, load_model, save_model
from segkit.slides import open_slide
from segkit.slides.geojson import rasterise, read_geojson
from segkit.slides.scaling import ScaledLevel
from segkit.workflows.predict import PredictResult, SlideResult, build_predictor, predict
from segkit.workflows.sharing import ArrayShare, Share
from tests.processes import Running, limited_file_size, segkit
from tests.tiny import MPP, draw_field, save_png, write_slide
from tests.workflows.predictions import config, one, read_pixels, read_rows, record_of

HEIGHT, WIDTH = 1100, 1300
"""Four parts of 1024 px: 1024 and 76 rows, 1024 and 276 columns."""
NUM_TILES = 9
"""Of at most 512 px: four in the first part, two to the right of it, two below it, one in the corner."""
FIELD = np.tile(draw_field(3, 260, 310)[0], (5, 5, 1))[:HEIGHT, :WIDTH]
RESULTS = ("mask.tif", "probability.tif", "objects.csv", "objects.geojson", "overview.png")


class Stop(BaseException):
    """Stands for a signal: nothing catches it."""


class Passes:
    """Counts the tiles that go through the network, and may stop the run after some."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tiles = 0
        self.stop_after: int | None = None
        original = Predictor.submit

        def submit(
            predictor: Predictor, images: NDArray[np.uint8], crops: Sequence[tuple[slice, slice]]
        ) -> Callable[[], Any]:
            if self.tiles == self.stop_after:
                raise Stop
            self.tiles += len(images)
            return original(predictor, images, crops)

        monkeypatch.setattr(Predictor, "submit", submit)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Passes:
    return Passes(monkeypatch)


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_slide(tmp_path_factory.mktemp("large") / "large.tif", FIELD)


@pytest.fixture(scope="session")
def whole(large: Path, tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> SlideResult:
    """A prediction in one run by one worker; not to be changed."""
    return one(run([large], tiny_run, tmp_path_factory.mktemp("whole")))


def run(
    inputs: Sequence[Path], model: Path | Sequence[Path], out: Path, *assignments: str, **options: Any
) -> PredictResult:
    models = [model] if isinstance(model, Path) else model
    return predict(
        inputs, models=models, out=out, config=config("tile=512", "probability=true", *assignments), **options
    )


def run_stopped(passes: Passes, after: int, *arguments: Any, **options: Any) -> None:
    passes.stop_after = passes.tiles + after
    with pytest.raises(Stop):
        run(*arguments, **options)
    passes.tiles, passes.stop_after = 0, None


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in RESULTS}


def parts_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("parts/*/*.safetensors"))


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {".lock"}


def variant(model: Path, path: Path, *, shift: float = 0.0, **changes: Any) -> Path:
    """Write a model with other facts, or one that sees the foreground more often; return it."""
    loaded = load_model(model)
    network = build_network(loaded.spec.arguments, device="cpu")
    weights = {name: tensor.clone() for name, tensor in loaded.network.state_dict().items()}
    last = [name for name in weights if name.endswith("bias")][-1]
    weights[last][1] += shift
    network.load_state_dict(weights)
    save_model(path, network, loaded.spec.model_copy(update=changes))
    return path


# Stopping and going on


@pytest.mark.parametrize("after", [4, 6, 8])
def test_a_run_that_was_stopped_goes_on_from_the_last_part(
    large: Path, tiny_run: Path, whole: SlideResult, tmp_path: Path, passes: Passes, after: int
) -> None:
    run_stopped(passes, after, [large], tiny_run, tmp_path)
    folder = tmp_path / "large"
    assert names_in(folder) <= {"parts"}
    left = parts_in(folder)
    assert len(left) < 4
    notes: list[str] = []
    result = one(run([large], tiny_run, tmp_path, on_note=notes.append))
    assert (result.status, result.num_objects, result.shares) == ("done", whole.num_objects, whole.shares)
    assert contents(folder) == contents(whole.folder)
    assert names_in(folder) == {*RESULTS, "run.json"}
    # Tiles of parts, in order: four, two, two and one.
    assert passes.tiles == NUM_TILES - sum((4, 2, 2, 1)[int(path.stem)] for path in left)
    assert any("parts were finished before" in note for note in notes) == bool(left)
    record = record_of(folder)
    assert record["parts"] == {"all": 4, "done_by_this_process": 4 - len(left)}
    assert record["key"] == record_of(whole.folder)["key"]


def test_parts_that_are_finished_when_a_run_is_stopped_are_kept(
    large: Path, tiny_run: Path, tmp_path: Path, passes: Passes
) -> None:
    """While the last of the four parts is computed no more than one may wait to be written, and one to be worked up."""
    run_stopped(passes, 8, [large], tiny_run, tmp_path)
    assert "000000" in {path.stem for path in parts_in(tmp_path / "large")}


def test_a_run_may_be_stopped_again_and_again(
    large: Path, tiny_run: Path, whole: SlideResult, tmp_path: Path, passes: Passes
) -> None:
    stopped = 0
    for _ in range(20):
        passes.stop_after = passes.tiles + 5
        try:
            run([large], tiny_run, tmp_path)
        except Stop:
            stopped += 1
            continue
        break
    assert stopped
    assert contents(tmp_path / "large") == contents(whole.folder)


def test_a_run_that_goes_on_may_have_other_tiles_and_less_memory(
    large: Path, tiny_run: Path, whole: SlideResult, tmp_path: Path, passes: Passes
) -> None:
    run_stopped(passes, 7, [large], tiny_run, tmp_path)
    left = len(parts_in(tmp_path / "large"))
    assert left
    run([large], tiny_run, tmp_path, "tile=256", "max_memory=10GB", "batch=2")
    assert record_of(tmp_path / "large")["parts"]["done_by_this_process"] == 4 - left
    assert contents(tmp_path / "large") == contents(whole.folder)


def test_progress_goes_on_where_it_was(large: Path, tiny_run: Path, tmp_path: Path, passes: Passes) -> None:
    run_stopped(passes, 8, [large], tiny_run, tmp_path)
    before = sum((4, 2, 2, 1)[int(path.stem)] for path in parts_in(tmp_path / "large"))
    told: list[tuple[str, int, int]] = []

    def on_progress(stage: str, done: int, total: int, _: Mapping[str, Any]) -> None:
        told.append((stage, done, total))

    run([large], tiny_run, tmp_path, on_progress=on_progress)
    tiles = [(done, total) for stage, done, total in told if stage == "large.tif"]
    assert tiles == [(number, NUM_TILES) for number in range(before + 1, NUM_TILES + 1)]
    joined = [(done, total) for stage, done, total in told if stage == "large.tif: joining"]
    assert joined == sorted(joined)
    assert joined[-1][0] == joined[-1][1]


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_part_is_said_and_done_again(
    large: Path, tiny_run: Path, whole: SlideResult, tmp_path: Path, passes: Passes, damage: str
) -> None:
    run_stopped(passes, 8, [large], tiny_run, tmp_path)
    left = parts_in(tmp_path / "large")
    content = left[0].read_bytes()
    middle = len(content) // 2
    left[0].write_bytes(
        {"flip": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :], "cut": content[:-1],
         "empty": b""}[damage]
    )  # fmt: skip
    notes: list[str] = []
    assert one(run([large], tiny_run, tmp_path, on_note=notes.append)).status == "done"
    assert f"{left[0]}: is damaged, this part is done again" in notes
    assert contents(tmp_path / "large") == contents(whole.folder)
    assert record_of(tmp_path / "large")["parts"]["done_by_this_process"] == 4 - (len(left) - 1)


def test_a_part_that_is_lost_while_others_are_made_is_said_and_nothing_is_joined(
    large: Path, tiny_run: Path, whole: SlideResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = PartStore.write

    def losing(store: PartStore, index: int, blocks: Any) -> None:
        write(store, index, blocks)
        if index == 3:
            store.path(0).unlink()

    with monkeypatch.context() as patch:
        patch.setattr(PartStore, "write", losing)
        result = one(run([large], tiny_run, tmp_path))
    assert (result.status, result.exit_code) == ("failed", 3)
    assert "a part was damaged or removed" in str(result.cause)
    assert "run.json" not in names_in(tmp_path / "large")
    assert one(run([large], tiny_run, tmp_path)).status == "done"
    assert contents(tmp_path / "large") == contents(whole.folder)


def test_parts_of_a_slide_that_has_changed_are_of_no_use(tiny_run: Path, tmp_path: Path, passes: Passes) -> None:
    slide = write_slide(tmp_path / "slide.tif", FIELD)
    run_stopped(passes, 8, [slide], tiny_run, tmp_path / "out")
    assert parts_in(tmp_path / "out" / "slide")
    write_slide(slide, FIELD[::-1])
    notes: list[str] = []
    assert one(run([slide], tiny_run, tmp_path / "out", on_note=notes.append)).status == "done"
    assert passes.tiles == NUM_TILES
    said = "slide.tif: parts of an earlier run are of no use (the slide has changed): it starts again"
    assert said in notes
    expected = segment_image(FIELD[::-1], build_predictor([load_model(tiny_run)], config()))
    assert np.array_equal(read_pixels(tmp_path / "out" / "slide" / "mask.tif"), expected)


def test_parts_of_other_settings_are_of_no_use(large: Path, tiny_run: Path, tmp_path: Path, passes: Passes) -> None:
    run_stopped(passes, 8, [large], tiny_run, tmp_path)
    notes: list[str] = []
    run([large], tiny_run, tmp_path, "min_area=20", "tissue=off", on_note=notes.append)
    assert passes.tiles == NUM_TILES
    (said,) = (note for note in notes if "of no use" in note)
    assert "settings" in said
    assert "tissue" in said
    assert "slide has changed" not in said


# What was finished


def test_a_finished_result_is_left_as_it_is(large: Path, tiny_run: Path, tmp_path: Path, passes: Passes) -> None:
    first = one(run([large], tiny_run, tmp_path))
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in first.folder.iterdir()}
    passes.tiles = 0
    notes: list[str] = []
    again = one(run([large], tiny_run, tmp_path, "tile=256", on_note=notes.append))
    assert (again.status, again.num_objects, again.shares) == ("skipped", first.num_objects, first.shares)
    assert passes.tiles == 0
    assert notes == ["large.tif: finished before with the same model and settings, skipped"]
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in first.folder.iterdir()} == before


def test_a_finished_result_of_something_else_is_replaced_on_request_only(
    large: Path, tiny_run: Path, whole: SlideResult, tmp_path: Path
) -> None:
    run([large], tiny_run, tmp_path, "min_area=50", "format=ome-tiff")
    before = {path: path.read_bytes() for path in (tmp_path / "large").iterdir()}
    refused = one(run([large], tiny_run, tmp_path))
    assert (refused.status, refused.exit_code) == ("failed", 2)
    assert "holds a finished result of another slide, model or other settings" in str(refused.cause)
    assert {path: path.read_bytes() for path in (tmp_path / "large").iterdir()} == before
    assert one(run([large], tiny_run, tmp_path, overwrite=True)).status == "done"
    assert contents(tmp_path / "large") == contents(whole.folder)
    assert names_in(tmp_path / "large") == {*RESULTS, "run.json"}  # the maps of the other format are gone


# Several workers


@pytest.mark.parametrize("order", [(1, 2), (2, 1), (3, 1, 2)])
def test_workers_one_after_the_other_leave_the_files_of_a_single_one(
    large: Path, tiny_run: Path, whole: SlideResult, tmp_path: Path, passes: Passes, order: tuple[int, ...]
) -> None:
    done = 0
    for number in order:
        passes.tiles = 0
        notes: list[str] = []
        share = ArrayShare(number, len(order))
        result = one(run([large], tiny_run, tmp_path, share=share, on_note=notes.append))
        is_last = number == order[-1]
        assert result.status == ("done" if is_last else "shared")
        assert 0 < passes.tiles < NUM_TILES
        done += passes.tiles
        if not is_last:
            assert any("with other workers, the last of whom joins them" in note for note in notes)
            assert names_in(tmp_path / "large") == {"parts"}
    assert done == NUM_TILES
    assert contents(tmp_path / "large") == contents(whole.folder)
    assert names_in(tmp_path / "large") == {*RESULTS, "run.json"}
    record = record_of(tmp_path / "large")
    assert record["worker"] == f"worker {order[-1]} of {len(order)} (--shard)"
    assert record["parts"]["done_by_this_process"] < 4
    # Whoever comes again finds it finished.
    assert one(run([large], tiny_run, tmp_path, share=ArrayShare(1, len(order)))).status == "skipped"


def test_workers_divide_several_slides(tiny_run: Path, tmp_path: Path, passes: Passes) -> None:
    """Three slides of one part each: the first worker gets one of them, the second two."""
    slides = [write_slide(tmp_path / f"{name}.tif", draw_field(3, 200, 300)[0]) for name in "abc"]
    statuses = []
    for number in (1, 2):
        result = run(slides, tiny_run, tmp_path / "out", share=ArrayShare(number, 2))
        statuses.append([slide.status for slide in result.slides])
    assert statuses == [["done", "shared", "shared"], ["skipped", "done", "done"]]
    assert passes.tiles == 3
    for slide in slides:
        alone = one(run([slide], tiny_run, tmp_path / "alone"))
        assert contents(tmp_path / "out" / slide.stem) == contents(alone.folder)


def test_a_worker_whose_part_is_lost_does_it_again(
    large: Path, tiny_run: Path, whole: SlideResult, tmp_path: Path
) -> None:
    shares = [ArrayShare(number, 2) for number in (1, 2)]
    run([large], tiny_run, tmp_path, share=shares[0])
    lost = parts_in(tmp_path / "large")[0]
    lost.write_bytes(lost.read_bytes()[:-1])
    # The second sees that all are there and one is damaged: it removes that one, and leaves it to its owner.
    notes: list[str] = []
    second = one(run([large], tiny_run, tmp_path, share=shares[1], on_note=notes.append))
    assert second.status == "shared"
    assert f"{lost}: is damaged, this part is done again" in notes
    assert one(run([large], tiny_run, tmp_path, share=shares[0])).status == "done"
    assert contents(tmp_path / "large") == contents(whole.folder)


def test_a_single_worker_finishes_what_others_began(
    large: Path, tiny_run: Path, whole: SlideResult, tmp_path: Path, passes: Passes
) -> None:
    run([large], tiny_run, tmp_path, share=ArrayShare(2, 2))
    done = passes.tiles
    assert one(run([large], tiny_run, tmp_path)).status == "done"
    assert passes.tiles == NUM_TILES
    assert done < NUM_TILES
    assert contents(tmp_path / "large") == contents(whole.folder)


def test_workers_at_the_same_time_leave_the_files_of_a_single_one(
    large: Path, tiny_run: Path, whole: SlideResult, tmp_path: Path
) -> None:
    folders = [tmp_path / name for name in ("one", "two")]
    workers = []
    for number, folder in enumerate(folders, start=1):
        folder.mkdir()
        workers.append(
            Running(
                folder, segkit, "predict", large, "--model", tiny_run, "--out", tmp_path / "out", "--device", "cpu",
                "--precision", "float32", "--tile", 512, "--probability", "--shard", f"{number}/2", "--json",
            )
        )  # fmt: skip
    ended = [worker.wait() for worker in workers]
    assert [one.code for one in ended] == [0, 0], ended
    statuses = [json.loads(one.out)["slides"][0]["status"] for one in ended]
    assert statuses.count("done") >= 1
    assert set(statuses) <= {"done", "shared"}
    assert contents(tmp_path / "out" / "large") == contents(whole.folder)
    assert not parts_in(tmp_path / "out" / "large")


@pytest.mark.parametrize(
    ("shared", "share", "works"),
    [(False, None, False), (False, ArrayShare(1, 2), False), (True, None, False), (True, ArrayShare(1, 2), True)],
)
def test_only_workers_that_share_may_write_into_the_same_folder(
    large: Path, tiny_run: Path, tmp_path: Path, passes: Passes, shared: bool, share: Share | None, works: bool
) -> None:
    with files.folder_lock(tmp_path / "large", shared=shared):
        result = one(run([large], tiny_run, tmp_path, share=share))
    if works:
        assert result.status == "shared"
        return
    assert (result.status, result.exit_code) == ("failed", 2)
    assert "another segkit process is writing there" in str(result.cause)
    assert passes.tiles == 0
    assert one(run([large], tiny_run, tmp_path)).status == "done"  # when the other has gone


# Where the disk is full


def test_a_disk_that_is_full_while_parts_are_written_keeps_those_that_are_there(
    large: Path, tiny_run: Path, whole: SlideResult, tmp_path: Path, passes: Passes
) -> None:
    run_stopped(passes, 8, [large], tiny_run, tmp_path / "sizes")
    first = parts_in(tmp_path / "sizes" / "large")[0].stat().st_size
    # The first part, which is the largest, does not fit.
    with limited_file_size(first - 1), pytest.raises(ResourceError, match="the disk is full") as caught:
        run([large], tiny_run, tmp_path / "out")
    assert caught.value.exit_code == 4
    assert not (tmp_path / "out" / "large" / "run.json").exists()
    assert not list((tmp_path / "out").rglob("*.partial"))
    left = parts_in(tmp_path / "out" / "large")
    assert "000000" not in {path.stem for path in left}
    passes.tiles = 0
    assert one(run([large], tiny_run, tmp_path / "out")).status == "done"
    assert passes.tiles == NUM_TILES - sum((4, 2, 2, 1)[int(path.stem)] for path in left)
    assert contents(tmp_path / "out" / "large") == contents(whole.folder)


def test_a_disk_that_is_full_while_parts_are_joined_keeps_all_of_them(
    large: Path, tiny_run: Path, whole: SlideResult, tmp_path: Path, passes: Passes
) -> None:
    run_stopped(passes, 8, [large], tiny_run, tmp_path)
    # What is left are narrow parts, which fit; the map and the polygons of the whole slide do not.
    assert "000000" in {path.stem for path in parts_in(tmp_path / "large")}
    size = (whole.folder / "objects.geojson").stat().st_size
    with limited_file_size(size - 1), pytest.raises(ResourceError, match=r"/large/[a-z.]+: the disk is full") as caught:
        run([large], tiny_run, tmp_path)
    assert caught.value.exit_code == 4
    folder = tmp_path / "large"
    assert len(parts_in(folder)) == 4
    assert "run.json" not in names_in(folder)
    assert not list(folder.rglob("*.partial"))
    passes.tiles = 0
    assert one(run([large], tiny_run, tmp_path)).status == "done"
    assert passes.tiles == 0
    assert contents(folder) == contents(whole.folder)


def test_a_disk_that_is_nearly_full_is_seen_before_any_work(
    large: Path, tiny_run: Path, tmp_path: Path, passes: Passes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "free_bytes", lambda _: 1000)
    with pytest.raises(ResourceError, match="the result needs about"):
        run([large], tiny_run, tmp_path)
    assert passes.tiles == 0


# Plans only


def test_a_dry_run_writes_nothing(large: Path, tiny_run: Path, tmp_path: Path, passes: Passes) -> None:
    other = write_slide(tmp_path / "other.tif", FIELD[:200])
    photo = save_png(tmp_path / "photo.png", FIELD[:100])
    before = sorted(tmp_path.rglob("*"))
    notes: list[str] = []
    result = run([large, other, photo], tiny_run, tmp_path / "out", dry_run=True, on_note=notes.append)
    assert [slide.status for slide in result.slides] == ["planned", "planned", "failed"]
    assert sorted(tmp_path.rglob("*")) == before
    assert passes.tiles == 0
    assert notes[0].startswith(f"large.tif: level 0, {WIDTH} x {HEIGHT} px of 0.5 um/px, {NUM_TILES} tiles of 512 + ")
    assert "Give --mpp" in notes[2]


def test_a_dry_run_leaves_what_was_begun(large: Path, tiny_run: Path, tmp_path: Path, passes: Passes) -> None:
    run_stopped(passes, 8, [large], tiny_run, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert one(run([large], tiny_run, tmp_path, "min_area=5", dry_run=True)).status == "planned"
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


# Regions and scales


def test_a_region_is_cut_out_of_the_whole_prediction(
    large: Path, tiny_run: Path, whole: SlideResult, tmp_path: Path
) -> None:
    """With an alignment of 2 px the region 301,402,600,1111 begins at 300, 402 and ends with the slide."""
    result = one(run([large], tiny_run, tmp_path, "region=301,402,600,1111"))
    rows, columns = slice(402, HEIGHT), slice(300, 902)
    mask = read_pixels(result.folder / "mask.tif")
    assert np.array_equal(mask, read_pixels(whole.folder / "mask.tif")[rows, columns])
    probability = read_pixels(result.folder / "probability.tif")
    assert np.array_equal(probability, read_pixels(whole.folder / "probability.tif")[rows, columns])
    # Objects are where they are on the slide.
    filled = rasterise(read_geojson(result.folder / "objects.geojson"), HEIGHT, WIDTH, lambda *_: 1)
    assert np.array_equal(filled[rows, columns], mask)
    assert filled.sum() == mask.sum()
    columns_of_interest = ("class", "x_px", "y_px", "area_px", "perimeter_px", "x_um", "y_um", "probability")
    all_of_them = {tuple(row[name] for name in columns_of_interest) for row in read_rows(whole.folder)}
    found = {tuple(row[name] for name in columns_of_interest) for row in read_rows(result.folder)}
    cut = found - all_of_them  # those that the region's border cuts
    assert len(cut) < len(found) / 2
    for row in cut:
        distances = np.abs([float(row[1]) - 300, float(row[1]) - 902, float(row[2]) - 402])
        assert distances.min() < 30
    assert record_of(result.folder)["plan"]["region"] == {"x": 300, "y": 402, "width": 602, "height": HEIGHT - 402}
    assert result.shares["foreground"] == pytest.approx((mask == 1).mean())


def test_pictures_of_a_region_show_the_region(
    large: Path, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[NDArray[np.uint8], NDArray[np.uint8], float]] = []
    monkeypatch.setattr(
        "segkit.workflows.predict.draw_overview",
        lambda image, mask, *_, um_per_px, **__: drawn.append((image, mask, um_per_px)),
    )
    folder = one(run([large], tiny_run, tmp_path, "region=301,402,600,500")).folder
    ((image, mask, um_per_px),) = drawn
    assert np.array_equal(image, FIELD[402:902, 300:902])
    assert np.array_equal(mask, read_pixels(folder / "mask.tif"))
    assert um_per_px == pytest.approx(MPP)


def test_a_region_says_in_its_files_where_it_lies(large: Path, tiny_run: Path, tmp_path: Path) -> None:
    folder = one(run([large], tiny_run, tmp_path, "region=300,402,100,80", "format=ome-tiff")).folder
    with tifffile.TiffFile(folder / "mask.ome.tif") as tiff:
        (image,) = (tifffile.xml2dict(tiff.ome_metadata)["OME"]["Image"]["Pixels"],)
    plane = image["Plane"]
    assert float(plane["PositionX"]) == pytest.approx(300 * MPP)
    assert float(plane["PositionY"]) == pytest.approx(402 * MPP)


def test_a_region_outside_fails_for_that_slide_only(large: Path, tiny_run: Path, tmp_path: Path) -> None:
    small = write_slide(tmp_path / "small.tif", FIELD[:100, :100])
    result = run([small, large], tiny_run, tmp_path / "out", "region=200,200,100,100")
    assert [(slide.status, slide.exit_code) for slide in result.slides] == [("failed", 2), ("done", 0)]
    assert "lies outside of its 100 x 100 px" in str(result.slides[0].cause)


@pytest.mark.parametrize(("model_mpp", "size"), [(1.0, (150, 210)), (0.75, (200, 280))])
def test_an_image_of_another_scale_is_resampled_to_the_models(
    tiny_run: Path, tmp_path: Path, model_mpp: float, size: tuple[int, int]
) -> None:
    """An image of one level at 0.5 um/px that looks, at the model's scale, like what it was trained on."""
    factor = model_mpp / 0.5
    image, truth = draw_field(50, *size)
    source = np.arange(round(size[0] * factor)), np.arange(round(size[1] * factor))
    rows, columns = ((at / factor).astype(int) for at in source)
    path = save_png(tmp_path / "fine.png", image[rows[:, None], columns])
    model = variant(tiny_run, tmp_path / "model.safetensors", mpp=model_mpp)
    result = one(run([path], model, tmp_path / "out", "mpp=0.5"))
    mask = read_pixels(result.folder / "mask.tif")
    assert mask.shape == size
    assert np.mean(mask == truth) > 0.9
    plan = record_of(result.folder)["plan"]
    assert (plan["level"], plan["resampled"], plan["mpp"], plan["downsample"]) == (0, factor, model_mpp, factor)
    with open_slide(result.folder / "mask.tif") as written:
        assert written.mpp == pytest.approx(model_mpp)
    # The network sees what is resampled, in tiles as in one piece.
    with open_slide(path) as slide:
        level = ScaledLevel(slide, 0, scale=factor, height=size[0], width=size[1])
        pixels = level.read(Box(0, 0, *size))
    assert np.array_equal(mask, segment_image(pixels, build_predictor([load_model(model)], config())))
    # Objects are in pixels of the image as it is.
    rows_of = read_rows(result.folder)
    assert sum(float(row["area_px"]) for row in rows_of) == pytest.approx((mask == 1).sum() * factor**2, rel=1e-4)
    assert sum(float(row["area_um2"]) for row in rows_of) == pytest.approx((mask == 1).sum() * model_mpp**2, rel=1e-4)
    features = read_geojson(result.folder / "objects.geojson")
    filled = rasterise(features, len(source[0]), len(source[1]), lambda *_: 1)
    assert np.mean(filled != mask[rows[:, None], columns]) < 0.02


# Tissue


@pytest.fixture(scope="module")
def on_glass(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide of 3 x 3 cells, 1536 px, with coloured tissue in the upper left quarter of it, on bright glass."""
    glass = np.random.default_rng(0).normal(240, 1, (1536, 1536, 3)).clip(0, 255).astype(np.uint8)
    glass[:400, :400] = FIELD[:400, :400]
    glass[:400, :400, 1] //= 2
    return write_slide(tmp_path_factory.mktemp("glass") / "glass.tif", glass)


def test_glass_is_left_out_and_tissue_is_as_without_leaving_out(
    on_glass: Path, tiny_run: Path, tmp_path: Path, passes: Passes
) -> None:
    everywhere = one(run([on_glass], tiny_run, tmp_path / "off", "tissue=off"))
    assert "tissue.png" not in names_in(everywhere.folder)
    assert record_of(everywhere.folder)["plan"]["cells"] is None
    passes.tiles = 0
    found = one(run([on_glass], tiny_run, tmp_path / "auto"))
    assert "tissue.png" in names_in(found.folder)
    cells = record_of(found.folder)["plan"]["cells"]
    assert cells["all"] == 9
    assert 1 <= cells["computed"] < 9
    assert passes.tiles == record_of(found.folder)["plan"]["num_tiles"] == cells["computed"]
    for name in ("mask.tif", "probability.tif"):
        with_glass, without = (read_pixels(one_of.folder / name) for one_of in (everywhere, found))
        assert np.array_equal(without[:512, :512], with_glass[:512, :512])
        assert not without[1024:].any()
        assert not without[:, 1024:].any()
    mask = read_pixels(found.folder / "mask.tif")
    assert found.shares["foreground"] == pytest.approx((mask == 1).mean())


def test_tissue_may_be_given_as_a_mask_or_polygons(
    large: Path, tiny_run: Path, whole: SlideResult, tmp_path: Path
) -> None:
    """Of the 3 x 3 cells those that a square at 600..900 touches: the one in the middle."""
    square = np.zeros((HEIGHT // 10, WIDTH // 10, 1), np.uint8)
    square[60:90, 60:90] = 1
    ring = [[600, 600], [900, 600], [900, 900], [600, 900], [600, 600]]
    feature = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": {}}
    polygons = tmp_path / "tissue.geojson"
    polygons.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    expected = np.zeros_like(read_pixels(whole.folder / "mask.tif"))
    middle = slice(512, 1024), slice(512, 1024)
    expected[middle] = read_pixels(whole.folder / "mask.tif")[middle]
    for number, path in enumerate((save_png(tmp_path / "tissue.png", square), polygons)):
        result = one(run([large], tiny_run, tmp_path / str(number), f"tissue={path}"))
        assert record_of(result.folder)["plan"]["cells"] == {"all": 9, "computed": 1}
        assert np.array_equal(read_pixels(result.folder / "mask.tif"), expected)
        filled = rasterise(read_geojson(result.folder / "objects.geojson"), HEIGHT, WIDTH, lambda *_: 1)
        assert np.array_equal(filled, expected)
        assert "tissue.png" in names_in(result.folder)


def test_a_result_depends_on_the_content_of_the_tissue_file(
    large: Path, tiny_run: Path, tmp_path: Path, passes: Passes
) -> None:
    mask = np.zeros((110, 130, 1), np.uint8)
    mask[:20] = 1
    path = save_png(tmp_path / "tissue.png", mask)
    assert one(run([large], tiny_run, tmp_path / "out", f"tissue={path}")).status == "done"
    moved = path.rename(tmp_path / "moved.png")
    assert one(run([large], tiny_run, tmp_path / "out", f"tissue={moved}")).status == "skipped"
    save_png(moved, 1 - mask)
    refused = one(run([large], tiny_run, tmp_path / "out", f"tissue={moved}"))
    assert (refused.status, "holds a finished result" in str(refused.cause)) == ("failed", True)


def test_a_region_without_any_tissue_is_finished_at_once(
    large: Path, tiny_run: Path, tmp_path: Path, passes: Passes
) -> None:
    mask = np.zeros((110, 130, 1), np.uint8)
    mask[:20] = 1
    assignments = f"tissue={save_png(tmp_path / 'upper.png', mask)}", "region=0,400,1300,700"
    result = one(run([large], tiny_run, tmp_path / "out", *assignments))
    assert (result.status, result.num_objects) == ("done", 0)
    assert result.shares == {"background": 1.0, "foreground": 0.0}
    assert passes.tiles == 0
    found = read_pixels(result.folder / "mask.tif")
    assert found.shape == (700, WIDTH)
    assert not found.any()


def test_a_tissue_file_that_does_not_fit_fails_the_slide(large: Path, tiny_run: Path, tmp_path: Path) -> None:
    square = save_png(tmp_path / "square.png", np.ones((50, 50, 1), np.uint8))
    result = one(run([large], tiny_run, tmp_path / "out", f"tissue={square}"))
    assert (result.status, result.exit_code) == ("failed", 3)
    assert "square.png" in str(result.cause)


# Models and formats


def test_several_models_are_averaged(large: Path, tiny_run: Path, whole: SlideResult, tmp_path: Path) -> None:
    other = variant(tiny_run, tmp_path / "other.safetensors", shift=3.0)
    result = one(run([large], [tiny_run, other], tmp_path / "out"))
    models = [load_model(path) for path in (tiny_run, other)]
    mask, foreground = predict_image(ArrayImage(FIELD), build_predictor(models, config()))
    assert np.array_equal(read_pixels(result.folder / "mask.tif"), mask)
    assert np.array_equal(read_pixels(result.folder / "probability.tif"), foreground)
    alone = [predict_image(ArrayImage(FIELD), build_predictor([model], config()))[1].astype(int) for model in models]
    assert np.abs(alone[0] - alone[1]).max() > 50
    assert np.abs((alone[0] + alone[1]) / 2 - foreground).max() <= 1  # each is rounded by itself
    record = record_of(result.folder)
    assert [model["sha256"] for model in record["models"]] == [model.sha256 for model in models]
    # The result is theirs, and not that of one of them.
    assert one(run([large], tiny_run, tmp_path / "out")).status == "failed"


def test_models_that_do_not_fit_each_other_are_refused_before_any_work(
    large: Path, tiny_run: Path, tmp_path: Path
) -> None:
    other = variant(tiny_run, tmp_path / "other.safetensors", classes=["background", "something"])
    with pytest.raises(UsageError, match="need the same classes"):
        run([large], [tiny_run, other], tmp_path / "out")
    assert not (tmp_path / "out" / "large").exists()


def test_ome_tiff_holds_the_same_map(large: Path, tiny_run: Path, whole: SlideResult, tmp_path: Path) -> None:
    folder = one(run([large], tiny_run, tmp_path, "format=ome-tiff")).folder
    assert names_in(folder) == {
        "mask.ome.tif", "probability.ome.tif", "objects.csv", "objects.geojson", "overview.png", "run.json",
    }  # fmt: skip
    for name in ("mask", "probability"):
        with tifffile.TiffFile(folder / f"{name}.ome.tif") as tiff:
            assert tiff.is_ome
            (series,) = tiff.series
            assert len(series.levels) == 3
            assert np.array_equal(series.asarray(), read_pixels(whole.folder / f"{name}.tif"))
            assert np.array_equal(series.levels[1].asarray(), read_pixels(whole.folder / f"{name}.tif", 1))
        with open_slide(folder / f"{name}.ome.tif") as slide:
            assert slide.mpp == pytest.approx(MPP)


def test_ome_zarr_holds_the_same_map(large: Path, tiny_run: Path, whole: SlideResult, tmp_path: Path) -> None:
    folder = one(run([large], tiny_run, tmp_path, "format=ome-zarr", "probability_type=float16")).folder
    assert {"mask.ome.zarr", "probability.ome.zarr"} <= names_in(folder)
    group = zarr.open_group(folder / "mask.ome.zarr", mode="r")
    assert np.array_equal(np.squeeze(group["0"][:]), read_pixels(whole.folder / "mask.tif"))
    assert np.array_equal(np.squeeze(group["1"][:]), read_pixels(whole.folder / "mask.tif", 1))
    probability = np.squeeze(zarr.open_group(folder / "probability.ome.zarr", mode="r")["0"][:])
    assert probability.dtype == np.float16
    rounded = read_pixels(whole.folder / "probability.tif") / 255
    assert np.abs(probability - rounded).max() <= 0.5 / 255 + 1e-3


def test_the_probability_may_be_written_in_finer_steps(
    large: Path, tiny_run: Path, whole: SlideResult, tmp_path: Path
) -> None:
    folder = one(run([large], tiny_run, tmp_path, "probability_type=float16")).folder
    found = tifffile.imread(folder / "probability.tif")
    predictor = build_predictor([load_model(tiny_run)], config("probability=true", "probability_type=float16"))
    expected = predict_image(ArrayImage(FIELD), predictor)[2]
    assert found.dtype == expected.dtype == np.float16
    assert np.array_equal(found, expected)
    assert len(np.unique(found)) > 256
    for name in ("mask.tif", "objects.csv", "objects.geojson"):
        assert (folder / name).read_bytes() == (whole.folder / name).read_bytes()


def test_what_a_format_cannot_hold_is_refused_before_any_work(large: Path, tiny_run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="float16"):
        run([large], tiny_run, tmp_path / "out", "format=ome-tiff", "probability_type=float16")
    assert not (tmp_path / "out" / "large").exists()


def test_without_a_probability_it_is_not_written(
    large: Path, tiny_run: Path, whole: SlideResult, tmp_path: Path
) -> None:
    folder = one(run([large], tiny_run, tmp_path, "probability=false")).folder
    assert names_in(folder) == {*RESULTS, "run.json"} - {"probability.tif"}
    assert (folder / "mask.tif").read_bytes() == (whole.folder / "mask.tif").read_bytes()


def test_places_on_tile_borders_are_computed_again_on_request(large: Path, tiny_run: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    folder = one(run([large], tiny_run, tmp_path, "verify_seams=3", on_note=notes.append)).folder
    assert record_of(folder)["largest_seam_difference"] == 0
    assert any("3 places on tile borders, computed again in one piece: the largest difference is 0" in note
               for note in notes)  # fmt: skip


def test_where_there_is_no_border_no_place_is_said_to_be_verified(tiny_run: Path, tmp_path: Path) -> None:
    slide = write_slide(tmp_path / "small.tif", FIELD[:100, :100])
    notes: list[str] = []
    folder = one(run([slide], tiny_run, tmp_path / "out", "verify_seams=3", on_note=notes.append)).folder
    assert record_of(folder)["largest_seam_difference"] is None
    assert "small.tif: no tile borders, or none with room around them: no seams to look for" in notes


# Several inputs


def read_summary(out: Path) -> list[dict[str, str]]:
    with (out / "summary.csv").open(newline="") as handle:
        return list(csv.DictReader(handle))


def test_the_summary_says_what_became_of_each_input(tiny_run: Path, tmp_path: Path) -> None:
    slides = [write_slide(tmp_path / f"{name}.tif", draw_field(number, 90, 100)[0]) for number, name in enumerate("ab")]
    photo = save_png(tmp_path / "photo.png", FIELD[:100])
    result = run([slides[0], photo, slides[1]], tiny_run, tmp_path / "out")
    assert [slide.status for slide in result.slides] == ["done", "failed", "done"]
    rows = read_summary(tmp_path / "out")
    assert [Path(row["input"]).name for row in rows] == ["a.tif", "photo.png", "b.tif"]
    assert [row["status"] for row in rows] == ["done", "failed", "done"]
    for row, slide in zip(rows, result.slides, strict=True):
        assert row["folder"] == str(slide.folder)
        if slide.status == "failed":
            assert "Give --mpp" in row["cause"]
            assert row["num_objects"] == row["seconds"] == row["shares"] == ""
        else:
            assert row["cause"] == ""
            assert int(row["num_objects"]) == slide.num_objects
            assert row["shares"] == "; ".join(f"{name} {share:.6g}" for name, share in slide.shares.items())
            assert float(row["seconds"]) > 0
    again = run([slides[0], photo, slides[1]], tiny_run, tmp_path / "out", "mpp=0.5")
    assert [slide.status for slide in again.slides] == ["failed", "done", "failed"]  # of another mpp
    assert [row["status"] for row in read_summary(tmp_path / "out")] == ["failed", "done", "failed"]


def test_one_input_needs_no_summary(whole: SlideResult) -> None:
    assert not (whole.folder.parent / "summary.csv").exists()


def test_a_slide_that_is_damaged_in_the_middle_fails_alone(tiny_run: Path, tmp_path: Path) -> None:
    """Its lower tiles hold no data: the first parts are computed before that is met."""
    good = write_slide(tmp_path / "good.tif", FIELD[:200, :300])
    bad = write_slide(tmp_path / "bad.tif", FIELD)
    with tifffile.TiffFile(bad) as tiff:
        page = tiff.pages[0]
        last = page.dataoffsets[-1]
    with bad.open("r+b") as file:
        file.seek(last)
        file.write(os.urandom(16))
    result = run([bad, good], tiny_run, tmp_path / "out")
    assert [(slide.status, slide.exit_code) for slide in result.slides] == [("failed", 3), ("done", 0)]
    assert "bad.tif: is damaged" in str(result.slides[0].cause)
    assert not (tmp_path / "out" / "bad" / "run.json").exists()
