"""How many samples a percentile needs, and what it is with confidence: the rule by which MLPerf's LoadGen stops early.

Of n samples, those above the p-th percentile are binomial. Where t or fewer would be seen with a probability of at most
1 %, a run that had only t above some latency shows with 99 % confidence that its percentile is no higher (confidence
c = 0.99, tolerance d = 0; github.com/mlcommons/inference, loadgen/early_stopping.cc). It holds for samples that are
independent; a machine that is slow for a while makes them less so, which is why rounds are spread over the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from edge_cnnlstm.errors import DependencyError

CONFIDENCE = 0.99


def samples_needed(percent: float, above: int = 1) -> int:
    """Return the fewest samples of which so many may lie above a percentile: 662 for p99 and one, 2,010 for ten."""
    return int(_distributions().nbinom.ppf(CONFIDENCE, above + 1, 1 - percent / 100)) + above + 1


def allowed_above(percent: float, samples: int) -> int:
    """Return how many of so many samples may lie above a percentile; below 1 there are too few to say anything."""
    return int(_distributions().binom.ppf(1 - CONFIDENCE, samples, 1 - percent / 100)) - 1


def at_most(samples: Sequence[int], percent: float) -> int | None:
    """Return LoadGen's early-stopping estimate of a percentile; None for too few samples.

    It is the t-th largest sample where t may lie above: the percentile is no higher, with 99 % confidence.
    """
    above = allowed_above(percent, len(samples))
    return sorted(samples)[-above] if above > 0 else None


def _distributions() -> Any:
    try:
        return import_module("scipy.stats")
    except ImportError as error:
        raise DependencyError(
            f"cannot import scipy: {error}", expected="what computes confidence", fix="pip install scipy"
        ) from error
