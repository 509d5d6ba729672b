"""Two divisions of the same pixels into segments, compared by pairs of pixels and by information.

Both follow from one table: how many pixels each pair of a true and a predicted segment shares. With `n_ij` pixels in
true segment i and predicted segment j, `t_i` and `s_j` the sizes of the segments and `N` the number of pixels:

    pairs         both = sum n_ij^2,  in_truth = sum t_i^2,  in_prediction = sum s_j^2
                  precision = both / in_prediction, recall = both / in_truth, score = their harmonic mean
    information   H(T), H(S): entropies of the sizes; I: mutual information; all in bits
                  precision = I / H(T), recall = I / H(S), score = their harmonic mean = 2 I / (H(S) + H(T))
                  variation of information = H(S|T) + H(T|S), the bits of splits and those of merges

Precision is low where segments are merged and recall where they are split. What differs between published numbers is
which pixels count, and two conventions; so there are two functions for each:

============================  ==================================  ==============================================
..                            `adapted_rand`, `information`       `v_rand`, `v_info`
============================  ==================================  ==============================================
as in                         scikit-image                        the ISBI 2012 challenge's script (Fiji)
pixels of the truth's 0       not counted by `adapted_rand`,      not counted
                              a segment for `information`
pixels predicted as 0         one segment                         each is a segment of its own
pairs                         of two different pixels, unordered  ordered, a pixel with itself counts
============================  ==================================  ==============================================

Sources: Rand (1971), J. Am. Stat. Assoc. 66:846-850; Meila (2007), J. Multivariate Analysis 98:873-895 (variation of
information); Arganda-Carreras et al. (2015), Front. Neuroanat. 9:142, doi:10.3389/fnana.2015.00142 (both scores,
foreground-restricted). scikit-image (0.26) returns the Rand precision and recall in the other order (its issue 6485).

**Undefined values.** Without pixels that count all are undefined. A share of no pairs or of no information is
undefined: so the information score is where truth and prediction are one segment each.
"""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Contingency:
    """The P pairs of a true and a predicted segment that share pixels, each once, in ascending order.

    Attributes
    ----------
    true_ids, predicted_ids
        The segments' ids, int64 (P,).
    counts
        Pixels that they share, int64 (P,), at least 1.

    Tables of tiles add up, if a segment has the same id in all tiles.
    """

    true_ids: NDArray[np.int64]
    predicted_ids: NDArray[np.int64]
    counts: NDArray[np.int64]

    def __add__(self, other: "Contingency") -> "Contingency":
        return _table(
            np.concatenate([self.true_ids, other.true_ids]),
            np.concatenate([self.predicted_ids, other.predicted_ids]),
            np.concatenate([self.counts, other.counts]),
        )

    def within_truth(self) -> "Contingency":
        """Return the table of the pixels whose true id is not 0."""
        kept = self.true_ids != 0
        return Contingency(self.true_ids[kept], self.predicted_ids[kept], self.counts[kept])


@dataclass(frozen=True, slots=True)
class RandScore:
    """Numbers of pixel pairs and the scores made of them; scores in 0..1, None where there are no pairs to judge.

    Scores of several images pool by adding them: `sum(scores, RandScore(0, 0, 0))`.
    """

    both: int
    in_prediction: int
    in_truth: int

    def __add__(self, other: "RandScore") -> "RandScore":
        return RandScore(
            self.both + other.both, self.in_prediction + other.in_prediction, self.in_truth + other.in_truth
        )

    @property
    def precision(self) -> float | None:
        """Share of the prediction's pairs that the truth keeps together; low where segments are merged."""
        return self.both / self.in_prediction if self.in_prediction else None

    @property
    def recall(self) -> float | None:
        """Share of the truth's pairs that the prediction keeps together; low where segments are split."""
        return self.both / self.in_truth if self.in_truth else None

    @property
    def score(self) -> float | None:
        """Harmonic mean of precision and recall."""
        pairs = self.in_prediction + self.in_truth
        return 2 * self.both / pairs if pairs else None

    @property
    def error(self) -> float | None:
        """The adapted Rand error, 1 - score."""
        return None if self.score is None else 1 - self.score


@dataclass(frozen=True, slots=True)
class InformationScore:
    """Information in two partitions, and the scores made of it; None where undefined.

    `mutual`, `in_prediction` and `in_truth` are N I, N H(S) and N H(T): bits summed over the N = `num_pixels` pixels.
    Scores of several images pool by adding them: `sum(scores, InformationScore(0, 0.0, 0.0, 0.0))`. The entropies
    are then means over pixels of their images' entropies.
    """

    num_pixels: int
    mutual: float
    in_prediction: float
    in_truth: float

    def __add__(self, other: "InformationScore") -> "InformationScore":
        return InformationScore(
            self.num_pixels + other.num_pixels,
            self.mutual + other.mutual,
            self.in_prediction + other.in_prediction,
            self.in_truth + other.in_truth,
        )

    @property
    def precision(self) -> float | None:
        """Share of the truth's information that the prediction holds, I / H(T); low where segments are merged."""
        return self.mutual / self.in_truth if self.in_truth else None

    @property
    def recall(self) -> float | None:
        """Share of the prediction's information that the truth holds, I / H(S); low where segments are split."""
        return self.mutual / self.in_prediction if self.in_prediction else None

    @property
    def score(self) -> float | None:
        """Harmonic mean of precision and recall, in 0..1."""
        both = self.in_prediction + self.in_truth
        return 2 * self.mutual / both if both else None

    @property
    def split_bits(self) -> float | None:
        """H(S|T), in bits: how much the prediction divides true segments; 0 if it divides none."""
        return (self.in_prediction - self.mutual) / self.num_pixels if self.num_pixels else None

    @property
    def merge_bits(self) -> float | None:
        """H(T|S), in bits: how much the prediction joins true segments; 0 if it joins none."""
        return (self.in_truth - self.mutual) / self.num_pixels if self.num_pixels else None

    @property
    def variation_bits(self) -> float | None:
        """The variation of information, in bits: split_bits + merge_bits."""
        return (self.in_prediction + self.in_truth - 2 * self.mutual) / self.num_pixels if self.num_pixels else None


def contingency(
    truth: NDArray[np.integer], prediction: NDArray[np.integer], *, ignored: NDArray[np.bool_] | None = None
) -> Contingency:
    """Count the pixels of each pair of a true and a predicted segment.

    Parameters
    ----------
    truth, prediction
        Ids, integers of any kind and of the same shape.
    ignored
        Pixels that are not labelled and do not count, bool of that shape.

    Raises
    ------
    ValueError
        The shapes differ.
    """
    if truth.shape != prediction.shape or (ignored is not None and ignored.shape != truth.shape):
        raise ValueError(f"shapes differ: truth {truth.shape}, prediction {prediction.shape}")
    true_ids, predicted_ids = truth.ravel(), prediction.ravel()
    if ignored is not None:
        true_ids, predicted_ids = true_ids[~ignored.ravel()], predicted_ids[~ignored.ravel()]
    # Neighbours in a row mostly are of the same pair: what is sorted are runs of such pixels.
    starts = np.ones(true_ids.size, np.bool_)
    starts[1:] = true_ids[1:] != true_ids[:-1]
    starts[1:] |= predicted_ids[1:] != predicted_ids[:-1]
    first = np.flatnonzero(starts)
    lengths = np.diff(first, append=true_ids.size)
    return _table(true_ids[first].astype(np.int64), predicted_ids[first].astype(np.int64), lengths)


def adapted_rand(table: Contingency) -> RandScore:
    """Return the foreground-restricted Rand score; its `error` is scikit-image's `adapted_rand_error`.

    Pixels whose true id is 0 are left out; those predicted as 0 are one segment; pairs are unordered and of two
    different pixels.
    """
    foreground = table.within_truth()
    return RandScore(
        both=_num_pairs(foreground.counts),
        in_prediction=_num_pairs(_sizes(foreground.predicted_ids, foreground.counts)),
        in_truth=_num_pairs(_sizes(foreground.true_ids, foreground.counts)),
    )


def v_rand(table: Contingency) -> RandScore:
    """Return V-Rand (alpha = 0.5) as the ISBI 2012 challenge's script computes it of given segments.

    Pixels whose true id is 0 are left out; each pixel predicted as 0 is a segment of its own; pairs are ordered and
    include those of a pixel with itself ("N^2 normalisation").
    """
    foreground = table.within_truth()
    segments, num_alone = _apart(foreground)
    return RandScore(
        both=_num_ordered_pairs(segments.counts) + num_alone,
        in_prediction=_num_ordered_pairs(_sizes(segments.predicted_ids, segments.counts)) + num_alone,
        in_truth=_num_ordered_pairs(_sizes(foreground.true_ids, foreground.counts)),
    )


def information(table: Contingency) -> InformationScore:
    """Return the information of both partitions, every pixel counted and 0 an id like the others.

    `split_bits` and `merge_bits` are the first and the second number of scikit-image's
    `variation_of_information(truth, prediction)`. To leave the truth's 0 out as with `ignore_labels=(0,)` there, give
    `table.within_truth()`.
    """
    return _information(table, table)


def v_info(table: Contingency) -> InformationScore:
    """Return V-Info (alpha = 0.5) as the ISBI 2012 challenge's script computes it of given segments.

    Pixels whose true id is 0 are left out; each pixel predicted as 0 is a segment of its own.
    """
    foreground = table.within_truth()
    return _information(foreground, _apart(foreground)[0])


DEFINITIONS: Final = MappingProxyType(
    {
        "rand_score": "harmonic mean of Rand precision and recall over unordered pairs of different pixels, pixels "
        "outside the truth's segments left out, predicted background one segment; 1 - adapted Rand error "
        "(scikit-image's adapted_rand_error)",
        "rand_error": "1 - rand_score",
        "rand_precision": "pairs in one segment of both / pairs in one predicted segment; low where segments are "
        "merged (scikit-image calls it recall)",
        "rand_recall": "pairs in one segment of both / pairs in one true segment; low where segments are split "
        "(scikit-image calls it precision)",
        "vi_split_bits": "H(prediction | truth) in bits over all pixels, background a segment: division of true "
        "segments; the first number of scikit-image's variation_of_information(truth, prediction)",
        "vi_merge_bits": "H(truth | prediction) in bits over all pixels, background a segment: merging of true "
        "segments; the second number of scikit-image's variation_of_information(truth, prediction)",
        "vi_bits": "vi_split_bits + vi_merge_bits, the variation of information (Meila 2007)",
    }
)
"""What files say about each metric."""


def _table(true_ids: NDArray[np.int64], predicted_ids: NDArray[np.int64], counts: NDArray[np.int64]) -> Contingency:
    """Join entries of the same pair."""
    different_true, true = np.unique(true_ids, return_inverse=True)
    different_predicted, predicted = np.unique(predicted_ids, return_inverse=True)
    width = max(1, len(different_predicted))
    codes, pair = np.unique(true * width + predicted, return_inverse=True)
    # float64 is exact far beyond the number of pixels of any image.
    sums = np.bincount(pair, weights=counts, minlength=len(codes)).astype(np.int64)
    return Contingency(different_true[codes // width], different_predicted[codes % width], sums)


def _sizes(ids: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the number of pixels of each different id."""
    return np.bincount(np.unique(ids, return_inverse=True)[1], weights=counts).astype(np.int64)


def _apart(table: Contingency) -> tuple[Contingency, int]:
    """Return the table without the pixels predicted as 0, and how many these are."""
    kept = table.predicted_ids != 0
    rest = Contingency(table.true_ids[kept], table.predicted_ids[kept], table.counts[kept])
    return rest, int(table.counts[~kept].sum())


def _num_ordered_pairs(sizes: NDArray[np.int64]) -> int:
    """Return the sum of squares, in Python's integers: the pixels of a slide squared are more than int64 holds."""
    return sum(size * size for size in sizes.tolist())


def _num_pairs(sizes: NDArray[np.int64]) -> int:
    """Return the number of unordered pairs of different pixels within segments of these sizes."""
    return sum(size * (size - 1) // 2 for size in sizes.tolist())


def _information(all_of_truth: Contingency, segments: Contingency) -> InformationScore:
    """Return the information, where pixels that are not in `segments` are predicted segments of one pixel.

    With x log x summed over sizes, N H = N log N - sum; a segment of one pixel adds 0.
    """
    num_pixels = int(all_of_truth.counts.sum())
    whole = _sum_of_x_log_x(np.array([num_pixels]))
    in_truth = whole - _sum_of_x_log_x(_sizes(all_of_truth.true_ids, all_of_truth.counts))
    in_prediction = whole - _sum_of_x_log_x(_sizes(segments.predicted_ids, segments.counts))
    in_both = whole - _sum_of_x_log_x(segments.counts)
    # Rounding must not make information out of nothing, nor more than there is.
    mutual = min(max(0.0, in_truth + in_prediction - in_both), in_truth, in_prediction)
    return InformationScore(num_pixels, mutual, in_prediction, in_truth)


def _sum_of_x_log_x(sizes: NDArray[np.int64]) -> float:
    positive = np.sort(sizes[sizes > 0]).astype(np.float64)
    return float((positive * np.log2(positive)).sum())
