"""Aggregated Jaccard index of instances (AJI, AJI+): pixels in common over pixels in either, of paired objects.

Both pair true objects G with predicted ones S and add up, over an image,

    intersection = sum of |G and S| over the pairs
    union        = sum of |G or S| over the pairs + |G| of every true object without a partner
                   + |S| of every predicted object that is nobody's partner

and are intersection / union. They differ in the pairs:

- **AJI** (Kumar et al. 2017, IEEE TMI 36:1550-1560, doi:10.1109/TMI.2017.2677499, algorithm 1): each true object takes
  the predicted one with the greatest IoU, whether or not another has it already. So what is predicted as one and is two
  counts twice in the union. Among equal IoUs the lowest id is taken.
- **AJI+** (published with HoVer-Net, Graham et al. 2019, Medical Image Analysis 58:101563,
  doi:10.1016/j.media.2019.101563): one to one, the pairing with the greatest sum of IoUs. Where several have it, which
  is taken, and so the value, is not defined by the source; here it is always the same one for the same objects.

Whatever shares a pixel can be a pair: there is no threshold. A true object that no predicted one touches has no
partner in either. (Read to the letter, the algorithm of 2017 gives it an arbitrary one; the program that its authors
published adds |G|, as here.) The program of the MoNuSeg contest and HoVer-Net's compute the same AJI; programs that
hand out every predicted object only once, in the order of the true ids, do not.

An image without objects, true and predicted, is undefined; one without true objects or without predicted ones has 0.
"""

from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from segkit.evaluation.assignment import heaviest_matching
from segkit.evaluation.estimates import ratio
from segkit.evaluation.objects import Overlaps

DEFINITIONS: Final = MappingProxyType(
    {
        "aji": "aggregated Jaccard index (Kumar et al. 2017): each true object is paired with the predicted one of "
        "greatest IoU, which others may have, too; sum of the pairs' intersections / (sum of their unions + areas of "
        "true objects that nothing overlaps + areas of predicted objects in no pair)",
        "aji_plus": "AJI+ (published with HoVer-Net, Graham et al. 2019): the same with pairs one to one, those with "
        "the greatest sum of IoUs; objects in no pair, true or predicted, add their areas to the union",
    }
)
"""What files say about each metric."""


def aji_px(overlaps: Overlaps) -> NDArray[np.int64]:
    """Return the aggregated intersection and union of AJI, int64 (2,), in pixels; those of images pool by adding."""
    # By true object; the first of each has the greatest IoU, among equals the lowest id.
    order = np.lexsort((overlaps.predicted, -overlaps.ious, overlaps.true))
    first = np.diff(overlaps.true[order], prepend=-1) > 0
    return _aggregate(overlaps, order[first])


def aji_plus_px(overlaps: Overlaps) -> NDArray[np.int64]:
    """Return the aggregated intersection and union of AJI+, int64 (2,), in pixels; those of images pool by adding."""
    return _aggregate(overlaps, heaviest_matching(overlaps.true, overlaps.predicted, overlaps.ious))


def aggregated_jaccard(px: NDArray[np.integer | np.floating]) -> NDArray[np.float64]:
    """Divide aggregated intersections by unions: (..., 2) -> (...), in 0..1 or NaN."""
    intersection, union = np.moveaxis(np.asarray(px, np.float64), -1, 0)
    return ratio(intersection, union)


def _aggregate(overlaps: Overlaps, pairs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the sums of intersections and of unions for these pairs of `overlaps`, each true object in at most one."""
    predicted = overlaps.predicted[pairs]
    intersection = overlaps.intersections[pairs].sum()
    # Every true object adds its area once, with its partner or alone; so does the partner of each, and who has none.
    union = overlaps.true_areas.sum() + overlaps.predicted_areas[predicted].sum() - intersection
    alone = np.ones(len(overlaps.predicted_areas), np.bool_)
    alone[predicted] = False
    return np.array([intersection, union + overlaps.predicted_areas[alone].sum()], np.int64)
