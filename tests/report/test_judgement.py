"""What made curves are said to show, and that noise alone is not said to show a trend."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segkit.report.curves import draw_curves
from segkit.report.judgement import ENOUGH_EPOCHS, judge_curves, over_fitting_since


def history(kind, num=60, *, seed=0, noise=0.02):
    """Return rows whose curves are of a known kind, with relative noise."""
    rng = np.random.default_rng(seed)
    epoch = np.arange(1, num + 1)
    train, validation, score = 0.1 + 0.9 * np.exp(-epoch / 8), 0.13 + 0.9 * np.exp(-epoch / 8), 0.9 - np.exp(-epoch / 8)
    match kind:
        case "over-fitting":
            train, validation = 0.02 + 0.9 * np.exp(-epoch / 20), validation + 0.006 * np.maximum(epoch - 18, 0)
        case "falling":
            train, validation = (0.2 + np.exp(-epoch / num) + more for more in (0, 0.05))
        case "flat":
            train, validation, score = np.full((3, num), 0.69)
        case "noisy score":
            score = score + rng.normal(0, 0.08, num)
        case "noisy loss":
            train = train * np.exp(rng.normal(0, 0.4, num))
        case "gap":
            validation = validation + 0.3
    train, validation = (curve * (1 + rng.normal(0, noise, num)) for curve in (train, validation))
    return [
        {"epoch": int(e), "train_loss": float(t), "val_loss": float(v), "val_dice": float(s), "learning_rate": 1e-3}
        for e, t, v, s in zip(epoch, train, validation, score + rng.normal(0, 0.005, num), strict=True)
    ]


def said_of(kind, **how):
    return [sentence.split(":")[0] for sentence in judge_curves(history(kind, **how))]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("kind", "word"),
    [
        ("over-fitting", "Over-fitting"),
        ("falling", "Still falling (under-fitting)"),
        ("flat", "Not learning"),
        ("noisy score", "Noisy"),
        ("noisy loss", "Noisy"),
        ("gap", "Gap"),
    ],
)
def test_each_kind_is_named(kind, word, seed):
    assert word in said_of(kind, seed=seed)


def test_kinds_do_not_look_like_each_other():
    said = {kind: Counter(word for seed in range(20) for word in said_of(kind, seed=seed))
            for kind in ("settled", "falling", "gap", "noisy score", "flat")}  # fmt: skip
    for kind, words in said.items():
        assert words["Over-fitting"] == 0, kind
        assert kind == "flat" or words["Not learning"] == 0, kind
        assert kind == "gap" or words["Gap"] == 0, kind
        assert kind == "noisy score" or words["Noisy"] <= 1, kind


def test_a_settled_training_is_a_plateau_or_nothing():
    words = Counter(word for seed in range(20) for word in said_of("settled", num=120, seed=seed))
    assert words["Plateau"] + words["Nothing stands out"] >= 17
    assert set(words) <= {"Plateau", "Nothing stands out", "Still falling (under-fitting)"}


def test_a_plateau_is_named_where_nothing_changes_any_more():
    rows = history("settled", 120, noise=0.02)
    for row in rows[60:]:
        row["val_dice"] = min(row["val_dice"], 0.88)
    assert any(sentence.startswith("Plateau: since epoch 81") for sentence in judge_curves(rows))


def test_over_fitting_names_where_it_begins():
    since = over_fitting_since(history("over-fitting"))
    assert since is not None
    assert 15 <= since <= 30
    assert f"since epoch {since:g}" in judge_curves(history("over-fitting"))[0]
    assert over_fitting_since(history("falling")) is None
    # Also where there are epochs without a validation.
    rows = [{**row, "val_loss": None} if row["epoch"] <= 7 else row for row in history("over-fitting")]
    assert f"since epoch {over_fitting_since(rows):g}" in judge_curves(rows)[0]


def of_scores(scores, metric="dice"):
    """Return rows with these scores, and losses that have fallen and are level."""
    return [
        {"epoch": number, "train_loss": 0.3 + 0.7 * 0.5**number, "val_loss": 0.35 + 0.7 * 0.5**number,
         f"val_{metric}": score}
        for number, score in enumerate(scores, start=1)
    ]  # fmt: skip


MEMBRANES = [0.9462, 0.9483, 0.9508, 0.9514, 0.9516, 0.9519, 0.9526, 0.9524, 0.9518, 0.9507, 0.9500, 0.9481]
NUCLEI = [0.8107, 0.8464, 0.8559, 0.8647, 0.8803, 0.8894, 0.8917, 0.8975]


def test_a_score_that_falls_while_the_losses_do_not_rise_is_named():
    said = judge_curves(of_scores(MEMBRANES))
    assert said[0].startswith("Falling score: since epoch 7 the validation Dice has fallen (0.953 to 0.950)")
    assert over_fitting_since(of_scores(MEMBRANES)) is None
    assert not any(sentence.startswith(("Plateau", "Still falling", "Nothing")) for sentence in said)
    assert "the validation AP at IoU 0.5 has fallen" in judge_curves(of_scores(MEMBRANES, "ap"), metric="ap")[0]


@pytest.mark.parametrize(
    "scores",
    [
        NUCLEI,  # rises to the end
        MEMBRANES[:10],  # three epochs only after the best
        [0.9 + (score - 0.9) / 50 for score in MEMBRANES],  # by less than matters
        [0.5, 0.7, 0.8, 0.85, 0.9, 0.86, 0.88, 0.87, 0.88, 0.87, 0.88, 0.87],  # one lucky epoch, level since
        [0.8] * 12,
    ],
)
def test_a_score_that_does_not_fall_is_not_said_to(scores):
    assert not any(sentence.startswith("Falling score") for sentence in judge_curves(of_scores(scores)))


def test_noise_around_a_level_is_hardly_ever_called_a_falling_score():
    said = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        num = int(rng.integers(10, 80))
        scores = 0.9 - 0.5 * np.exp(-np.arange(num) / 3) + rng.normal(0, rng.choice([0.001, 0.01, 0.05]), num)
        said += any(sentence.startswith("Falling score") for sentence in judge_curves(of_scores(scores.tolist())))
    assert said <= 2


@pytest.mark.parametrize("noise", [0.0, 0.003])
def test_a_steady_fall_is_called_one_through_noise(noise):
    named = 0
    for seed in range(20):
        epoch = np.arange(40)
        scores = 0.9 - 0.4 * np.exp(-epoch / 4) - 0.0015 * np.maximum(epoch - 15, 0)
        scores = scores + np.random.default_rng(seed).normal(0, noise, 40)
        named += any(sentence.startswith("Falling score") for sentence in judge_curves(of_scores(scores.tolist())))
    assert named == 20


@pytest.mark.parametrize("num", [0, 1, ENOUGH_EPOCHS - 1])
def test_few_epochs_are_not_judged(num):
    assert judge_curves(history("flat", num)) == [f"Too few epochs to judge the curves: {num} of at least 8."]
    assert over_fitting_since(history("over-fitting", num)) is None


def test_levels_without_trends_are_rarely_given_one():
    """Stationary curves after a fall: a trend is said by chance alone, which the rules keep below a few per cent."""
    trends = ("Over-fitting", "Still falling (under-fitting)")
    wrong = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        rows = [
            {"epoch": e, "train_loss": (1.0 if e < 3 else 0.3) * rng.lognormal(0, 0.05),
             "val_loss": (1.0 if e < 3 else 0.35) * rng.lognormal(0, 0.05), "val_dice": 0.8}
            for e in range(1, 41)
        ]  # fmt: skip
        wrong += any(sentence.startswith(trends) for sentence in judge_curves(rows))
    assert wrong <= 3


values = st.none() | st.floats(allow_nan=True, allow_infinity=True, width=32)


@settings(max_examples=40)
@given(st.lists(st.fixed_dictionaries({"train_loss": values, "val_loss": values, "val_f1": values}), max_size=30))
def test_any_history_is_judged_without_an_error(columns):
    rows = [{"epoch": float(number), **row} for number, row in enumerate(columns, start=1)]
    sentences = judge_curves(rows, metric="f1")
    assert sentences
    assert all(sentence.endswith(".") for sentence in sentences)


@settings(max_examples=20)
@given(st.floats(1e-3, 1e3))
def test_the_unit_of_the_loss_does_not_matter(factor):
    rows = history("over-fitting")
    scaled = [{**row, "train_loss": factor * row["train_loss"], "val_loss": factor * row["val_loss"]} for row in rows]
    assert over_fitting_since(scaled) == over_fitting_since(rows)


def test_the_picture_shows_over_fitting_and_an_early_stop(tmp_path):
    rows = history("over-fitting")
    pictures = {}
    for name, how in {"plain": {}, "stopped": {"stopped_early": True}}.items():
        draw_curves(rows, tmp_path / name, title="run", **how)
        pictures[name] = (tmp_path / name).read_bytes()
    draw_curves(history("settled"), tmp_path / "settled", title="run")
    assert len({*pictures.values(), (tmp_path / "settled").read_bytes()}) == 3
