"""Intervals by the bootstrap, clustered by prompt.

Pictures of one prompt resemble each other, so they are no independent draws: prompts are drawn with
replacement first, then seeds within each of them (Davison and Hinkley 1997, section 3.8). Two
variants that were given the same prompts and seeds are compared by their paired differences, in
which what the prompt and the noise contribute cancels out.
"""

from dataclasses import dataclass

import numpy as np

DRAWS = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean with its interval.

    Attributes:
        mean: the estimate; NaN where there was nothing to measure.
        low, high: limits of the interval; NaN likewise.
        n: pictures behind it.
    """

    mean: float
    low: float
    high: float
    n: int

    @property
    def excludes_zero(self) -> bool:
        """Whether zero lies outside; never so where there was nothing to measure."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Scores:
    """One score of one row's pictures, by prompt and seed.

    Attributes:
        prompts: identity of each prompt (or other cluster), p.
        seeds: identity of each column, s: a seed, or one for each prompt.
        values: (p, s) scores, NaN where there is no picture or nothing to compare it with.
    """

    prompts: tuple[int, ...]
    seeds: tuple[int | tuple[int, ...], ...]
    values: np.ndarray

    def __sub__(self, other: "Scores") -> "Scores":
        """Differences on the prompts that both have: by seed where seeds agree, else of means."""
        prompts = tuple(sorted(set(self.prompts) & set(other.prompts)))
        a, b = self._rows(prompts), other._rows(prompts)
        if self.seeds == other.seeds:
            return Scores(prompts, self.seeds, a - b)
        if len(other.seeds) == 1:
            return Scores(prompts, self.seeds, a - b)
        if len(self.seeds) == 1:
            return Scores(prompts, other.seeds, a - b)
        return Scores(prompts, (0,), mean_of(a, axis=1)[:, None] - mean_of(b, axis=1)[:, None])

    def _rows(self, prompts: tuple[int, ...]) -> np.ndarray:
        return self.values[[self.prompts.index(prompt) for prompt in prompts]]


def mean_of(values: np.ndarray, axis: int) -> np.ndarray:
    """Mean over what is not NaN; NaN where there is nothing."""
    there = ~np.isnan(values)
    count = there.sum(axis)
    total = np.where(there, values, 0.0).sum(axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def interval(
    scores: Scores, generator: np.random.Generator, draws: int = DRAWS, level: float = LEVEL
) -> Interval:
    """Percentile interval of the mean over prompts of the mean over seeds.

    With few prompts it is somewhat too narrow, as every percentile bootstrap is; with one prompt
    it says nothing about other prompts.

    Args:
        scores: of one row, or the difference of two.
        generator: of the resampling.
        draws: bootstrap samples.
        level: coverage aimed at.
    """
    values = scores.values[~np.isnan(scores.values).all(axis=1)]
    p, s = values.shape
    if p == 0:
        return Interval(np.nan, np.nan, np.nan, 0)
    mean = float(mean_of(mean_of(values, 1), 0))
    prompt = generator.integers(p, size=(draws, p, 1))
    seed = generator.integers(s, size=(draws, p, s))
    means = mean_of(mean_of(values[prompt, seed], 2), 1)
    low, high = np.nanquantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean, float(low), float(high), int((~np.isnan(values)).sum()))
