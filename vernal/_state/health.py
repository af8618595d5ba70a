"""Whether a running statistic settles: what to make of its history."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

Curve = Float[np.ndarray, " records"]

LEAST = 16  # records before anything but NaN is judged
DRIFT = 0.1  # of its size in the last quarter
JUMP = 0.25  # of its size from record to record
GROWTH = 4.0  # from the third quarter to the last


class History(NamedTuple):
    """One array of the state over time: a number for each record.

    Attributes:
        mean, std, min, max: of its entries.
        moved: root mean square of the change since the record before; 0 for the first.
    """

    mean: Curve
    std: Curve
    min: Curve
    max: Curve
    moved: Curve

    @property
    def size(self) -> Curve:
        """The root mean square of the entries."""
        return np.hypot(self.mean, self.std)


def verdict(history: History) -> str:
    """What is wrong with a running statistic, in a few words; empty if nothing is.

    - *not finite*: an entry is NaN or infinite in the last record.
    - *exploding*, *vanishing*: the size (root mean square of the entries) in the last
      quarter is over 4 times that in the third, or under a fourth of it.
    - *jumping*: the entries change by over 25 % of the size from record to record
      (median of the last quarter), so that no value is typical.
    - *drifting*: the line through the mean or the standard deviation of the entries
      rises or falls by over 10 % of the size within the last quarter, and by over three
      times the standard error of that: it is still on its way.

    Under 16 records only the first is judged.
    """
    last = np.array([x[-1:] for x in history])
    if not np.isfinite(last).all():
        return "not finite"
    n = len(history.mean)
    if n < LEAST:
        return ""
    third, late = (slice(n // 2, n - n // 4), slice(n - n // 4, n))
    size, before = np.median(history.size[late]), np.median(history.size[third])
    if not size > np.finfo(np.float32).tiny or not np.isfinite(before):
        return "vanishing" if before > np.finfo(np.float32).tiny else ""
    if size > GROWTH * before:
        return f"exploding: ×{size / before:.3g} since the third quarter"
    if size * GROWTH < before:
        return f"vanishing: ×{size / before:.2g} since the third quarter"
    jump = np.median(history.moved[late]) / size
    if jump > JUMP:
        return f"jumping: by {jump:.0%} from record to record"
    drift = max(_drift(curve[late]) for curve in (history.mean, history.std)) / size
    return f"drifting: by {drift:.0%} in the last quarter" if drift > DRIFT else ""


def _drift(curve: Curve) -> float:
    """How far the line through a curve goes; 0 if that may be chance."""
    n = len(curve)
    t = np.linspace(-0.5, 0.5, n)
    slope = t @ curve / (t @ t)
    rest = curve - curve.mean() - slope * t
    error = np.sqrt(rest @ rest / max(1, n - 2) / (t @ t))
    return float(abs(slope)) if abs(slope) > 3 * error else 0.0
