"""`check_dataset` reads everything: problems, warnings and facts."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from data_pictures import save
from typer.testing import CliRunner

from segkit.cli.app import app
from segkit.config import DataConfig
from segkit.data.check import CheckReport, check_dataset
from segkit.errors import InputError

MakeData = Callable[..., Path]
MASK = np.zeros((300, 280), np.uint8)
MASK[:150, :140] = 1


def check(root: Path) -> CheckReport:
    return check_dataset(DataConfig(dir=root))


def test_a_good_folder_has_facts_and_nothing_else(make_data: MakeData) -> None:
    ignored = MASK.copy()
    ignored[150:] = 9
    root = make_data(
        {"a": MASK, "b": ignored, "c": MASK, "d": MASK},
        splits="image,split,group\na,train,p\nb,train,q\nc,train,q\nd,val,r\n",
        yaml="mpp: 0.25\nignore: 9\n",
    )
    steps: list[tuple[int, int]] = []
    report = check_dataset(DataConfig(dir=root), lambda done, total: steps.append((done, total)))
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert (report.problems, report.warnings) == ([], [])
    assert report.require_usable() is report.dataset
    facts = report.facts
    assert facts is not None
    assert (facts.num_images, facts.heights, facts.widths, facts.channels) == (4, (300, 300), (280, 280), {3: 4})
    assert (facts.mpp, facts.classes, facts.num_empty) == (0.25, ("background", "foreground"), 0)
    train = facts.splits["train"]
    assert (train.num_images, train.num_groups) == (3, 2)
    assert train.class_pixels == (63_000 * 2 + 21_000, 3 * 21_000)
    assert train.ignored_pixels == 150 * 280
    assert sum(train.class_shares) == pytest.approx(1)
    assert facts.splits["val"].class_shares == pytest.approx((0.75, 0.25))


def test_damage_is_listed_with_what_is_wrong_with_the_structure(make_data: MakeData) -> None:
    root = make_data({"a": MASK, "b": MASK, "c": MASK, "d": MASK, "e": MASK}, yaml="classes: [x, y, z]")
    (root / "images/a.png").write_bytes((root / "images/a.png").read_bytes()[:5000])
    (root / "masks/b.png").write_bytes(b"no picture")
    save(root / "masks/c.png", MASK[:, :100])
    save(root / "masks/d.png", MASK * 77)
    save(root / "images/f.png", MASK)
    report = check(root)
    expected = ["images/a.png", "masks/b.png", "100 x 300 pixels", "the values 77", "f.png: has no annotation"]
    assert len(report.problems) == len(expected)
    for text in expected:
        assert [problem for problem in report.problems if text in problem], (text, report.problems)
    assert report.problems == sorted(report.problems)
    assert report.facts is not None
    assert report.facts.num_images == 6
    with pytest.raises(InputError, match="cannot be used") as caught:
        report.require_usable()
    assert caught.value.problems == report.problems


def test_a_damaged_mask_is_one_problem(make_data: MakeData) -> None:
    root = make_data({"a": MASK, "b": MASK})
    (root / "masks/b.png").write_bytes(b"no picture")
    assert len(check(root).problems) == 1


def test_unknown_classes_do_not_hide_damaged_images(make_data: MakeData) -> None:
    root = make_data({"a": MASK * 5, "b": MASK * 7})
    (root / "images/b.png").write_bytes(b"no picture")
    report = check(root)
    assert len(report.problems) == 2
    assert report.facts is not None


def test_a_folder_that_cannot_be_understood_has_no_facts(tmp_path: Path) -> None:
    report = check(tmp_path / "nothing")
    assert report.facts is None
    assert report.problems
    with pytest.raises(InputError):
        report.require_usable()


@pytest.mark.parametrize(
    ("splits", "is_problem", "text"),
    [
        ("image,split\na,train\nb,val\n", True, "in different splits"),
        ("image,split\na,train\nb,train\n", False, "the same picture as b"),
        (None, False, "Give them one group"),
    ],
)
def test_the_same_picture_twice(make_data: MakeData, splits: str | None, is_problem: bool, text: str) -> None:
    root = make_data({"a": MASK, "b": MASK}, splits=splits)
    (root / "images/b.png").write_bytes((root / "images/a.png").read_bytes())
    report = check(root)
    found = report.problems if is_problem else report.warnings
    assert any(text in line for line in found)
    assert bool(report.problems) == is_problem


def test_grey_among_colour_images_is_a_warning(make_data: MakeData) -> None:
    root = make_data({"a": MASK, "b": MASK})
    save(root / "images/a.png", MASK)
    assert any("1 grey and 1 colour" in warning for warning in check(root).warnings)


def test_small_images_are_a_warning(make_data: MakeData) -> None:
    warnings = check(make_data({"a": MASK, "b": MASK[:, :64], "c": MASK[:200]})).warnings
    assert any("b.png: 64 x 300 pixels; patches are 64 px" in warning and "2 images" in warning for warning in warnings)


def test_a_class_without_training_pixels_is_a_warning(make_data: MakeData) -> None:
    masks = {"a": MASK, "b": MASK * 2}
    root = make_data(masks, splits="image,split\na,train\nb,val\n")
    assert any("class class_2 occurs in no training image" in warning for warning in check(root).warnings)


def test_a_folder_without_training_images_can_be_evaluated(make_data: MakeData) -> None:
    report = check(make_data({"a": MASK}, splits="image,split\na,test\n"))
    assert not report.problems
    assert any("nothing to train on" in warning for warning in report.warnings)


def test_many_masks_without_foreground_are_a_warning(make_data: MakeData) -> None:
    warnings = check(make_data({"a": MASK, "b": MASK * 0, "c": MASK * 0})).warnings
    assert any("2 of 3 masks have no foreground" in warning for warning in warnings)


def test_a_scale_that_contradicts_the_description_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    resolution = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(tmp_path / "images/a.tif", MASK, **resolution)
    save(tmp_path / "masks/a.png", MASK)
    (tmp_path / "dataset.yaml").write_text("mpp: 0.25")
    assert any("says 0.5 um per pixel, and the data set 0.25" in warning for warning in check(tmp_path).warnings)


# Points


@pytest.fixture
def make_points(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that makes a folder with three images of 280 x 300 pixels and points.csv."""

    def make(rows: str, splits: str | None = None) -> Path:
        for number, name in enumerate("abc"):
            rng = np.random.default_rng(number)
            save(tmp_path / "images" / f"{name}.png", rng.integers(0, 256, (300, 280, 3), dtype=np.uint8))
        (tmp_path / "points.csv").write_text(f"image,x,y,label\n{rows}")
        if splits is not None:
            (tmp_path / "splits.csv").write_text(f"image,split\n{splits}")
        return tmp_path

    return make


def test_points_are_counted_by_class_and_split(make_points: MakeData) -> None:
    rows = "a,1,1,mitosis\na,280,300,mitosis\na,9,9,look alike\nb,1,1,other\nb,2,2,look alike\nb,3,3,mitosis\n"
    report = check(make_points(rows, "a,train\nb,val\nc,val\n"))
    assert report.problems == []
    facts = report.facts
    assert facts is not None
    assert (facts.annotation, facts.classes) == ("points", ("background", "mitosis", "other"))
    assert (facts.num_images, facts.num_empty) == (3, 1)
    train, val = facts.splits["train"], facts.splits["val"]
    assert (train.class_points, val.class_points) == ((1, 2, 0), (1, 1, 1))
    assert (val.num_images, val.class_pixels, val.class_shares, val.ignored_pixels) == (2, (), (), 0)
    assert [text.split(": ", 1)[1] for text in report.warnings] == [
        "class other occurs in no training image, so it cannot be learned."
    ]


def test_the_command_shows_the_number_of_points(make_points: MakeData) -> None:
    root = make_points("a,1,1,mitosis\na,9,9,look alike\na,8,8,look alike\n", "a,train\nb,val\nc,val\n")
    result = CliRunner().invoke(app, ["check", str(root)])
    assert result.exit_code == 0, result.output
    lines = [line.replace("│", "|").split() for line in result.output.splitlines()]
    assert ["|", "train", "|", "1", "|", "0", "|", "2", "|", "1", "|"] in lines
    for words in ("3, of which 2 have no point of a class", "Number of points", "hard negatives", "mitosis"):
        assert words in result.output


def test_masks_have_no_points(make_data: MakeData) -> None:
    facts = check(make_data({"a": MASK})).facts
    assert facts is not None
    assert facts.splits["none"].class_points is None


def test_points_without_hard_negatives_and_images_without_points_are_fine(make_points: MakeData) -> None:
    report = check(make_points("a,1,1,mitosis\n"))
    assert (report.problems, report.warnings) == ([], [])


def test_everything_wrong_with_points_is_listed(make_points: MakeData) -> None:
    root = make_points("a,281,1,m\na,5,5,m\nb,1,-1,m\nz,1,1,m\nb,x,1,m\nc,1,1,m\n")
    (root / "images/c.png").write_bytes(b"no picture")
    report = check(root)
    expected = [
        "images/c.png",
        "line 6: x is 'x', which is no number",
        "points lie outside of a.png, which has 280 x 300 pixels: 1 of 2, the first at x = 281, y = 1",
        "points lie outside of b.png, which has 280 x 300 pixels: 1 of 1, the first at x = 1, y = -1",
        "there is no image 'z' (line 5)",
    ]
    assert len(report.problems) == len(expected)
    for text in expected:
        assert [problem for problem in report.problems if text in problem], (text, report.problems)
    with pytest.raises(InputError, match="cannot be used"):
        report.require_usable()


def test_points_at_one_place_are_a_warning(make_points: MakeData) -> None:
    report = check(make_points("a,1,1,m\na,1,1,m\n"))
    assert report.problems == []
    assert any("a.png has 2 points at x = 1, y = 1" in warning for warning in report.warnings)


def test_a_patch_of_points_may_be_smaller_than_usual(make_points: MakeData) -> None:
    root = make_points("a,1,1,m\n")
    save(root / "images/a.png", MASK[:64, :64])
    assert not any("patches are" in warning for warning in check(root).warnings)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "train", "val"), [("crc_nuclei", (0, 7481), (0, 3384)), ("amibr_mitosis", (4, 933), (0, 144))]
)
def test_real_points_have_no_problems(real_data: Path, name: str, train: tuple[int, int], val: tuple[int, int]) -> None:
    report = check(real_data / name)
    assert report.problems == []
    assert report.facts is not None
    assert (report.facts.splits["train"].class_points, report.facts.splits["val"].class_points) == (train, val)


@pytest.mark.real_data
def test_real_folders_have_no_problems(real_data: Path) -> None:
    report = check(real_data / "isbi2012_em")
    assert report.problems == []
    assert report.warnings == []
    assert report.facts is not None
    assert report.facts.splits["train"].class_shares[1] == pytest.approx(0.77, abs=0.01)
