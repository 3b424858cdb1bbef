"""Several scores at once: what is not beaten."""

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
