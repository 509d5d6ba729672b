"""The command line: parse, build the configuration, call one function, show the result.

The only room that prints, draws progress or exits. `segkit --help` imports no torch and no numpy: a command's
module is imported when the command is used, and what the command needs when it runs.
"""

import io
import sys

from segkit.cli.failures import explained, quiet_libraries
from segkit.cli.interruption import translated_signals
from segkit.cli.json_log import log_as_asked
from segkit.memory import keep_freed_memory


def main() -> None:
    """Run the command line and end the process with the exit code."""
    # A name of a file may hold bytes that the terminal's encoding lacks; that must not end a run.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    keep_freed_memory()
    with log_as_asked(sys.argv[1:]) as log:
        quiet_libraries()
        with translated_signals(), explained():
            from segkit.cli.app import app

            # With a log in JSON, Typer must not write its messages by itself.
            app(prog_name="segkit", standalone_mode=log is None)
