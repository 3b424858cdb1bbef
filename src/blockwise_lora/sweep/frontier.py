"""Several scores at once: what is not beaten, and which of it to recommend."""

from __future__ import annotations

import numpy as np


def pareto(scores: np.ndarray) -> np.ndarray:
    """Which rows no other row beats: at least as high everywhere and higher somewhere.

    Args:
        scores: (n, k), higher is better; a row with NaN is never on the frontier.

    Returns:
        (n,) bool.
    """
    known = ~np.isnan(scores).any(1)
    at_least = (scores[:, None] >= scores[None]).all(2)
    higher = (scores[:, None] > scores[None]).any(2)
    beats = at_least & higher & known[:, None]
    return known & ~beats.any(0)


def harmonic(scores: np.ndarray) -> np.ndarray:
    """Harmonic mean of each row, negatives taken as 0; 0 where any is 0.

    Args:
        scores: (n, k).
    """
    positive = np.maximum(scores, 0.0)
    with np.errstate(divide="ignore"):
        return scores.shape[1] / (1 / positive).sum(1)
