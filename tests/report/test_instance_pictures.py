"""Objects are outlined in the colour of what they are: found, missed or invented."""

import numpy as np
import pytest
from PIL import Image

from segkit.report import instances
from segkit.report.colouring import brightened, fit_labels, label_edges
from segkit.report.instances import InstanceCase, draw_instances_case, draw_instances_validation
from segkit.report.judgement import METRIC_NAMES
from segkit.report.sheet import compose
from segkit.training.instance_validation import IOU

GREEN, ORANGE, BLUE = (0, 158, 115), (213, 94, 0), (0, 114, 178)


def read(path):
    return np.asarray(Image.open(path))


def case(name="image", score=0.5, shade=200, **changes):
    """Three true objects, of which two are matched, and an invented one; two touch; ids beyond 255."""
    truth, prediction = np.zeros((2, 60, 80), np.int32)
    truth[10:20, 10:20], truth[10:20, 20:30], truth[40:50, 40:50] = 255, 256, 70000
    prediction[10:20, 11:20], prediction[10:20, 20:30], prediction[40:50, 60:70] = 1, 300, 3
    values = {"matches": np.array([[255, 1], [256, 300]]), **changes}
    return InstanceCase(
        name, np.full((60, 80, 3), (shade, shade, 255), np.uint8), truth, prediction, score=score, **values
    )


def panels(picture, scale, width=80, height=60):
    """Return the three panels of a picture by finding where their columns begin."""
    top = picture.shape[0] - height * scale - 100
    return [picture[max(top, 0) :, 10 + i * (width * scale + 10) :][:, : width * scale] for i in range(3)]


def has(picture, colour):
    return bool((picture == colour).all(axis=2).any())


def test_found_missed_and_invented_objects_have_their_colours(tmp_path):
    draw_instances_case(case(), tmp_path / "c.png")
    picture = read(tmp_path / "c.png")[:-45]  # without the legend
    plain, truth, prediction = panels(picture, 1000 // 80)
    assert [has(plain, colour) for colour in (GREEN, BLUE, ORANGE)] == [False, False, False]
    assert [has(truth, colour) for colour in (GREEN, BLUE, ORANGE)] == [True, True, False]
    assert [has(prediction, colour) for colour in (GREEN, BLUE, ORANGE)] == [True, False, True]


def test_the_legend_counts_objects():
    labels = [entry.label for entry in instances._legend([case(), case()])]
    assert labels == ["found (4)", "missed (2)", "invented (2)"]
    nothing = np.zeros((60, 80), np.int32)
    empty = InstanceCase("e", np.zeros((60, 80, 1), np.uint8), nothing, nothing, np.empty((0, 2), np.int64), None)
    assert [entry.label for entry in instances._legend([empty])] == ["found (0)", "missed (0)", "invented (0)"]


def test_objects_that_touch_are_told_apart_and_ids_of_any_size_are_kept():
    truth = case().truth
    lines = label_edges(truth, 1)
    assert lines[15, 19]
    assert lines[15, 20]
    assert not lines[15, 15]
    assert set(np.unique(fit_labels(truth, 240))) == {0, 255, 256, 70000}
    assert set(np.unique(fit_labels(truth, 30))) == {0, 255, 256, 70000}


def test_curve_log_and_pictures_name_the_score_alike(tmp_path, monkeypatch):
    assert METRIC_NAMES["ap"] == f"AP at IoU {IOU:g}"  # what `val_ap` is: see `validate_instances`
    captions = []
    monkeypatch.setattr(
        instances,
        "compose",
        lambda rows, **named: captions.extend(row[2].caption for row in rows) or compose(rows, **named),
    )
    draw_instances_validation([case()], tmp_path / "v.png")
    assert captions == ["prediction: AP at IoU 0.5 = 0.500"]


def test_validation_goes_from_worst_to_best_and_shows_six(tmp_path):
    cases = [case(f"image{i}", i / 20, 140 + 5 * i) for i in range(1, 11)]
    draw_instances_validation(cases, tmp_path / "v.png")
    first = read(tmp_path / "v.png")[:, 10:400]
    rows = {i: int((first == (140 + 5 * i, 140 + 5 * i, 255)).all(axis=2).any(axis=1).argmax()) for i in range(1, 11)}
    shown = {i: row for i, row in rows.items() if row}
    assert len(shown) == 6
    assert sorted(shown, key=shown.__getitem__) == sorted(shown)
    assert {1, 10} <= set(shown)


def test_dark_images_are_brightened_and_that_is_said(tmp_path):
    picture, is_brightened = brightened(np.full((20, 20, 3), 20, np.uint8))
    assert is_brightened
    assert picture.min() == 255
    bright = np.full((20, 20, 3), 180, np.uint8)
    assert brightened(bright) == (pytest.approx(bright), False)
    draw_instances_case(case(shade=0, score=None), tmp_path / "black.png")


def test_sizes_that_differ_are_refused(tmp_path):
    wrong = case()._replace(prediction=np.zeros((61, 80), np.int32))
    with pytest.raises(ValueError, match=r"image: .* differ in size"):
        draw_instances_case(wrong, tmp_path / "c.png")
    assert list(tmp_path.iterdir()) == []
