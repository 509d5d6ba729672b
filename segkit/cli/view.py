"""`segkit view`."""

import contextlib
import os
import signal
import sys
import time
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from segkit.cli.interruption import Interrupted, held_signals, received_signal
from segkit.cli.options import AsJson
from segkit.cli.progress import open_display
from segkit.cli.results import print_json, print_lines
from segkit.errors import InterruptedRunError, UsageError

if TYPE_CHECKING:
    from segkit.workflows.view import ViewResult

EPILOG = (
    "The page can be opened on this machine only, by whoever has the address. It is served until Ctrl-C, which ends "
    "with exit code 0."
)

SECONDS_BETWEEN_LOOKS = 0.1


def run(
    slide: Annotated[Path | None, typer.Argument(metavar="SLIDE", help="An image or slide.")] = None,
    results: Annotated[
        Path | None,
        typer.Argument(
            metavar="OUT", help="What predict or sliding-window left of it: its folder, or the folder around that."
        ),
    ] = None,
    port: Annotated[
        int, typer.Option("--port", metavar="N", min=0, max=65535, help="Port of the page; 0: any that is free.")
    ] = 0,
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="Print the address, and do not open the browser.")
    ] = False,
    install_viewer: Annotated[
        bool,
        typer.Option(
            "--install-viewer",
            help="Download OpenSeadragon, which draws the page, where an installation lacks it; then end.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Serve a page on which the slide, and what was found on it, can be looked at."""
    if install_viewer:
        _install(as_json=as_json)
        return
    if slide is None:
        raise UsageError("no slide given. Usage: segkit view SLIDE [OUT]")
    from segkit.workflows.view import view

    with contextlib.ExitStack() as stack:
        with open_display() as display:
            page = stack.enter_context(
                view(slide, results, port=port, on_progress=display.on_progress, on_note=display.on_note)
            )
        _show(page, as_json=as_json)
        if not no_browser and _has_desktop():
            webbrowser.open(page.address)
        _wait_for_end()


def _install(*, as_json: bool) -> None:
    from segkit.viewer import openseadragon

    written = openseadragon.install()
    if as_json:
        print_json({"version": openseadragon.VERSION, "files": written})
    else:
        print_lines([f"Written: {path}" for path in written])


def _show(page: "ViewResult", *, as_json: bool) -> None:
    if as_json:
        print_json(page)
    else:
        lines = [f"Open {page.address}"]
        if "SSH_CONNECTION" in os.environ and not _has_desktop():
            port = page.address.split(":")[2].split("/")[0]
            lines.append(f"after `ssh -L {port}:127.0.0.1:{port} THIS_MACHINE` on the machine that you sit at.")
        print_lines([*lines, "Ctrl-C ends it."])
    sys.stdout.flush()  # to a file or pipe it would come when the viewer ends


def _has_desktop() -> bool:
    """Tell whether a browser has a window to open; one of the terminal would take that from the viewer."""
    return sys.platform == "darwin" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def _wait_for_end() -> None:
    """Wait for a signal: Ctrl-C is how a viewer is ended, and no failure; what schedulers send is an interruption."""
    try:
        with held_signals() as received:
            while not received():
                time.sleep(SECONDS_BETWEEN_LOOKS)
    except Interrupted as error:
        number = received_signal()
        if number != signal.SIGINT:
            raise InterruptedRunError("the viewer was stopped.", number or signal.SIGTERM) from error
