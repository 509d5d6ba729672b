"""The pictures of points and detections; each function writes one PNG.

Images are uint8 (H, W, 1 or 3), positions float64 (N, 2) y, x in pixels of the image that they are drawn on (0.5 is the
first pixel's centre), `classes` the class names by index, background first.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray

from segkit.masks import colour_of_class
from segkit.points import Detections
from segkit.report.colouring import (
    WHITE,
    Colour,
    Marked,
    Marker,
    draw_markers,
    fit_image,
    heat_over,
    paint,
)
from segkit.report.curves import INK, dress, printable, write_figure
from segkit.report.ranking import worst_to_best
from segkit.report.sheet import LegendEntry, Panel, add_scale_bar, compose, write_png

_PICTURE_PX, _CASE_PX, _WINDOW_PX = 1000, 600, 208
_FRAME_PX = 6
_WINDOWS_IN_A_ROW = 8

# Okabe and Ito's colours, as `figures` has them for pixels; what is right is round, what is wrong has corners.
_POINT_STYLE: dict[str, tuple[Marker, Colour]] = {
    "true positive": (Marker.RING, (0, 158, 115)),
    "false positive": (Marker.CROSS, (213, 94, 0)),
    "false negative": (Marker.SQUARE, (0, 114, 178)),
    "hard negative": (Marker.DIAMOND, (34, 34, 34)),
}

Curve = tuple[NDArray[np.float64], NDArray[np.float64]]


def draw_detections_overview(
    thumbnail: NDArray[np.uint8],
    detections: Detections,
    classes: Sequence[str],
    path: Path,
    *,
    um_per_px: float | None,
    title: str,
    probability: NDArray[np.uint8] | None = None,
) -> None:
    """Draw a slide's thumbnail beside the same with a ring around each detection, and the number of each class.

    Parameters
    ----------
    thumbnail
        Shrunk where larger than the picture.
    detections
        Positions in pixels of the thumbnail.
    um_per_px
        Micrometres per pixel of the thumbnail, for the scale bar and numbers per mm2 of the whole image; None where
        unknown.
    probability
        Of the foreground, 0..255, (H, W) as the thumbnail; drawn between the two if there is one.
    """
    plain = fit_image(thumbnail, _PICTURE_PX)
    positions = _on_fitted(detections.positions, thumbnail, plain)
    # The best is drawn last, over the others.
    rings = [
        Marked(positions[detections.classes == index][::-1], Marker.RING, colour_of_class(index))
        for index in range(1, len(classes))
    ]
    ringed = draw_markers(_faded(plain), rings, _marker_px(len(positions), plain))
    panels = [Panel(plain, "slide"), Panel(ringed, "detections")]
    if probability is not None:
        if probability.shape != thumbnail.shape[:2]:
            raise ValueError(f"thumbnail {thumbnail.shape} and probability {probability.shape} differ in size")
        panels.insert(
            1, Panel(heat_over(plain, fit_image(probability[..., np.newaxis], _PICTURE_PX)), "probability (orange: 1)")
        )
    if um_per_px is not None:
        panels[0] = Panel(add_scale_bar(plain, um_per_px * thumbnail.shape[1] / plain.shape[1]), "slide")
    area_mm2 = None if um_per_px is None else thumbnail.shape[0] * thumbnail.shape[1] * um_per_px**2 / 1e6
    rows = [[panel] for panel in panels] if thumbnail.shape[1] > 1.6 * thumbnail.shape[0] else [panels]
    write_png(compose(rows, title=title, legends=[_count_legend(detections, classes, area_mm2)]), path)


class PointCase(NamedTuple):
    """One validation image with its points: found, invented, missed; and labelled look-alikes, mistaken or not."""

    name: str
    image: NDArray[np.uint8]
    true_positives: NDArray[np.float64]
    false_positives: NDArray[np.float64]
    false_negatives: NDArray[np.float64]
    hard_negatives: NDArray[np.float64]

    @property
    def num_errors(self) -> int:
        """False positives and false negatives."""
        return len(self.false_positives) + len(self.false_negatives)

    @property
    def f1(self) -> float | None:
        """2 TP / (2 TP + FP + FN); None where there is nothing, labelled or found."""
        doubled = 2 * len(self.true_positives)
        return doubled / (doubled + self.num_errors) if doubled + self.num_errors else None


def draw_points_validation(cases: Sequence[PointCase], path: Path) -> None:
    """Draw validation images from the worst F1 to the best, one row each; at most six, evenly spread by rank.

    Those without an F1 come last; of those with the same the one with more errors is worse.
    """
    chosen, title = worst_to_best(cases, lambda case: (case.f1 is None, case.f1 or 0.0, -case.num_errors, case.name))
    rows = []
    for case in chosen:
        plain, marked = _case_panels(case, _CASE_PX)
        counted = (
            f"F1 {_f1_in_words(case.f1)}: {len(case.true_positives):,} right, {len(case.false_positives):,} wrong, "
            f"{len(case.false_negatives):,} missed"
        )
        rows.append([Panel(plain, case.name), Panel(marked, counted)])
    has_alike = any(len(case.hard_negatives) for case in chosen)
    legend = [
        LegendEntry(name, colour, marker)
        for name, (marker, colour) in _POINT_STYLE.items()
        if name != "hard negative" or has_alike
    ]
    write_png(compose(rows, title=title, legends=[legend]), path)


def draw_contact_sheet(
    windows: Sequence[NDArray[np.uint8]], captions: Sequence[str], path: Path, *, title: str = ""
) -> None:
    """Draw windows around detections in a grid, their captions (the scores) above; ticks point at each centre."""
    panels = [
        Panel(_with_ticks(fit_image(window, _WINDOW_PX)), caption)
        for window, caption in zip(windows, captions, strict=True)
    ]
    write_png(compose(_grid(panels, _WINDOWS_IN_A_ROW), title=title), path)


def draw_points_case(
    image: NDArray[np.uint8],
    path: Path,
    *,
    true_positives: NDArray[np.float64],
    false_positives: NDArray[np.float64],
    false_negatives: NDArray[np.float64],
    hard_negatives: NDArray[np.float64],
    title: str,
) -> None:
    """Draw an image beside the same with what was found, what was invented and what was missed, and its F1.

    `hard_negatives` are labelled look-alikes, whether they were mistaken or not. Large images are shrunk.
    """
    case = PointCase(title, image, true_positives, false_positives, false_negatives, hard_negatives)
    legend = [
        LegendEntry(f"{name} ({len(positions):,})", colour, marker)
        for (name, (marker, colour)), positions in zip(_POINT_STYLE.items(), case[2:], strict=True)
        if name != "hard negative" or len(hard_negatives)
    ]
    plain, marked = _case_panels(case, _PICTURE_PX)
    panels = [Panel(plain, "image"), Panel(marked, "detections and labels")]
    rows = [[panel] for panel in panels] if image.shape[1] > 1.6 * image.shape[0] else [panels]
    write_png(compose(rows, title=f"{title}: F1 {_f1_in_words(case.f1)}", legends=[legend]), path)


def draw_point_patches(
    images: Sequence[NDArray[np.uint8]],
    labels: Sequence[int],
    classes: Sequence[str],
    path: Path,
    *,
    columns: int,
    captions: Sequence[str] = (),
    title: str = "",
) -> None:
    """Draw training patches in rows of `columns`, each in a frame of its class's colour (background: grey).

    `labels` are class indices; `captions` are the words above each patch, or none at all.
    """
    captions = captions or [""] * len(images)
    panels = [
        Panel(_framed(fit_image(image, _WINDOW_PX), colour_of_class(label)), caption)
        for image, label, caption in zip(images, labels, captions, strict=True)
    ]
    legend = [LegendEntry("frames:")] + [LegendEntry(name, colour_of_class(i)) for i, name in enumerate(classes)]
    write_png(compose(_grid(panels, columns), title=title, legends=[legend]), path)


def draw_point_curves(
    curves: Mapping[str, Curve],
    path: Path,
    *,
    chosen: Mapping[str, tuple[float, float]],
    froc: Mapping[str, Curve],
    fp_unit: str,
    title: str,
) -> None:
    """Draw precision over recall and recall over false positives, a line for each class.

    Parameters
    ----------
    curves
        By class, in the order of their colours: recall and precision, float64 (N,), at descending thresholds. What is
        not finite is left out.
    chosen
        By class: recall and precision at the threshold in use, marked and named with their F1.
    froc
        By class: false positives per `fp_unit` (image, mm²) and recall, float64 (N,), at descending thresholds.
    """
    figure = Figure(figsize=(11, 5.4), dpi=120, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08))
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    figure.suptitle(printable(title), parse_math=False, fontsize=12, fontweight="bold", color=INK)
    for axes in (left, right):
        dress(axes)
    _draw_levels_of_f1(left)
    rates = np.concatenate([np.empty(0), *(rate for rate, _ in froc.values())])
    # A logarithmic axis has no 0: what is found without a false positive begins at its left end.
    lowest = 0.7 * float(np.min(rates[rates > 0], initial=1.0))
    highest = 1.1 * float(np.max(rates, initial=10 * lowest))
    lines = []
    for index, (name, (recall, precision)) in enumerate(curves.items(), start=1):
        colour = tuple(channel / 255 for channel in colour_of_class(index))
        (line,) = left.plot(recall, precision, color=colour, linewidth=1.8)
        line.set_label(printable(name))
        if name in chosen:
            point = chosen[name]
            left.plot(*point, "o", color=colour, markersize=9, markeredgecolor="white", zorder=5)
            line.set_label(printable(f"{name}: {_chosen_in_words(*point)}"))
        if name in froc:
            rate, found = froc[name]
            right.plot(np.maximum(rate, lowest), found, color=colour, linewidth=1.8, drawstyle="steps-post")
        lines.append(line)
    left.set(xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.02))
    right.set(xlabel=f"false positives per {fp_unit}", ylabel="recall", ylim=(0, 1.02))
    right.set(xscale="log", xlim=(lowest, highest))
    right.xaxis.set_major_formatter("{x:g}")
    legend = figure.legend(handles=lines, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    for text in legend.get_texts():
        text.set_parse_math(False)
    write_figure(figure, path)


def _case_panels(case: PointCase, longest_px: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return an image made to fit, and the same faded with its points."""
    plain = fit_image(case.image, longest_px)
    points = case[2:]
    marked = [
        Marked(_on_fitted(positions, case.image, plain), marker, colour)
        for (marker, colour), positions in zip(_POINT_STYLE.values(), points, strict=True)
    ]
    return plain, draw_markers(_faded(plain), marked, _marker_px(sum(map(len, points)), plain))


def _f1_in_words(f1: float | None) -> str:
    return "undefined" if f1 is None else f"{f1:.3f}"


def _draw_levels_of_f1(axes: Axes) -> None:
    """Draw lines along which F1 is the same, named at their right end."""
    for level in (0.2, 0.4, 0.6, 0.8):
        recall = np.linspace(level / (2 - level), 1, 100)
        axes.plot(recall, level * recall / (2 * recall - level), color="#cccccc", linewidth=0.8, zorder=1)
        axes.text(1.03, level / (2 - level), f"F1 {level}", va="center", fontsize=8, color="#888888")


def _chosen_in_words(recall: float, precision: float) -> str:
    f1 = 2 * recall * precision / (recall + precision) if recall + precision else 0.0
    return f"F1 {f1:.3f}, precision {precision:.3f}, recall {recall:.3f}"


def _count_legend(detections: Detections, classes: Sequence[str], area_mm2: float | None) -> list[LegendEntry]:
    """Return the foreground classes with their number of detections, and the number per mm2 where it is known."""
    entries = []
    for index, name in enumerate(classes[1:], start=1):
        number = int(np.count_nonzero(detections.classes == index))
        density = "" if area_mm2 is None else f", {_three_digits(number / area_mm2)} per mm²"
        entries.append(LegendEntry(f"{name} ({number:,}{density})", colour_of_class(index), Marker.RING))
    return entries


def _three_digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _on_fitted(
    positions: NDArray[np.float64], image: NDArray[np.uint8], fitted: NDArray[np.uint8]
) -> NDArray[np.float64]:
    """Return where positions on an image lie on the same made to fit."""
    return positions * (np.array(fitted.shape[:2]) / image.shape[:2])


def _marker_px(number: int, picture: NDArray[np.uint8]) -> int:
    """Return a size of markers that leaves room between so many, were they spread evenly."""
    spacing = float(np.sqrt(picture.shape[0] * picture.shape[1] / max(number, 1)))
    return round(min(max(0.5 * spacing, 6.0), 20.0))


def _faded(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return paint(image, np.ones(image.shape[:2], np.bool_), WHITE, 0.35)


def _with_ticks(window: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a window with a short line from the middle of each side towards its centre."""
    height, width = window.shape[:2]
    result = window.copy()
    y, x = height // 2, width // 2
    for reach, half_width, colour in ((height // 9 + 1, 2, WHITE), (height // 9, 1, (34, 34, 34))):
        rows, columns = slice(y - half_width, y + half_width), slice(x - half_width, x + half_width)
        for side in (np.s_[:reach, columns], np.s_[height - reach :, columns]):
            result[side] = colour
        for side in (np.s_[rows, :reach], np.s_[rows, width - reach :]):
            result[side] = colour
    return result


def _framed(image: NDArray[np.uint8], colour: Colour) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    framed = np.full((height + 2 * _FRAME_PX, width + 2 * _FRAME_PX, 3), colour, np.uint8)
    framed[_FRAME_PX:-_FRAME_PX, _FRAME_PX:-_FRAME_PX] = image
    return framed


def _grid(panels: Sequence[Panel], columns: int) -> list[Sequence[Panel]]:
    return [panels[start : start + columns] for start in range(0, len(panels), columns)]
