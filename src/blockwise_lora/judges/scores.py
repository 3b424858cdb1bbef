"""Scores of single pictures.

    identity  mean cosine to the character's training pictures (DreamBooth's "DINO")
    style     mean cosine of style vectors to the style's pictures
    prompt    cosine to the prompt's plain words (DreamBooth's "CLIP-T")
    truth     cosine to the true picture, by the DINO judge
    combined  harmonic mean of identity and style, each rescaled so that base pictures have 0 and
              the real pictures that the adapter learned from 1, and at least 0

Those real pictures exist for every user, and they are what "like the character" means here. True
pictures would make a poor 1 for identity: a judge sees the style, too, and finds a character in
another style hardly more like itself than like its kind. They are a row of the table instead.

A picture is never compared with itself. The harmonic mean is of each picture, not of averages: half
of the pictures right in identity and the other half in style is no combination.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from blockwise_lora.judges.bootstrap import Scores
from blockwise_lora.judges.panel import Views
from blockwise_lora.judges.samples import (
    BASE,
    REAL_CHARACTER,
    REAL_STYLE,
    Question,
    References,
    Row,
    Sample,
)
from blockwise_lora.judges.style import StyleSpace

SCORES = ("combined", "identity", "style", "prompt", "truth")


@dataclass(frozen=True)
class Scale:
    """Where a score stands for base pictures and for real ones; NaN where there are none.

    Attributes:
        base, real: mean scores.
        error: standard error of their difference.
    """

    base: float
    real: float
    error: float = 0.0

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Values with base at 0 and real at 1; NaN unless real pictures score clearly higher."""
        span = self.real - self.base
        clear = span > max(2 * self.error, 1e-6)
        return (values - self.base) / span if clear else np.full_like(values, np.nan)


@dataclass(frozen=True)
class Judged:
    """Every picture's scores.

    Attributes:
        samples: n pictures.
        values: score name to (n,) values, NaN where a score does not apply.
        scales: of identity and style.
    """

    samples: tuple[Sample, ...]
    values: dict[str, np.ndarray]
    scales: dict[str, Scale]

    @property
    def rows(self) -> tuple[Row, ...]:
        """Rows in the order of their first picture."""
        return tuple(self._places)

    @cached_property
    def _places(self) -> dict[Row, list[int]]:
        """Row to the places of its pictures."""
        places: dict[Row, list[int]] = {}
        for i, sample in enumerate(self.samples):
            places.setdefault(sample.row, []).append(i)
        return places

    def scores(self, row: Row, score: str) -> Scores:
        """One row's values of one score, by prompt and seed.

        Where each prompt has seeds of its own, as many as the others, a column holds one of each.
        """
        own: dict[int, dict[int, float]] = {}
        for i in self._places.get(row, []):
            sample = self.samples[i]
            own.setdefault(sample.prompt, {})[sample.seed] = self.values[score][i]
        prompts = sorted(own)
        columns = _columns([sorted(own[prompt]) for prompt in prompts])
        table = [
            [own[prompt].get(column[k], np.nan) for column in columns]
            for k, prompt in enumerate(prompts)
        ]
        seeds = tuple(c[0] if len(set(c)) == 1 else c for c in columns)
        return Scores(tuple(prompts), seeds, np.array(table).reshape(len(prompts), len(columns)))


def _columns(seeds: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """A seed for each prompt in every column."""
    if len({len(own) for own in seeds}) == 1:
        return list(zip(*seeds, strict=True))
    return [(seed,) * len(seeds) for seed in sorted({seed for own in seeds for seed in own})]


def score_samples(
    samples: Sequence[Sample],
    questions: Sequence[Question],
    references: References,
    views: Views,
    texts: np.ndarray,
) -> Judged:
    """Score every sample.

    Args:
        samples: anchors and generated pictures.
        questions: by prompt index.
        references: what the adapters learned from.
        views: of every picture in the three above.
        texts: (questions, d) unit vectors of the questions' texts by the CLIP judge.
    """
    seen = views.of([sample.picture for sample in samples])
    character, style = views.of(references.character), views.of(references.style)
    space = StyleSpace.around(views.style[character], views.style[style])
    values = {
        "identity": _mean_cosine(views.dino, seen, character),
        "style": _mean_cosine(space.vectors(views.style), seen, style),
        "prompt": _prompt(samples, views.clip[seen], texts),
        "truth": _truth(samples, questions, views, seen),
    }
    scales = {
        "identity": _scale(samples, values["identity"], REAL_CHARACTER),
        "style": _scale(samples, values["style"], REAL_STYLE),
    }
    combined = harmonic_mean(*(scales[name](values[name]) for name in ("identity", "style")))
    return Judged(tuple(samples), {"combined": combined} | values, scales)


def harmonic_mean(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Element by element, negatives taken as 0; 0 where either is 0."""
    a, b = np.maximum(a, 0), np.maximum(b, 0)
    return 2 * a * b / np.maximum(a + b, 1e-12)


def _mean_cosine(vectors: np.ndarray, seen: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Mean cosine of pictures to the references that are not themselves; NaN if none is left."""
    cosines = vectors[seen] @ vectors[references].T
    other = seen[:, None] != references[None, :]
    count = other.sum(1)
    return np.where(count > 0, (cosines * other).sum(1) / np.maximum(count, 1), np.nan)


def _prompt(samples: Sequence[Sample], clip: np.ndarray, texts: np.ndarray) -> np.ndarray:
    cosines = (clip[i] @ texts[s.prompt] if s.prompted else np.nan for i, s in enumerate(samples))
    return np.fromiter(cosines, dtype=float, count=len(samples))


def _truth(
    samples: Sequence[Sample], questions: Sequence[Question], views: Views, seen: np.ndarray
) -> np.ndarray:
    values = np.full(len(samples), np.nan)
    for i, sample in enumerate(samples):
        truth = questions[sample.prompt].truth if sample.prompted else None
        if truth is not None:
            row = int(views.of([truth])[0])
            if row != seen[i]:
                values[i] = views.dino[seen[i]] @ views.dino[row]
    return values


def _scale(samples: Sequence[Sample], values: np.ndarray, real: str) -> Scale:
    """Anchors of one score: base pictures, and the real pictures of the row `real`."""
    names = np.array([sample.row.variant for sample in samples])
    means, variances = [], []
    for name in (BASE, real):
        picked = values[(names == name) & ~np.isnan(values)]
        means.append(float(picked.mean()) if len(picked) else float("nan"))
        variances.append(float(picked.var() / len(picked)) if len(picked) else 0.0)
    return Scale(*means, error=sum(variances) ** 0.5)
