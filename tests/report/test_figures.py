"""The pictures of a run and an evaluation: made from real shapes of input, with the colours that they promise."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from segkit.masks import IGNORE, colour_of_class
from segkit.report import curves, figures
from segkit.report.colouring import fit_image
from segkit.report.figures import Case

CLASSES = ("background", "nucleus", "mitotic figure")


SHARES = dict.fromkeys(CLASSES, 0.25)


def read(path):
    return np.asarray(Image.open(path))


def has(picture, colour):
    return bool((picture == colour).all(axis=2).any())


def example(height=200, width=240, channels=3):
    """A flat image, a truth with both classes, and a prediction that errs in every way."""
    image = np.full((height, width, channels), 150, np.uint8)
    truth, prediction = np.zeros((2, height, width), np.uint8)
    truth[20:80, 20:80], truth[20:80, 120:180], truth[120:180, 20:80] = 1, 2, 1
    prediction[20:80, 20:80], prediction[20:80, 120:180], prediction[120:180, 120:180] = 1, 1, 1
    return image, truth, prediction


@pytest.mark.parametrize("channels", [1, 3])
def test_patches_show_outlines_in_the_colours_of_the_classes(tmp_path, channels):
    image, truth, prediction = example(channels=channels)
    figures.draw_patches(
        [image] * 5, [truth] * 4 + [prediction], CLASSES, tmp_path / "p.png", columns=3, captions="abcde", title="t"
    )
    picture = read(tmp_path / "p.png")
    assert picture.shape[1] >= 3 * 240
    assert 2 * 200 < picture.shape[0] < 3 * 200
    assert has(picture, colour_of_class(1))
    assert has(picture, colour_of_class(2))


def test_the_overlay_shows_every_kind_of_error(tmp_path):
    image, truth, prediction = example()
    figures.draw_overlay(image, truth, prediction, CLASSES, tmp_path / "o.png", title="image_1", dice=0.5)
    picture = read(tmp_path / "o.png")
    scale = 760 // 240
    top, left = (picture == 150).all(axis=2).argmax() // picture.shape[1], 10
    errors = picture[top:, :][-(200 * scale + 80) :, left + 240 * scale + 10 :]
    colours = {tuple(errors[y, x]) for y in range(0, errors.shape[0], 7) for x in range(0, errors.shape[1], 7)}
    legend = {tuple(colour) for colour in picture[-40:].reshape(-1, 3)}
    pale = 255 - round(0.6 * (255 - 150))
    for _, colour, opacity in list(figures._OUTCOME_STYLE.values())[:4]:
        painted = tuple(round((1 - opacity) * pale + opacity * channel) for channel in colour)
        swatch = tuple(round((1 - opacity) * 200 + opacity * channel) for channel in colour)
        assert painted in colours
        assert swatch in legend


@pytest.mark.parametrize(("height", "width"), [(3000, 2000), (400, 5000), (5000, 400), (1, 3000), (1, 1)])
def test_overlays_of_any_shape_stay_of_a_size_to_look_at(tmp_path, height, width):
    image = np.zeros((height, width, 3), np.uint8)
    mask = np.ones((height, width), np.uint8)
    figures.draw_overlay(image, mask, mask, CLASSES, tmp_path / "o.png", title="large", dice=None)
    assert max(read(tmp_path / "o.png").shape) <= 3200
    assert min(read(tmp_path / "o.png").shape[:2]) >= 60


def test_unlabelled_pixels_are_in_the_legend_only_where_there_are_some(tmp_path):
    image, truth, prediction = example()
    figures.draw_overlay(image, truth, prediction, CLASSES[:2], tmp_path / "without.png", title="t", dice=0.5)
    truth[180:] = IGNORE
    figures.draw_overlay(image, truth, prediction, CLASSES[:2], tmp_path / "with.png", title="t", dice=0.5)
    swatch_px = {
        name: np.count_nonzero((read(tmp_path / name)[-40:] == (172, 172, 172)).all(axis=2))
        for name in ("without.png", "with.png")
    }
    assert swatch_px["with.png"] >= swatch_px["without.png"] + 100


def test_validation_goes_from_worst_to_best(tmp_path):
    _, truth, prediction = example()
    cases = [
        Case(f"image_{shade}", np.full((200, 240, 3), shade, np.uint8), truth, prediction, dice)
        for shade, dice in [(30, 0.9), (60, 0.2), (90, None), (120, 0.5)]
    ]
    figures.draw_validation(cases, CLASSES, tmp_path / "v.png")
    first_column = read(tmp_path / "v.png")[:, 10:250]
    rows = {shade: int((first_column == shade).all(axis=(1, 2)).argmax()) for shade in (30, 60, 90, 120)}
    assert sorted(rows, key=rows.__getitem__) == [60, 120, 30, 90]


def test_validation_shows_at_most_six_images_the_extremes_among_them(tmp_path):
    _, truth, prediction = example()
    cases = [
        Case(f"image_{i}", np.full((200, 240, 3), 10 * i, np.uint8), truth, prediction, i / 20) for i in range(1, 20)
    ]
    figures.draw_validation(cases, CLASSES, tmp_path / "v.png")
    picture = read(tmp_path / "v.png")
    shown = [i for i in range(1, 20) if (picture[:, 10:250] == 10 * i).all(axis=(1, 2)).any()]
    assert len(shown) == 6
    assert {1, 19} <= set(shown)


def test_kernels_share_one_scale_that_is_symmetric_about_grey(tmp_path):
    weights = np.zeros((4, 1, 3, 3))
    weights[0], weights[1], weights[2] = 2.0, -2.0, 1.0
    figures.draw_kernels(weights, tmp_path / "k.png")
    picture = read(tmp_path / "k.png")
    tiles = {int(value) for value in np.unique(picture) if np.count_nonzero(picture == value) >= 3 * 54 * 54}
    assert {255, 0, 128, 191} <= tiles
    figures.draw_kernels(weights[..., :1, :1], tmp_path / "points.png")  # too small for a judgement
    colours = np.zeros((2, 3, 7, 7))
    colours[0, 0] = 1.0
    figures.draw_kernels(colours, tmp_path / "rgb.png")
    assert has(read(tmp_path / "rgb.png"), (255, 128, 128))
    figures.draw_kernels(np.zeros((1, 3, 3, 3)), tmp_path / "zero.png")
    assert has(read(tmp_path / "zero.png"), (128, 128, 128))


def test_kernels_of_a_later_layer_are_refused(tmp_path):
    with pytest.raises(ValueError, match="kernels of an image layer"):
        figures.draw_kernels(np.zeros((4, 64, 3, 3)), tmp_path / "k.png")


def test_the_overview_shows_the_slide_as_it_is_beside_its_classes(tmp_path):
    image, truth, _ = example(500, 600)
    image = np.random.default_rng(0).integers(0, 255, image.shape, dtype=np.uint8)
    figures.draw_overview(image, truth, CLASSES, tmp_path / "o.png", shares=SHARES, um_per_px=4.0, title="slide")
    picture = read(tmp_path / "o.png")
    y, x = next(
        (y, x)
        for y, x in np.argwhere((picture == image[0, 0]).all(axis=2)).tolist()
        if np.array_equal(picture[y : y + 400, x : x + 600], image[:400])
    )
    tinted = picture[y : y + 500, x + 610 : x + 1210]
    assert tuple(tinted[20, 50]) == colour_of_class(1)
    assert tuple(tinted[20, 150]) == colour_of_class(2)
    inside, faded = tinted[50, 50].astype(float), 0.65 * image[50, 50] + 0.35 * 255
    np.testing.assert_allclose(inside, (faded + colour_of_class(1)) / 2, atol=1)


def test_areas_are_shares_of_the_slide_and_square_millimetres():
    shares = {CLASSES[0]: 0.4, CLASSES[1]: 0.2, CLASSES[2]: 0.4}
    words = [entry.label for entry in figures._area_legend(CLASSES, shares, area_mm2=2.0)]
    assert words == ["nucleus (20.0%, 0.4 mm²)", "mitotic figure (40.0%, 0.8 mm²)"]
    assert [entry.label for entry in figures._area_legend(CLASSES[:2], shares, None)] == ["nucleus (20.0%)"]


def test_masks_of_another_size_are_refused(tmp_path):
    image, truth, _ = example()
    with pytest.raises(ValueError, match="differ in size"):
        figures.draw_overview(
            image, truth[1:], CLASSES, tmp_path / "o.png", shares=SHARES, um_per_px=None, title="slide"
        )
    with pytest.raises(ValueError, match="differ in size"):
        figures.draw_patches([image], [truth[1:]], CLASSES, tmp_path / "p.png", columns=1)
    assert list(tmp_path.iterdir()) == []


def epochs(count):
    return [
        {
            "epoch": i,
            "step": 10 * i,
            "train_loss": 1 / i,
            "val_loss": 1.1 / i,
            "val_dice": 1 - 1 / i,
            "val_dice/nucleus": 1 - 0.5 / i,
            "val_dice/$_odd^{ 核": None if i < 3 else 1 - 1.5 / i,
            "learning_rate": 1e-3 / i,
        }
        for i in range(1, count + 1)
    ]


@pytest.mark.parametrize(
    "rows",
    [
        epochs(1),
        epochs(60),
        [{"epoch": 1, "train_loss": 0.5}],
        [{"epoch": 1, "val_dice": None}, {"epoch": 2, "val_dice": float("nan")}],
        [{"epoch": 1.0, "train_loss": float("inf"), "val_dice": 0.0, "val_dice/_hidden": 0.0, "val_dice/b": 0.0}] * 2,
    ],
)
def test_curves_take_what_a_run_may_leave(tmp_path, rows):
    curves.draw_curves(rows, tmp_path / "curves.png", title="$run_1 核")
    picture = read(tmp_path / "curves.png")
    assert picture.shape[1:] == (960, 4)
    assert 1020 < picture.shape[0] < 1200
    assert np.unique(picture[..., :3]).size > 10


def test_the_best_epoch_is_the_first_with_the_highest_dice():
    rows = [{"epoch": epoch, "val_dice": value} for epoch, value in enumerate([0.1, None, 0.7, 0.5, 0.7])]
    assert curves._best(rows, "val_dice") == (2, 0.7)
    assert curves._best(rows, "val_f1") is None


def test_curves_need_an_epoch(tmp_path):
    with pytest.raises(ValueError, match="no epoch"):
        curves.draw_curves([], tmp_path / "curves.png", title="")


def test_pictures_drawn_from_many_threads_are_the_same_bytes(tmp_path):
    image, truth, prediction = example()

    def draw(number):
        curve, overlay = tmp_path / f"curves_{number}.png", tmp_path / f"overlay_{number}.png"
        curves.draw_curves(epochs(5), curve, title="run")
        figures.draw_overlay(image, truth, prediction, CLASSES, overlay, title="image", dice=0.5)
        return curve.read_bytes(), overlay.read_bytes()

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(draw, range(8)))) == 1


@pytest.mark.real_data
def test_a_real_image_keeps_its_pixels_in_the_overlay(real_data, tmp_path):
    image = read(real_data / "isbi2012_em" / "images" / "20.png")[..., np.newaxis]
    mask = (read(real_data / "isbi2012_em" / "masks" / "20.png") > 0).astype(np.uint8)
    figures.draw_overlay(image, mask, mask, ("membrane", "cell"), tmp_path / "o.png", title="slice 20", dice=1.0)
    picture, plain = read(tmp_path / "o.png"), fit_image(image, 760)
    found = [
        (y, x)
        for y in range(120)
        for x in range(30)
        if np.array_equal(picture[y : y + plain.shape[0], x : x + plain.shape[1]], plain)
    ]
    assert len(found) == 1
