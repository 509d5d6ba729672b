"""The pictures of points and detections: markers lie where the points are, in the colours that the legend says."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from segkit.masks import colour_of_class
from segkit.points import Detections
from segkit.report import detections as pictures
from segkit.report.colouring import HEAT, Marked, Marker, draw_markers, fit_image
from segkit.report.sheet import LegendEntry, Panel, compose

CLASSES = ("background", "mitosis", "look-alike")
NOTHING = np.empty((0, 2))
INK = (1, 2, 3)


def read(path):
    return np.asarray(Image.open(path))


def where(picture, colour):
    return (picture == colour).all(axis=2)


def found(positions, classes=None):
    positions = np.array(positions, np.float64).reshape(-1, 2)
    classes = np.ones(len(positions), np.int64) if classes is None else np.array(classes, np.int64)
    return Detections(positions, classes, np.linspace(1, 0.5, len(positions)))


def noise(height, width, channels=3):
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8)


@pytest.fixture
def composed(monkeypatch):
    """Let `compose` be called as ever, and return what it was called with."""
    calls = []

    def compose_and_keep(rows, **options):
        calls.append((rows, options))
        return compose(rows, **options)

    monkeypatch.setattr(pictures, "compose", compose_and_keep)
    return calls


@given(marker=st.sampled_from(Marker), size=st.integers(6, 31), y=st.floats(40, 60), x=st.floats(40, 60))
def test_a_marker_lies_around_its_point_with_a_white_rim(marker, size, y, x):
    grey = np.full((100, 100, 3), 90, np.uint8)
    picture = draw_markers(grey, [Marked(np.array([[y, x]]), marker, INK)], size)
    rows, columns = np.nonzero((picture != 90).any(axis=2))
    middle = (rows.min() + rows.max() + 1) / 2, (columns.min() + columns.max() + 1) / 2
    assert abs(middle[0] - y) <= 0.5
    assert abs(middle[1] - x) <= 0.5
    assert 0.5 * size <= rows.max() + 1 - rows.min() <= 1.5 * size + 4
    assert picture.max() > 180
    assert picture.min() < 75
    if marker is not Marker.CROSS and size >= 16:
        assert (picture[int(y), int(x)] == 90).all()  # open: what is marked stays to be seen


def test_markers_have_different_shapes():
    grey = np.full((40, 40, 3), 90, np.uint8)
    shapes = {draw_markers(grey, [Marked(np.array([[20.0, 20.0]]), one, INK)], 20).tobytes() for one in Marker}
    assert len(shapes) == len(Marker)


def test_no_rim_covers_a_marker():
    grey = np.full((60, 60, 3), 90, np.uint8)
    ring, square = (
        Marked(np.array([[30.0, x]]), marker, colour)
        for x, marker, colour in ((25.0, Marker.RING, INK), (33.0, Marker.SQUARE, (200, 0, 0)))
    )
    alone = where(draw_markers(grey, [ring], 20), INK)
    both = draw_markers(grey, [ring, square], 20)
    covered = alone & ~where(both, INK)
    assert alone.sum() > 30
    assert (both[covered][:, 0] > both[covered][:, 1] + 20).all()  # by the red of the square, not by white


def test_markers_may_lie_outside():
    picture = draw_markers(noise(20, 20), [Marked(np.array([[-500.0, 3.0], [1e6, 1e6]]), Marker.RING, INK)], 11)
    assert np.array_equal(picture, noise(20, 20))


@pytest.mark.parametrize("channels", [1, 3])
def test_the_overview_rings_detections_in_the_colours_of_their_classes(tmp_path, composed, channels):
    image = np.full((100, 120, channels), 150, np.uint8)
    pictures.draw_detections_overview(
        image, found([[20, 30], [70, 90]], [2, 1]), CLASSES, tmp_path / "o.png", um_per_px=0.5, title="slide"
    )
    ((rows, options),) = composed
    plain, ringed = (panel.image for panel in rows[0])
    assert plain.shape == ringed.shape == (800, 960, 3)
    for index, (y, x) in ((2, (160, 240)), (1, (560, 720))):
        ys, xs = np.nonzero(where(ringed, colour_of_class(index)))
        assert (ys.min() + ys.max() + 1) / 2 == pytest.approx(y, abs=0.5)
        assert (xs.min() + xs.max() + 1) / 2 == pytest.approx(x, abs=0.5)
        assert where(read(tmp_path / "o.png")[-40:], colour_of_class(index)).any()
    assert [entry.label for entry in options["legends"][0]] == [
        "mitosis (1, 333 per mm²)",
        "look-alike (1, 333 per mm²)",
    ]


def test_without_a_scale_the_overview_has_numbers_only(tmp_path, composed):
    image = np.full((50, 50, 3), 150, np.uint8)
    pictures.draw_detections_overview(
        image, found(np.full((1200, 2), 20.0)), CLASSES, tmp_path / "o.png", um_per_px=None, title="slide"
    )
    ((rows, options),) = composed
    assert [entry.label for entry in options["legends"][0]] == ["mitosis (1,200)", "look-alike (0)"]
    assert (rows[0][0].image == 150).all()  # no scale bar


def test_the_probability_tints_the_slide(tmp_path, composed):
    image = np.full((50, 50, 3), 150, np.uint8)
    probability = np.zeros((50, 50), np.uint8)
    probability[:25] = 255
    pictures.draw_detections_overview(
        image, found([]), CLASSES, tmp_path / "o.png", um_per_px=None, title="slide", probability=probability
    )
    (_, heated, _) = (panel.image for panel in composed[0][0][0])
    assert where(heated, HEAT)[:500].all()
    assert where(heated, (192, 192, 192))[500:].all()
    with pytest.raises(ValueError, match="differ in size"):
        pictures.draw_detections_overview(
            image, found([]), CLASSES, tmp_path / "p.png", um_per_px=None, title="", probability=probability[1:]
        )


@pytest.mark.parametrize(("height", "width"), [(3000, 2000), (300, 4000), (4000, 300), (1, 3000), (1, 1)])
def test_pictures_of_any_shape_stay_of_a_size_to_look_at(tmp_path, height, width):
    image, points = np.zeros((height, width, 3), np.uint8), np.array([[height / 2, width / 2]])
    pictures.draw_detections_overview(
        image, found(points), CLASSES, tmp_path / "o.png", um_per_px=0.5, title="slide", probability=image[..., 0]
    )
    pictures.draw_points_case(
        image, tmp_path / "c.png", true_positives=points, false_positives=points, false_negatives=points,
        hard_negatives=points, title="image",
    )  # fmt: skip
    for name in ("o.png", "c.png"):
        assert max(read(tmp_path / name).shape) <= 3500
        assert min(read(tmp_path / name).shape[:2]) >= 60


def test_very_many_detections_are_drawn_small(tmp_path, composed):
    points = np.random.default_rng(0).random((20_000, 2)) * 500
    image = np.full((500, 500, 3), 150, np.uint8)
    pictures.draw_detections_overview(image, found(points), CLASSES, tmp_path / "o.png", um_per_px=None, title="")
    ringed = composed[0][0][0][1].image
    drawn = np.abs(ringed.astype(int) - colour_of_class(1)).max(axis=2) < 60
    assert 0.02 < drawn.mean() < 0.5
    assert pictures._marker_px(20_000, ringed) < pictures._marker_px(1_000, ringed) <= pictures._marker_px(0, ringed)


def test_a_case_shows_what_is_right_wrong_missed_and_alike(tmp_path, composed):
    image = np.full((400, 400, 3), 150, np.uint8)
    places = {
        "true_positives": [[50.0, 50.0], [350.0, 50.0]],
        "false_positives": [[50.0, 350.0]],
        "false_negatives": [[200.0, 200.0]],
        "hard_negatives": [[350.0, 350.0]],
    }
    points = {name: np.array(where) for name, where in places.items()}
    pictures.draw_points_case(image, tmp_path / "c.png", title="image_1", **points)
    ((rows, options),) = composed
    assert options["title"] == "image_1: F1 0.667"
    marked = rows[0][1].image
    for (_, colour), positions in zip(pictures._POINT_STYLE.values(), places.values(), strict=True):
        ys, xs = np.nonzero(where(marked, colour))
        for y, x in positions:
            assert np.hypot(ys + 0.5 - 2 * y, xs + 0.5 - 2 * x).min() <= 12
        distances = [np.hypot(ys + 0.5 - 2 * y, xs + 0.5 - 2 * x) for y, x in positions]
        assert np.min(distances, axis=0).max() <= 15
    assert [entry.label for entry in options["legends"][0]] == [
        *("true positive (2)", "false positive (1)", "false negative (1)", "hard negative (1)")
    ]
    assert len({entry.marker for entry in options["legends"][0]}) == 4


def test_a_case_without_points_has_no_f1_and_names_no_hard_negatives(tmp_path, composed):
    pictures.draw_points_case(
        noise(30, 30), tmp_path / "c.png", true_positives=NOTHING, false_positives=NOTHING, false_negatives=NOTHING,
        hard_negatives=NOTHING, title="empty",
    )  # fmt: skip
    ((_, options),) = composed
    assert options["title"] == "empty: F1 undefined"
    assert [entry.label for entry in options["legends"][0]][-1] == "false negative (0)"


def points_case(name, right, wrong, missed, shade=150):
    places = [np.full((number, 2), 40.0 + number) for number in (right, wrong, missed, 0)]
    return pictures.PointCase(name, np.full((100, 100, 3), shade, np.uint8), *places)


def test_validation_goes_from_the_worst_f1_to_the_best_whatever_the_number_of_errors(tmp_path, composed):
    cases = [
        points_case("many", 90, 20, 11),  # the most errors, and not the worst
        points_case("nothing", 0, 0, 0),
        points_case("worst", 1, 3, 3),
        points_case("none right, few", 0, 1, 0),
        points_case("none right, more", 0, 2, 3),
        points_case("perfect", 2, 0, 0),
    ]
    pictures.draw_points_validation(cases, tmp_path / "v.png")
    ((rows, options),) = composed
    names = ["none right, more", "none right, few", "worst", "many", "perfect", "nothing"]
    assert [row[0].caption for row in rows] == names
    assert rows[3][1].caption == "F1 0.853: 90 right, 20 wrong, 11 missed"
    assert rows[5][1].caption.startswith("F1 undefined")
    assert options["title"] == "Validation images, worst to best"
    assert [entry.label for entry in options["legends"][0]] == ["true positive", "false positive", "false negative"]


def test_of_many_validation_images_six_are_shown_the_extremes_among_them(tmp_path, composed):
    cases = [points_case(f"image{number}", number, 20 - number, 0) for number in range(20)]
    pictures.draw_points_validation(cases, tmp_path / "v.png")
    ((rows, options),) = composed
    assert [row[0].caption for row in rows] == ["image0", "image4", "image8", "image11", "image15", "image19"]
    assert options["title"] == "6 of 20 validation images, worst to best"


@pytest.mark.parametrize("side", [33, 64, 101, 300])
def test_the_contact_sheet_leaves_the_middle_of_windows_as_it_is(tmp_path, composed, side):
    windows = [noise(side, side)] * 11
    pictures.draw_contact_sheet(windows, [f"{1 - i / 20:.3f}" for i in range(11)], tmp_path / "c.png", title="best")
    ((rows, _),) = composed
    assert [len(row) for row in rows] == [8, 3]
    assert rows[1][2].caption == "0.500"
    shown, plain = rows[0][0].image, fit_image(windows[0], 208)
    changed = (shown != plain).any(axis=2)
    size = len(plain)
    assert changed.any()
    assert not changed[size // 8 + 1 : size - size // 8 - 1, size // 8 + 1 : size - size // 8 - 1].any()
    middle = np.argwhere(changed).mean(axis=0) + 0.5
    assert np.abs(middle - size / 2).max() <= 1


def test_patches_keep_their_pixels_in_frames_of_their_class(tmp_path, composed):
    patches = [noise(33, 33), noise(33, 33, 1), noise(20, 30)]
    pictures.draw_point_patches(
        patches, [2, 0, 1], CLASSES, tmp_path / "p.png", columns=2, captions=["a", "b", "c"], title="batch"
    )
    ((rows, options),) = composed
    panels = [panel for row in rows for panel in row]
    assert [len(row) for row in rows] == [2, 1]
    assert [panel.caption for panel in panels] == ["a", "b", "c"]
    for panel, patch, label in zip(panels, patches, [2, 0, 1], strict=True):
        assert np.array_equal(panel.image[6:-6, 6:-6], fit_image(patch, 208))
        frame = np.ones(panel.image.shape[:2], bool)
        frame[6:-6, 6:-6] = False
        assert (panel.image[frame] == colour_of_class(label)).all()
    assert [entry.label for entry in options["legends"][0]] == ["frames:", *CLASSES]


def test_legends_show_markers_as_they_are_drawn():
    panel = Panel(np.full((50, 400, 3), 90, np.uint8))
    ring, square = (
        compose([[panel]], legends=[[LegendEntry("a", (1, 2, 3), marker)]]) for marker in (Marker.RING, None)
    )
    assert 8 <= where(ring, INK).sum() < where(square, INK).sum()
    assert ring.shape == square.shape


def curves():
    recall, precision = np.linspace(0, 0.8, 50), np.linspace(1, 0.4, 50)
    rate = np.linspace(0, 30, 50)
    empty = np.empty(0)
    nan = np.full(3, np.nan)
    name = "_$odd^{ 核"
    return {
        "usual": ({"mitosis": (recall, precision), name: (recall / 2, precision)}, {"mitosis": (0.5, 0.7)},
                  {"mitosis": (rate, recall)}),
        "no truth": ({"mitosis": (nan, precision[:3])}, {}, {"mitosis": (rate[:3], nan)}),
        "no detections": ({"mitosis": (empty, empty)}, {"mitosis": (0.0, 0.0)}, {"mitosis": (empty, empty)}),
        "no false positives": ({"mitosis": (recall, precision)}, {}, {"mitosis": (0 * rate, recall)}),
        "nothing": ({}, {}, {}),
    }  # fmt: skip


@pytest.mark.parametrize("case", curves())
def test_curves_take_what_an_evaluation_may_give(tmp_path, case):
    lines, chosen, froc = curves()[case]
    for name in ("a.png", "b.png"):
        pictures.draw_point_curves(lines, tmp_path / name, chosen=chosen, froc=froc, fp_unit="mm²", title="$run_1 核")
    assert read(tmp_path / "a.png").shape == (648, 1320, 4)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_the_chosen_point_is_named_with_its_f1():
    assert pictures._chosen_in_words(0.5, 1.0) == "F1 0.667, precision 1.000, recall 0.500"
    assert pictures._chosen_in_words(0.0, 0.0) == "F1 0.000, precision 0.000, recall 0.000"


@pytest.mark.parametrize(("value", "words"), [(0, "0"), (0.1234, "0.123"), (14.71, "14.7"), (37021.4, "37,021")])
def test_numbers_per_area_have_no_exponents(value, words):
    assert pictures._three_digits(value) == words


def test_nothing_is_left_of_a_picture_that_cannot_be_drawn(tmp_path):
    with pytest.raises(ValueError, match="zip"):
        pictures.draw_contact_sheet([noise(9, 9)], [], tmp_path / "c.png")
    with pytest.raises(ValueError, match="nothing to draw"):
        pictures.draw_contact_sheet([], [], tmp_path / "c.png")
    assert list(tmp_path.iterdir()) == []
