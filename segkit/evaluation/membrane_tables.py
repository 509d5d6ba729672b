"""Tables of membrane metrics: per image, pooled and averaged over images, over thresholds, with intervals.

*Mean* computes a metric per image and averages the defined values, as the ISBI 2012 challenge does; *pooled* adds pairs
of pixels and bits up over images first, so that large cells and large images count more.

Which threshold is used is nothing that the measured images may decide: the challenge took the best one on its test
slices, so its published numbers are too good. Here the metrics of the predicted mask come first. Beside them stand
those at a threshold that was chosen on *other* images (`choose_threshold`) and, named for what it is, the maximum over
the thresholds on these very images, for who compares with the challenge's numbers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segkit.evaluation import confidence
from segkit.evaluation.estimates import Estimate, Resampled, estimate, num_units, number, weights_of_set_and_samples
from segkit.evaluation.membrane_totals import (
    METRICS,
    THINNED_METRICS,
    MeasuredMembranes,
    Metric,
    Totals,
)
from segkit.evaluation.membranes import THRESHOLDS, best_threshold

HEADLINE = "v_rand"
"""What thresholds are chosen by."""


@dataclass(frozen=True, slots=True)
class MembraneRow:
    """One image: metrics by the names of `membrane_totals.METRICS`."""

    image: str
    group: str | None
    metrics: Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class MembraneGroup:
    """The images of a group, or of one value of an attribute: `by` says of what, `name` which.

    There are intervals where it holds at least two of the units that the bootstrap draws.
    """

    by: str
    name: str
    num_images: int
    num_units: int
    pooled: Mapping[str, Estimate]
    mean: Mapping[str, Estimate]


@dataclass(frozen=True, slots=True)
class AtThreshold:
    """The metrics after thinning (`membrane_totals.THINNED_METRICS`) of probability maps cut at a threshold."""

    threshold: float
    pooled: Mapping[str, Estimate]
    mean: Mapping[str, Estimate]


@dataclass(frozen=True, slots=True)
class ChosenThreshold:
    """A threshold that was not chosen on the images that are measured.

    `chosen_on` says in words on which ones it was, `score` is their mean V-Rand there. None: it was given by someone
    who knows.
    """

    threshold: float
    chosen_on: str | None = None
    score: float | None = None


@dataclass(frozen=True, slots=True)
class BestThreshold:
    """The threshold with the highest mean of a metric on the images that are measured: an optimistic value."""

    threshold: float
    value: float


@dataclass(frozen=True, slots=True)
class MembraneReport(Resampled):
    """Everything measured on the membranes of a set of images; made by `tabulate_membranes`.

    `membrane` is the class's name. `pooled` and `mean` are of the predicted masks, by the names of
    `membrane_totals.METRICS`. `sweep` is empty without probability maps;
    `best` has what the challenge took, by metric.
    """

    membrane: str
    images: tuple[MembraneRow, ...]
    pooled: Mapping[str, Estimate]
    mean: Mapping[str, Estimate]
    groups: tuple[MembraneGroup, ...]
    sweep: tuple[AtThreshold, ...]
    chosen: ChosenThreshold | None
    best: Mapping[str, BestThreshold]

    @property
    def headline(self) -> Estimate:
        """V-Rand of the predicted masks, mean over images."""
        return self.mean[HEADLINE]

    @property
    def at_chosen(self) -> AtThreshold | None:
        """What there is at the threshold that was chosen."""
        return next((one for one in self.sweep if self.chosen and one.threshold == self.chosen.threshold), None)


def tabulate_membranes(
    names: Sequence[str],
    measured: Sequence[MeasuredMembranes],
    *,
    membrane: str,
    thresholds: Sequence[float] = THRESHOLDS,
    chosen: ChosenThreshold | None = None,
    groups: Sequence[str] | None = None,
    attributes: Mapping[str, Sequence[str]] | None = None,
    num_samples: int = confidence.NUM_SAMPLES,
    seed: int = 0,
) -> MembraneReport:
    """Make the tables from what was measured in each image.

    Parameters
    ----------
    names
        Names of the N >= 1 images, all different.
    measured
        Results of `measure_membranes`, one for each image. There is a sweep where all of them have one.
    membrane
        What the class of membranes is called.
    thresholds
        T thresholds of the sweeps.
    chosen
        One of these, chosen on other images: see `choose_threshold`.
    groups
        The group (slide, patient) of each image. Intervals are then over groups.
    attributes
        What else is known of the images, a value for each, by name: there are rows for them as for groups.
    num_samples, seed
        Of the bootstrap. With a single image or group, intervals are None.

    Raises
    ------
    ValueError
        The lengths do not fit together, names repeat, or the chosen threshold is none of the sweeps'.
    """
    if not names or len(set(names)) < len(names) or len(names) != len(measured):
        raise ValueError(
            f"{len(measured)} measured for the names {tuple(names)}, which must be at least one, all different"
        )
    totals = np.stack([one.totals for one in measured])
    sweeps = [one.sweep for one in measured if one.sweep is not None]
    has_sweep = len(sweeps) == len(measured)
    if has_sweep and any(len(sweep) != len(thresholds) for sweep in sweeps):
        raise ValueError(f"{len(thresholds)} thresholds, and sweeps of {[len(sweep) for sweep in sweeps]}")
    if chosen is not None and (not has_sweep or chosen.threshold not in thresholds):
        raise ValueError(f"there is nothing at the threshold {chosen.threshold}")
    weights = weights_of_set_and_samples(len(names), groups, num_samples, seed)
    values = {metric: of(totals) for metric, of in METRICS.items()}
    pooled, mean = _estimates(totals, weights, METRICS)
    sweep = []
    for index, threshold in enumerate(thresholds if has_sweep else ()):
        sweep.append(
            AtThreshold(threshold, *_estimates(np.stack([one[index] for one in sweeps]), weights, THINNED_METRICS))
        )
    divisions = {**({} if groups is None else {"group": tuple(groups)}), **(attributes or {})}
    units = names if groups is None else groups
    return MembraneReport(
        membrane=membrane,
        images=tuple(
            MembraneRow(
                name,
                None if groups is None else groups[index],
                {metric: number(of_images[index]) for metric, of_images in values.items()},
            )
            for index, name in enumerate(names)
        ),
        pooled=pooled,
        mean=mean,
        groups=tuple(
            _group(by, value, np.array([one == value for one in of_images]), units, totals, weights)
            for by, of_images in divisions.items()
            for value in sorted(set(of_images))
        ),
        sweep=tuple(sweep),
        chosen=chosen,
        best={metric: best for metric in (HEADLINE, "v_info") if (best := _best(metric, sweep)) is not None},
        unit="image" if groups is None else "group",
        num_units=num_units(len(names), groups),
        num_samples=num_samples,
        seed=seed,
    )


def choose_threshold(
    sweeps: Sequence[Totals], chosen_on: str, *, thresholds: Sequence[float] = THRESHOLDS
) -> ChosenThreshold | None:
    """Return a threshold with about the highest V-Rand averaged over images; None where no image has a defined one.

    It is in the middle of those that are within one standard error of the highest: see `membranes.best_threshold`.

    Parameters
    ----------
    sweeps
        Results of `sweep_membranes` for images that are *not* the ones to be measured, float64 (T, 6) each.
    chosen_on
        What these images are, in words.
    thresholds
        T thresholds.

    """
    values = THINNED_METRICS[HEADLINE](np.stack(sweeps)) if sweeps else np.empty((0, len(thresholds)))
    if not (~np.isnan(values).any(axis=1)).any():
        return None
    threshold, score = best_threshold(values, thresholds, standard_errors=1)
    return ChosenThreshold(threshold, chosen_on, number(score))


def _estimates(
    totals: Totals, weights: NDArray[np.float64], metrics: Mapping[str, Metric]
) -> tuple[dict[str, Estimate], dict[str, Estimate]]:
    """Return the metrics of the totals (N, K) of images, pooled and as means."""
    sums = confidence.pooled_over_images(totals, weights)
    pooled = {metric: estimate(of(sums)) for metric, of in metrics.items()}
    mean = {metric: estimate(confidence.mean_over_images(of(totals), weights)) for metric, of in metrics.items()}
    return pooled, mean


def _group(
    by: str,
    name: str,
    members: NDArray[np.bool_],
    units: Sequence[str],
    totals: Totals,
    weights: NDArray[np.float64],
) -> MembraneGroup:
    """Measure the images that `members` (N,) marks; `units` has what the bootstrap draws each image with."""
    num_inside = len({unit for unit, is_member in zip(units, members, strict=True) if is_member})
    # The samples of a single unit are multiples of it.
    drawn = weights[:, members] if num_inside > 1 else weights[:1, members]
    return MembraneGroup(by, name, int(members.sum()), num_inside, *_estimates(totals[members], drawn, METRICS))


def _best(metric: str, sweep: Sequence[AtThreshold]) -> BestThreshold | None:
    """Return where the mean over images is highest."""
    means = np.array([[one.mean[metric].value for one in sweep]], np.float64)
    if not sweep or np.isnan(means).any():
        return None
    threshold, value = best_threshold(means, [one.threshold for one in sweep])
    return BestThreshold(threshold, round(value, 6))
