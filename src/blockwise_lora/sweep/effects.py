"""What a block does to each score: differences to the full pair, by training and by ablation.

Skipping a block can be tried in two ways. The mask is trained without it, so the other blocks may
make up for it; or the full adapter is trained once and the block is switched off afterwards, which
costs a few pictures only. Both are measured on the same prompts and seeds as the full pair, so
every difference is paired.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from blockwise_lora.judges.bootstrap import Interval, Scores, interval
from blockwise_lora.judges.protocol import BootstrapConfig
from blockwise_lora.judges.samples import Row
from blockwise_lora.judges.scores import Judged

SCORES = ("identity", "style", "prompt")
SMALLEST_EFFECT = 0.02
"""The smallest effect that matters. The more pictures, the smaller the effects that are outside
chance; a fiftieth of the way from base to real pictures is too little to choose a mask by."""


@dataclass(frozen=True)
class Agreement:
    """How far ablation after training foretells what training with the mask gives.

    Attributes:
        score: which score's effects were compared.
        correlation: Spearman's rank correlation over the masks; NaN below three masks or where one
            side does not vary.
        n: masks that were tried both ways.
        contradicted: masks whose two effects differ in sign, both outside chance and large enough
            to matter.
    """

    score: str
    correlation: float
    n: int
    contradicted: tuple[str, ...]


def scaled(judged: Judged, row: Row, score: str) -> Scores:
    """A row's scores with base pictures at 0 and real ones at 1, where the score has a scale."""
    raw = judged.scores(row, score)
    scale = judged.scales.get(score)
    return raw if scale is None else Scores(raw.prompts, raw.seeds, scale(raw.values))


def effect(
    judged: Judged, row: Row, against: Row, score: str, bootstrap: BootstrapConfig
) -> Interval:
    """How much higher `row` scores than `against`, on the scale of `scaled`, with its interval."""
    difference = scaled(judged, row, score) - scaled(judged, against, score)
    generator = np.random.default_rng(bootstrap.seed)
    return interval(difference, generator, bootstrap.draws, bootstrap.level)


def effects(
    judged: Judged,
    rows: Iterable[Row],
    against: Row,
    bootstrap: BootstrapConfig,
) -> dict[Row, dict[str, Interval]]:
    """The effect of every row on every score, and on identity and style at once (`combined`)."""
    scores = [*SCORES, *(["combined"] if "combined" in judged.values else [])]
    return {
        row: {score: effect(judged, row, against, score, bootstrap) for score in scores}
        for row in rows
    }


def matters(by: Interval, smallest: float = SMALLEST_EFFECT) -> bool:
    """Whether an effect is both outside chance and large enough to act on."""
    return by.excludes_zero and abs(by.mean) >= smallest


def agreement(
    score: str,
    trained: Mapping[str, Interval],
    ablated: Mapping[str, Interval],
    smallest: float = SMALLEST_EFFECT,
) -> Agreement:
    """Compare the two kinds of effect on one score.

    Args:
        score: its name.
        trained: mask to the effect of training with it.
        ablated: mask to the effect of switching the rest of the full adapter off.
        smallest: effect that matters.
    """
    masks = [
        mask
        for mask in trained
        if mask in ablated and not np.isnan([trained[mask].mean, ablated[mask].mean]).any()
    ]
    a, b = (np.array([side[mask].mean for mask in masks]) for side in (trained, ablated))
    contradicted = tuple(
        mask
        for mask in masks
        if matters(trained[mask], smallest)
        and matters(ablated[mask], smallest)
        and trained[mask].mean * ablated[mask].mean < 0
    )
    return Agreement(score, spearman(a, b), len(masks), contradicted)


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Rank correlation, ties at their mean rank; NaN where it has no meaning."""
    if len(a) < 3:
        return float("nan")
    ranks_a, ranks_b = _ranks(a), _ranks(b)
    if ranks_a.std() == 0 or ranks_b.std() == 0:
        return float("nan")
    return float(np.corrcoef(ranks_a, ranks_b)[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = counts.cumsum()
    return ((ends - counts + ends - 1) / 2)[inverse]
