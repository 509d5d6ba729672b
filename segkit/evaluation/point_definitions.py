"""What files say about the numbers of a report of point metrics."""

from types import MappingProxyType

from segkit.evaluation import point_rules, points, threshold_choice
from segkit.evaluation.point_tables import PointReport

_AGGREGATES = MappingProxyType(
    {
        "pooled": "counts added up over images, then the metric: every point counts the same",
        "mean": "the metric per image, then the mean of the defined values: every image counts the same",
        "num_defined": "images in which the metric is defined, which its mean is over",
        "foreground": "mean over all classes but the first, the background, for which the metric is defined, of "
        "what is pooled",
        "foreground_mean": "the same of the means over images",
        "groups": "the images of a group, or of one value of what else is known of them; with intervals where they are "
        "of at least two of the units that the bootstrap draws",
        "best_on_this_set": "the threshold with the highest F1 on these very images: for information, not to be "
        "reported as a result, as it was chosen on the images that it is measured on",
    }
)


def definitions_of(report: PointReport) -> dict[str, str]:
    """Return what is said about each number of a report, by the names that files give them."""
    rules = {f"rule_{name}": point_rules.DEFINITIONS[name] for name in (report.rule, report.curve_rule)}
    choice = {} if report.choice is None else threshold_choice.DEFINITIONS
    return {**points.DEFINITIONS, **rules, **choice, **_AGGREGATES}
