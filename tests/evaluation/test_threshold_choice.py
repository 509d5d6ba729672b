"""What files and people are told of how thresholds were chosen."""

import dataclasses
import json

import numpy as np
import pytest

from segkit.evaluation.threshold_choice import Choice, Curve, Sweep, as_json, sentences_of, side_by_side

SWEEP = Sweep(
    parameter="seed_threshold",
    used=0.5,
    metric="average_precision",
    measured=Curve(np.array([0.4, 0.5, 0.6]), np.array([0.2, np.nan, 0.3])),
    num_images=3,
    validation=Curve(np.array([0.25, 0.5]), np.array([0.6, 0.7])),
)
CHOICE = Choice(
    parameters={"seed_threshold": 0.5, "smooth_radius": "2px"},
    criterion="the greatest AP",
    metric="average_precision",
    metric_in_words="AP at an IoU of 0.5",
    score=0.7123456789,
    by_class={"nucleus": 0.7123456789, "other": None},
    data="cells",
    num_images=7,
    num_shared=0,
    epoch=12,
    sweeps=(SWEEP,),
)


def test_files_have_both_curves_and_no_number_that_is_none() -> None:
    content = as_json(CHOICE)
    assert content is not None
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert content["validation_scores"] == {"nucleus": 0.712346, "other": None}
    assert (content["num_validation_images"], content["num_measured_images_among_them"]) == (7, 0)
    (sweep,) = content["sweeps"]
    assert sweep["measured"] == {"values": [0.4, 0.5, 0.6], "scores": [0.2, None, 0.3]}
    assert sweep["validation"] == {"values": [0.25, 0.5], "scores": [0.6, 0.7]}
    old = as_json(dataclasses.replace(CHOICE, sweeps=(dataclasses.replace(SWEEP, validation=None),)))
    assert old is not None
    assert old["sweeps"][0]["validation"] is None
    assert as_json(None) is None


@pytest.mark.parametrize(
    ("shared", "words"), [(0, "None of the images"), (4, "4 of the images"), (None, "is not known, as no splits.csv")]
)
def test_it_is_said_whether_measured_images_had_a_part_in_it(shared: int | None, words: str) -> None:
    text = " ".join(sentences_of(dataclasses.replace(CHOICE, num_shared=shared)))
    assert text.startswith(
        "Chosen in training on the 7 validation images of cells, after epoch 12: the greatest AP. AP at an IoU of 0.5 "
        "was 0.712 there. "
    )
    assert words in text
    assert text.endswith("They are used here as they are.")


def test_what_is_not_known_is_left_out() -> None:
    text = sentences_of(dataclasses.replace(CHOICE, score=None, num_images=None, epoch=None))[0]
    assert text == "Chosen in training on the validation images of cells: the greatest AP."


def test_values_of_either_curve_are_put_side_by_side() -> None:
    assert side_by_side(SWEEP) == [(0.25, None, 0.6), (0.4, 0.2, None), (0.5, None, 0.7), (0.6, 0.3, None)]
    alone = side_by_side(dataclasses.replace(SWEEP, validation=None))
    assert alone == [(0.4, 0.2, None), (0.5, None, None), (0.6, 0.3, None)]
