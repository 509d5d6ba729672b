"""How thresholds were chosen, in parts of a page."""

from segkit.evaluation.threshold_choice import Choice, sentences_of
from segkit.report.page.content import Cell, Column, Row, Table
from segkit.report.page.plots import LineChart
from segkit.report.page.standard_charts import sweep_chart
from segkit.workflows.page_parts import label_of

OTHERS = "What other values would give: the one that is used was chosen in training."


def choice_table(choice: Choice) -> Table:
    """Return the parameters that are used, and in the note how they were chosen."""
    return Table(
        caption="Thresholds, chosen on validation images in training",
        columns=(Column("parameter", "text"), Column("used", "text")),
        rows=tuple(Row((label_of(name), _in_words(value))) for name, value in choice.parameters.items()),
        note=" ".join(sentences_of(choice)),
    )


def sweep_charts(choice: Choice) -> tuple[LineChart, ...]:
    """Return a chart for each parameter that was swept: the metric on the measured and on the validation images."""
    charts = []
    for sweep in choice.sweeps:
        name = label_of(sweep.metric)
        curves = {f"{name} on {sweep.num_images} of these images": (sweep.measured.values, sweep.measured.scores)}
        if sweep.validation is not None:
            curves[f"{name} in validation"] = (sweep.validation.values, sweep.validation.scores)
        parameter = label_of(sweep.parameter)
        charts.append(
            sweep_chart(f"{name} over the {parameter}", parameter, name, curves, used=sweep.used, note=OTHERS)
        )
    return tuple(charts)


def _in_words(value: Cell) -> str:
    return value if isinstance(value, str) else f"{value:g}"
