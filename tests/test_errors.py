"""The exception tree: what a message looks like and which exit code it ends in."""

import signal

import pytest

from segkit import errors
from segkit.errors import InterruptedRunError, SegkitError, UsageError

EXIT_CODES = {
    "SegkitError": 1,
    "UsageError": 2,
    "ConfigError": 2,
    "InputError": 3,
    "ModelError": 3,
    "ResourceError": 4,
    "PartialError": 5,
    "DivergedError": 6,
}


def test_every_class_ends_in_its_documented_exit_code() -> None:
    classes = {
        name: kind
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, SegkitError) and kind is not InterruptedRunError
    }
    assert {name: kind("words").exit_code for name, kind in classes.items()} == EXIT_CODES


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_ends_in_the_signals_exit_code(number: signal.Signals, code: int) -> None:
    assert InterruptedRunError("stopped", number).exit_code == code


def test_problems_follow_the_message_one_a_line() -> None:
    error = UsageError("two things are wrong:", ["the first", "the second"])
    assert str(error) == "two things are wrong:\n  - the first\n  - the second"
    assert str(UsageError("one thing is wrong.")) == "one thing is wrong."
