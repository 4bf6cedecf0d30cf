"""How fast a cost grows: the exponent k of a + b·xᵏ, or of b·xᵏ."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import OptimizeWarning, curve_fit  # type: ignore[import-untyped]  # scipy ships no types

STEEPEST = 4.0
"""No cost here grows faster; a fit that knows nothing of the exponent ends at this bound, or at 0."""
PARAMETERS = {True: 3, False: 2}
Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Growth:
    """y = `fixed` + `varied` · (x / `last`)ᵏ, so that `varied` is what the last point adds; k is the `exponent`."""

    exponent: float
    fixed: float
    varied: float
    last: float

    def at(self, x: Values) -> Values:
        """Return the curve's height at some points."""
        return self.fixed + self.varied * (x / self.last) ** self.exponent


def growth(x: Sequence[float], y: Sequence[float], *, offset: bool) -> Growth | None:
    """Fit a growth to positive points, relative errors counting alike; None where there are fewer than parameters + 1.

    Without an `offset` nothing is fixed, and the exponent is the slope between the logarithms.
    """
    at, values = np.asarray(x, float), np.asarray(y, float)
    if len(at) <= PARAMETERS[offset]:
        return None
    last = float(at[-1])
    if not offset:
        slope, height = np.polyfit(np.log(at / last), np.log(values), 1)
        return Growth(float(slope), 0.0, float(np.exp(height)), last)
    smallest, largest = values.min(), values.max()
    guess = (1.0, 0.9 * smallest, largest - 0.9 * smallest)
    bounds = ((0.0, 0.0, 0.0), (STEEPEST, 2 * largest, 2 * largest))

    def curve(points: Values, exponent: float, fixed: float, varied: float) -> Values:
        return Growth(exponent, fixed, varied, last).at(points)

    with warnings.catch_warnings():
        # The covariance is of no use here, the intervals come from the rounds: it may be infinite.
        warnings.simplefilter("ignore", OptimizeWarning)
        found, _ = curve_fit(
            curve, at, values, p0=guess, sigma=values, bounds=bounds, x_scale=(1, largest, largest), max_nfev=10_000
        )
    exponent, fixed, varied = map(float, found)
    return Growth(exponent, fixed, varied, last)


def with_exponent(x: Sequence[float], y: Sequence[float], exponent: float, *, offset: bool) -> Growth:
    """Return the growth of this exponent that is closest to some points, relative errors counting alike."""
    at, values = np.asarray(x, float), np.asarray(y, float)
    last = float(at[-1])
    powers = (at / last) ** exponent
    if not offset:
        return Growth(exponent, 0.0, float(np.exp(np.mean(np.log(values / powers)))), last)
    fixed, varied = np.linalg.lstsq(np.stack([1 / values, powers / values], axis=1), np.ones_like(values))[0]
    return Growth(exponent, float(fixed), float(varied), last)
