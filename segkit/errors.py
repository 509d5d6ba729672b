"""Everything that segkit raises on purpose, and the exit code that each one becomes.

    SegkitError                  1   (never raised itself)
    |-- UsageError               2   a command or an output folder that cannot be used as asked
    |   `-- ConfigError          2   a configuration with unknown keys or wrong values, all at once
    |-- InputError               3   an image, slide, annotation or data folder that cannot be used
    |   `-- ModelError           3   a model file or checkpoint that cannot be used
    |-- ResourceError            4   memory or disk ran out
    |-- PartialError             5   finished, but some inputs failed
    |-- DivergedError            6   training produced numbers that are not finite
    `-- InterruptedRunError      130 (SIGINT) or 143 (SIGTERM, SIGUSR1); the run can be resumed

A message says what is wrong, where, the value found and what to do. The command line catches `SegkitError` in
one place, prints the message and exits with `exit_code`; any other exception is a bug and exits with 1.
"""

from collections.abc import Sequence

EXIT_BUG = 1


class SegkitError(Exception):
    """Base of all errors that segkit raises on purpose; `problems` lists several findings reported at once."""

    exit_code = EXIT_BUG
    is_told_elsewhere = False
    """Another process of the same command tells the user of it."""

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.problems = list(problems)

    def __str__(self) -> str:
        return "\n".join([self.message, *(f"  - {problem}" for problem in self.problems)])


class UsageError(SegkitError):
    """The command cannot be carried out as asked: bad arguments, an output folder that cannot be written."""

    exit_code = 2


class ConfigError(UsageError):
    """Unknown keys, wrong types or values in the configuration; `problems` has one line for each."""


class InputError(SegkitError):
    """An image, slide, annotation or data folder is missing, damaged or of an unsupported kind."""

    exit_code = 3


class ModelError(InputError):
    """A model file or checkpoint is missing, damaged or does not fit the task."""


class ResourceError(SegkitError):
    """Memory (host or device) or disk space ran out."""

    exit_code = 4


class PartialError(SegkitError):
    """The command finished, but some inputs failed; `problems` names each with its cause."""

    exit_code = 5


class DivergedError(SegkitError):
    """Training met a loss or gradient that is not finite and stopped before using it."""

    exit_code = 6


class InterruptedRunError(SegkitError):
    """A signal stopped the run; what is on disk is valid and the run can be resumed."""

    exit_code = 130

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number
