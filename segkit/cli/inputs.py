"""What commands that work through inputs have in common."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from segkit.errors import PartialError

if TYPE_CHECKING:
    from segkit.workflows.inputs import InputResult


def raise_failures(slides: "Sequence[InputResult]") -> None:
    """Raise PartialError that names the inputs that failed, each with its cause, if there are any."""
    failed = [slide for slide in slides if slide.status == "failed"]
    if not failed:
        return
    error = PartialError(f"{len(failed)} of {len(slides)} inputs failed:", [_cause(slide) for slide in failed])
    if len(failed) == len(slides):
        error.exit_code = failed[0].exit_code
    raise error


def _cause(slide: "InputResult") -> str:
    """Return why an input failed, beginning with its name, which most messages do by themselves."""
    cause = slide.cause or ""
    return cause if cause.startswith(str(slide.input)) else f"{slide.input}: {cause}"
