"""What learning curves say, in sentences, by rules that are stated here and hold for noisy curves too.

Trends are found by Kendall's rank correlation with the epoch (Mann 1945, Kendall 1975): it needs no model of the noise
and one wild epoch does not sway it. Levels are running medians, for the same reason.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, stats

Row = Mapping[str, float | None]

ENOUGH_EPOCHS = 8
"""Fewer epochs than these are not judged: chance orders so few values too often."""
METRIC_NAMES = {"dice": "Dice", "v_rand": "V-Rand", "f1": "F1", "ap": "AP at IoU 0.5"}

_SIGNIFICANT, _LIKELY = 0.01, 0.05
_SMOOTHING_EPOCHS = 5
_RISE = 0.05  # of the lowest validation loss
_FALL = 0.03  # of a loss, over the last third of the epochs
_NEVER_FELL = 0.1
_GAP = 2.0
_LOSS_NOISE = 0.2
_SCORE_NOISE = 0.03
_SCORE_FALL, _SCORE_FALL_SCATTERS = 0.002, 3.0


class _Curve(NamedTuple):
    """The finite values of a column, float64 (N,), their epochs and running medians."""

    epochs: NDArray[np.float64]
    values: NDArray[np.float64]
    levels: NDArray[np.float64]

    def since(self, epoch: float) -> "_Curve":
        return _Curve(*(array[self.epochs >= epoch] for array in self))


def judge_curves(history: Sequence[Row], *, metric: str = "dice") -> list[str]:
    """Say what the curves of a training show; each sentence begins with what it is called and ends with a remedy.

    The last third of the epochs, but at least `ENOUGH_EPOCHS`, is *the end*; a trend is Kendall's tau with p < 0.01
    (one-sided), a level the running median over 5 epochs. The rules:

    - *Not learning*: the training loss ends less than 10 % below where it began, and has no trend downwards.
    - *Over-fitting*: since the lowest level of the validation loss that has a trend upwards and ends more than 5 %
      higher, while the training loss has a trend downwards.
    - *Gap*: no over-fitting, but the validation loss ends at more than twice the training loss, which is measured on
      augmented patches, the harder ones.
    - *Falling score*: at least 5 epochs follow the score's best one, these have a trend downwards, and the median of
      the last 3 is below the best by more than 0.002 and by more than 3 times the score's scatter between neighbouring
      epochs. The losses may well still fall; then the next two rules are not applied.
    - *Still falling* (under-fitting): at the end both losses have a trend downwards, each by more than 3 % and with
      p < 0.05: it is unlikely that chance gives both.
    - *Plateau*: at the end neither loss has a trend, and no score in it beats the best before by its own scatter.
    - *Noisy*: the score scatters by more than 0.03 around its level at the end, or the training loss by more than 20 %.

    Parameters
    ----------
    history
        Rows of metrics.csv: `epoch`, `train_loss`, `val_loss`, `val_METRIC`, `learning_rate`; what is missing, None or
        not finite does not count.
    metric
        dice, f1 or ap.

    Returns
    -------
    At least one sentence.
    """
    train, validation = _curve(history, "train_loss"), _curve(history, "val_loss")
    score = _curve(history, f"val_{metric}")
    num = min(len(train.values), len(validation.values))
    if num < ENOUGH_EPOCHS:
        return [f"Too few epochs to judge the curves: {num} of at least {ENOUGH_EPOCHS}."]
    end = float(train.epochs[-max(ENOUGH_EPOCHS, len(train.epochs) // 3)])
    if train.levels[-1] > (1 - _NEVER_FELL) * np.median(train.values[:2]) and _trend(train) >= 0:
        return [
            f"Not learning: the training loss went from {train.values[0]:.3g} to {train.levels[-1]:.3g} only. Look at "
            "the first training batch, then try another optimiser.learning_rate (segkit find-lr)."
        ]
    name = METRIC_NAMES.get(metric, metric)
    said = _over_fitting(history, validation) or _gap(train, validation)
    said += _falling_score(score, name) or [
        *_still_falling(train.since(end), validation.since(end)),
        *_plateau(train.since(end), validation.since(end), score, end, name),
    ]
    said += _noise(train.since(end), score.since(end), name)
    return said or [f"Nothing stands out: no over-fitting, no falling {name}, no clear trend of the losses at the end."]


def over_fitting_since(history: Sequence[Row]) -> float | None:
    """Return the epoch since which a training over-fits by the rule of `judge_curves`, None where it does not."""
    train, validation = _curve(history, "train_loss"), _curve(history, "val_loss")
    if min(len(train.values), len(validation.values)) < ENOUGH_EPOCHS:
        return None
    lowest = int(validation.levels.argmin())
    epoch = float(validation.epochs[lowest])
    rises = validation.levels[-1] > (1 + _RISE) * validation.levels[lowest]
    grows = rises and _trend(validation.since(epoch)) > 0 and _trend(train.since(epoch)) < 0
    return epoch if grows else None


def _over_fitting(history: Sequence[Row], validation: _Curve) -> list[str]:
    since = over_fitting_since(history)
    if since is None:
        return []
    before, after = validation.since(since).levels[[0, -1]]
    return [
        f"Over-fitting: since epoch {since:g} the validation loss rises ({before:.3g} to {after:.3g}) while the "
        "training loss still falls. More images or augmentation, dropout, weight decay or a smaller network help; the "
        "model that is kept is that of the best score."
    ]


def _gap(train: _Curve, validation: _Curve) -> list[str]:
    ratio = validation.levels[-1] / max(float(train.levels[-1]), 1e-12)
    if ratio < _GAP:
        return []
    return [
        f"Gap: the validation loss ends at {ratio:.1f} times the training loss. Training and validation images may "
        "differ in stain, scanner or labelling; otherwise more augmentation helps."
    ]


def _falling_score(score: _Curve, name: str) -> list[str]:
    if not len(score.values):
        return []
    best = int(score.values.argmax())
    after = _Curve(*(array[best + 1 :] for array in score))
    if len(after.values) < _SMOOTHING_EPOCHS or _trend(after, enough=_SMOOTHING_EPOCHS) >= 0:
        return []
    highest, last = float(score.values[best]), float(np.median(after.values[-3:]))
    if highest - last <= max(_SCORE_FALL, _SCORE_FALL_SCATTERS * _scatter(score)):
        return []
    return [
        f"Falling score: since epoch {score.epochs[best]:g} the validation {name} has fallen ({highest:.3f} to "
        f"{last:.3f}), by more than it scatters from epoch to epoch. The model that is kept is that of the best score; "
        "fewer epochs or patience save time, and more images or augmentation, or a loss that is nearer to the score, "
        "may help."
    ]


def _still_falling(train: _Curve, validation: _Curve) -> list[str]:
    curves = (train, validation)
    falls = [1 - float(np.median(one.values[-3:]) / max(np.median(one.values[:3]), 1e-12)) for one in curves]
    if not all(_trend(one, _LIKELY) < 0 and fall > _FALL for one, fall in zip(curves, falls, strict=True)):
        return []
    return [
        f"Still falling (under-fitting): in the last {len(train.values)} epochs the training loss fell by "
        f"{falls[0]:.0%} and the validation loss by {falls[1]:.0%}. More epochs will help; then a larger network."
    ]


def _plateau(train: _Curve, validation: _Curve, score: _Curve, end: float, name: str) -> list[str]:
    before, after = score.values[score.epochs < end], score.values[score.epochs >= end]
    if _trend(train) or _trend(validation) or not len(before) or not len(after):
        return []
    if after.max() > before.max() + _scatter(score.since(end)):
        return []
    return [
        f"Plateau: since epoch {end:g} neither the losses nor the {name} have changed. A lower learning rate towards "
        "the end may still help (optimiser.schedule); otherwise fewer epochs do."
    ]


def _noise(train: _Curve, score: _Curve, name: str) -> list[str]:
    said = []
    if len(score.values) >= _SMOOTHING_EPOCHS and (jump := _scatter(score)) > _SCORE_NOISE:
        said.append(
            f"Noisy: the validation {name} jumps by about {jump:.2f} from epoch to epoch, so which epoch is best is "
            "partly luck. More validation images, a larger batch, a smaller learning rate or averaged weights help."
        )
    if (share := _scatter(train) / max(float(np.median(train.values)), 1e-12)) > _LOSS_NOISE:
        said.append(
            f"Noisy: the training loss jumps by about {share:.0%} from epoch to epoch. A smaller learning rate, a "
            "larger batch or more steps per epoch help."
        )
    return said


def _curve(history: Sequence[Row], column: str) -> _Curve:
    pairs = [(row.get("epoch"), row.get(column)) for row in history]
    finite = [(e, v) for e, v in pairs if e is not None and v is not None and math.isfinite(e) and math.isfinite(v)]
    epochs, values = np.array(finite, np.float64).reshape(-1, 2).T
    levels = ndimage.median_filter(values, _SMOOTHING_EPOCHS, mode="nearest") if len(values) else values
    return _Curve(epochs, values, levels)


def _trend(curve: _Curve, significant: float = _SIGNIFICANT, enough: int = ENOUGH_EPOCHS) -> int:
    """Return 1 for a trend upwards, -1 for one downwards, 0 for none (by a one-sided test on either side)."""
    if len(curve.values) < enough or np.ptp(curve.values) == 0:
        return 0
    tau, p = stats.kendalltau(curve.epochs, curve.values)
    return int(np.sign(tau)) if p < 2 * significant else 0


def _scatter(curve: _Curve) -> float:
    """Return the standard deviation of the values around a smooth curve, from the median of their second differences.

    A straight line has none; for normal noise of deviation s the second differences have sqrt(6) s, and their median
    magnitude is 0.6745 of that.
    """
    if len(curve.values) < 3:
        return 0.0
    return float(np.median(np.abs(np.diff(curve.values, 2)))) / (0.6745 * math.sqrt(6))
