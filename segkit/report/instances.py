"""The pictures of instances: each object outlined, found or missed, right or invented."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segkit.report.colouring import Colour, brightened, fit_image, fit_labels, label_edges, paint
from segkit.report.judgement import METRIC_NAMES
from segkit.report.ranking import worst_to_best
from segkit.report.sheet import LegendEntry, Panel, compose, write_png

_CASE_PX, _OVERLAY_PX = 480, 1000
_AP = METRIC_NAMES["ap"]
_RIGHT: Colour = (0, 158, 115)
_INVENTED: Colour = (213, 94, 0)
_MISSED: Colour = (0, 114, 178)


class InstanceCase(NamedTuple):
    """One image with its true and its predicted objects.

    `image` uint8 (H, W, 1 or 3); `truth`, `prediction` ids, integers (H, W), 0 = background; `matches` int (M, 2): the
    true and the predicted id of those that belong together; `score` as the caller measured it, None where undefined.
    """

    name: str
    image: NDArray[np.uint8]
    truth: NDArray[np.integer]
    prediction: NDArray[np.integer]
    matches: NDArray[np.integer]
    score: float | None


def draw_instances_case(case: InstanceCase, path: Path, *, title: str | None = None, score_name: str = _AP) -> None:
    """Draw an image, its true objects (found or missed) and the predicted ones (right or invented), as outlines.

    Large images are shrunk. The numbers of objects stand in the legend, the score in the title.
    """
    panels = _panels(case, _OVERLAY_PX)
    rows = [[panel] for panel in panels] if case.image.shape[1] > 1.6 * case.image.shape[0] else [panels]
    named = f"{title or case.name}: {score_name} = {_in_words(case.score)}"
    write_png(compose(rows, title=named, legends=[_legend([case])]), path)


def draw_instances_validation(cases: Sequence[InstanceCase], path: Path, *, score_name: str = _AP) -> None:
    """Draw images from the worst score to the best, one row each; at most six, evenly spread by rank."""
    chosen, title = worst_to_best(cases, lambda case: (case.score is None, case.score or 0.0, case.name))
    rows = []
    for case in chosen:
        plain, true, predicted = _panels(case, _CASE_PX)
        scored = Panel(predicted.image, f"prediction: {score_name} = {_in_words(case.score)}")
        named = Panel(plain.image, case.name + plain.caption.removeprefix("image"))
        rows.append([named, true, scored])
    write_png(compose(rows, title=title, legends=[_legend(chosen)]), path)


def _panels(case: InstanceCase, longest_px: int) -> list[Panel]:
    """Return the image plain, with the true and with the predicted objects."""
    if not case.image.shape[:2] == case.truth.shape == case.prediction.shape:
        raise ValueError(
            f"{case.name}: image {case.image.shape}, truth {case.truth.shape} and prediction {case.prediction.shape} "
            "differ in size"
        )
    plain, is_brightened = brightened(fit_image(case.image, longest_px))
    # On a picture that is not magnified a line of 1 px leaves small objects their inside.
    line_px = 2 if plain.shape[0] > case.image.shape[0] else 1
    matches = case.matches.reshape(-1, 2)
    return [
        Panel(plain, "image, brightened" if is_brightened else "image"),
        Panel(_outlined(plain, fit_labels(case.truth, longest_px), matches[:, 0], _MISSED, line_px), "truth"),
        Panel(
            _outlined(plain, fit_labels(case.prediction, longest_px), matches[:, 1], _INVENTED, line_px), "prediction"
        ),
    ]


def _outlined(
    picture: NDArray[np.uint8], labels: NDArray[np.int32], matched: NDArray[np.integer], other: Colour, line_px: int
) -> NDArray[np.uint8]:
    """Return a picture with its objects outlined: green those that are matched, in another colour the rest."""
    lines = label_edges(labels, line_px)
    is_matched = np.isin(labels, matched)
    outlined = paint(picture, lines & is_matched, _RIGHT)
    # What is wrong is filled a little, so that the eye goes there.
    outlined = paint(outlined, (labels > 0) & ~is_matched & ~lines, other, 0.35)
    return paint(outlined, lines & ~is_matched, other)


def _legend(cases: Sequence[InstanceCase]) -> list[LegendEntry]:
    num_right = sum(len(case.matches) for case in cases)
    num_true, num_found = (
        sum(np.count_nonzero(np.unique(labels)) for labels in kind)
        for kind in ([case.truth for case in cases], [case.prediction for case in cases])
    )
    return [
        LegendEntry(f"found ({num_right:,})", _RIGHT),
        LegendEntry(f"missed ({num_true - num_right:,})", _MISSED),
        LegendEntry(f"invented ({num_found - num_right:,})", _INVENTED),
    ]


def _in_words(score: float | None) -> str:
    return "undefined" if score is None else f"{score:.3f}"
