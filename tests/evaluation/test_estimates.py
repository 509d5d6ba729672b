"""Numbers as they are written and read."""

import math

import pytest

from segkit.evaluation.estimates import Estimate, format_value, number


@pytest.mark.parametrize(
    ("value", "text"), [(-1e-17, "0.000"), (-0.0004, "0.000"), (-0.0006, "-0.001"), (0.5, "0.500")]
)
def test_what_rounds_to_0_has_no_sign(value: float, text: str) -> None:
    assert format_value(value) == text
    assert Estimate(value, value, value).in_words() == f"{text} ({text} to {text})"


def test_numbers_in_files_have_no_negative_0() -> None:
    written = number(-1e-9)
    assert written == 0.0
    assert math.copysign(1, written) == 1
    assert number(math.nan) is None
    assert number(-0.25) == -0.25
