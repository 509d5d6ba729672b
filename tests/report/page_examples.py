"""Pages and pictures that tests of the page share."""

import numpy as np

from segkit.report.page.content import (
    Case,
    Column,
    Fact,
    Headline,
    MetricRow,
    MetricTable,
    Page,
    Row,
    Section,
    Table,
)
from segkit.report.page.gallery import make_gallery
from segkit.report.page.number import Number
from segkit.report.page.pictures import Kind, Picture, object_picture
from segkit.report.page.plots import Axis, Bar, BarChart, Line, LineChart

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    'it\'s & "quoted"',
    "</script><script>alert(2)</script>",
    "javascript:alert(3)",
    "\N{RIGHT-TO-LEFT OVERRIDE}gpj.exe",
    "not text \udcff",
    "bell \a",
)
LEGEND = {Kind.RIGHT: "found", Kind.FALSE: "false", Kind.MISSED: "missed"}


def picture(seed: int = 0, longest_px: int = 64) -> Picture:
    """A small image of two objects, of which one is found, and one that is not there."""
    image = np.random.default_rng(seed).integers(0, 255, (48, 60, 3)).astype(np.uint8)
    truth, prediction = np.zeros((2, 48, 60), np.int32)
    truth[4:20, 4:20], truth[30:44, 30:50] = 1, 2
    prediction[5:21, 4:20], prediction[4:12, 40:50] = 7, 8
    return object_picture(image, truth, prediction, np.array([[1, 7]]), longest_px=longest_px)


def example_page(num_images: int = 40, names: tuple[str, ...] = (), num_drawn: int | None = None) -> Page:
    """A page with everything: images `image 0 ..`, or of the names given first, with scores that rise with the number.

    Image 3 has no score; of the images only the first `num_drawn` have a picture.
    """
    names = (*names, *(f"image {number}" for number in range(len(names), num_images)))[:num_images]
    scores = [None if number == 3 else number / num_images for number in range(num_images)]

    def case_of(index: int, longest_px: int) -> Case:
        return Case(names[index], f"AP {scores[index]}", "1 of 2 objects found", picture(index, longest_px))

    gallery = make_gallery(scores, names, case_of, drawable=range(num_images)[:num_drawn], legend=LEGEND, each=4)
    x = np.linspace(0, 1, 11)
    return Page(
        kicker="Evaluation report",
        title=f"model on {names[0]}",
        headline=Headline("AP", Number(0.7, 0.6, 0.8), (f"Of {names[0]}.",), "95% interval"),
        facts=(Fact("Images", str(num_images)), Fact(names[0], names[0], (names[0],))),
        sections=(
            Section(
                "Numbers",
                (
                    MetricTable(
                        "Metrics",
                        ("pooled", "mean"),
                        (
                            MetricRow("AP", f"what AP is, {names[0]}", (Number(0.7, 0.6, 0.8), Number(None))),
                            MetricRow("count error", "", (Number(-2.0, -3.0, 1.0), Number(0.5)), is_share=False),
                        ),
                    ),
                    LineChart(
                        names[0],
                        Axis("recall", 0, 1),
                        Axis("precision", 0, 1),
                        (Line(names[0], x, 1 - x**2), Line("other", x, 1 - x, 0.9 - x, 1.1 - x)),
                        verticals=((0.5, names[0]),),
                    ),
                    BarChart("By size", "size", Axis("F1", 0, 1), (Bar(names[0], Number(0.5, 0.4, 0.6)),)),
                ),
            ),
            Section("Cases", (gallery,)),
            Section(
                "Images",
                (
                    Table(
                        "All images",
                        (
                            *(Column("image", "text"), Column("group", "text"), Column("TP", "count"), Column("AP")),
                            *(Column("mean average precision"), Column("panoptic quality")),  # wider than a phone
                        ),
                        tuple(
                            Row((name, f"slide {number % 3}", number % 7, scores[number], 0.5, 0.5), case=name)
                            for number, name in sorted(
                                enumerate(names), key=lambda one: (scores[one[0]] is None, one[0])
                            )
                        ),
                        is_interactive=True,
                        sorted_by=3,
                    ),
                ),
            ),
        ),
        definitions={"AP": "TP / (TP + FP + FN)", names[0]: names[0]},
        warnings=(names[0],),
        footer="Made by segkit.",
    )
