"""The one place where an error becomes a message for a person and an exit code."""

import contextlib
import logging
import os
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from segkit.cli.interruption import Interrupted, received_signal
from segkit.cli.json_log import log_error
from segkit.cli.launch import is_first_process
from segkit.errors import EXIT_BUG, InterruptedRunError, ResourceError, SegkitError, UsageError

logger = logging.getLogger("segkit")


def quiet_libraries() -> None:
    """Hide what libraries log and warn about; segkit reports a bad file in its own words."""
    logging.basicConfig(stream=sys.stderr, level=logging.CRITICAL, format="%(name)s: %(message)s")
    warnings.simplefilter("ignore")


def show_details(wanted: bool) -> None:
    """Show, if wanted, what libraries log and warn about, and the traceback of a bug."""
    if wanted:
        logging.getLogger().setLevel(logging.INFO)
        warnings.simplefilter("default")


@contextlib.contextmanager
def explained(*, log_folder: Path | None = None) -> Iterator[None]:
    """End the process with a message and an exit code when the block raises; a success passes through.

    Parameters
    ----------
    log_folder
        Where the traceback of a bug is written if it is a folder; else the system's temporary folder.
    """
    try:
        yield
    except (Interrupted, Exception) as error:  # noqa: BLE001 (the outermost frame: a bug must end in a log and a message)
        sys.exit(_explain(error, log_folder))


def _explain(error: BaseException, log_folder: Path | None) -> int:
    """Print the message for an error, and return the exit code."""
    number = received_signal()
    if number is not None and not isinstance(error, InterruptedRunError):  # whatever a library has made of it
        interrupted = InterruptedRunError(
            "interrupted. Finished files are whole. Run it again to go on (a training: with --resume).", number
        )
        return _tell(interrupted) if is_first_process() else interrupted.exit_code
    match error:
        case SegkitError():
            return _tell(error)
        case BrokenPipeError():
            # The reader of our output has left (`segkit info FILE | head`). Python would complain again when it
            # flushes at exit, so the rest goes nowhere.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 128 + signal.SIGPIPE
        case _ if hasattr(error, "format_message"):  # Typer's, about a command line that it does not understand
            return _tell(UsageError(error.format_message()))
        # The second is torch's, which is not imported only to name its class.
        case _ if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            return _tell(_out_of_memory("memory" if isinstance(error, MemoryError) else "device memory", error))
        case _:
            return _tell_bug(error, log_folder)


def printable(text: str) -> str:
    """Return `text` as one line: characters that would break it or steer the terminal are shown as escapes."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def printable_lines(text: str) -> str:
    """Return `text` with its lines as they are, each of them printable."""
    return "\n".join(printable(line) for line in text.split("\n"))


def _tell(error: SegkitError) -> int:
    if error.is_told_elsewhere:
        return error.exit_code
    _show_error(error.exit_code, type(error).__name__, error.message, error.problems)
    return error.exit_code


def _show_error(exit_code: int, kind: str, message: str, problems: Sequence[str] = ()) -> None:
    if log_error(exit_code=exit_code, kind=kind, message=message, problems=problems):
        return
    for line in [f"segkit: {message}", *(f"  - {problem}" for problem in problems)]:
        sys.stderr.write(f"{printable(line)}\n")


def _tell_bug(error: BaseException, log_folder: Path | None) -> int:
    from segkit.files import write_text

    name = f"segkit-error-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    log = (log_folder if log_folder is not None and log_folder.is_dir() else Path(tempfile.gettempdir())) / name
    try:
        write_text(log, "".join(traceback.format_exception(error)))
        where = f"The traceback is in {log}; please report it."
    except (SegkitError, OSError) as failure:
        where = f"The traceback could not be written ({failure}); run again with -v to see it."
    kind = type(error).__name__
    _show_error(EXIT_BUG, kind, f"this is a bug in segkit: {kind}: {error}. {where}")
    logger.info("the bug's traceback", exc_info=error)
    return EXIT_BUG


def _out_of_memory(what: str, error: BaseException) -> ResourceError:
    detail = str(error).partition("\n")[0]
    return ResourceError(
        f"out of {what}{f' ({detail})' if detail else ''}. Use a smaller --tile or batch, or a machine with more."
    )
