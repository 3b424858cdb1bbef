"""What a sweep found: scores and effects of every pair of masks, and what to take from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from blockwise_lora.diffusion.samples import SampleSet
from blockwise_lora.judges.bootstrap import Interval, interval
from blockwise_lora.judges.panel import Panel
from blockwise_lora.judges.protocol import BootstrapConfig, judge
from blockwise_lora.judges.samples import BASE, Question, References, Row, Sample
from blockwise_lora.judges.scores import Judged
from blockwise_lora.sweep.effects import (
    SCORES,
    SMALLEST_EFFECT,
    Agreement,
    agreement,
    effects,
    scaled,
)
from blockwise_lora.sweep.frontier import pareto
from blockwise_lora.sweep.studies import CONCEPTS, FULL, Concept, Pair

Kind = Literal["trained", "ablated"]
AXES = ("identity", "style", "prompt")


@dataclass(frozen=True)
class Tried:
    """A pair of masks with its pictures.

    Attributes:
        pair: the masks.
        kind: trained with them, or cut down to them afterwards.
        samples: its pictures, both adapters active.
    """

    pair: Pair
    kind: Kind
    samples: SampleSet

    @property
    def row(self) -> Row:
        return row_of(self.pair, self.kind)


def row_of(pair: Pair, kind: Kind = "trained") -> Row:
    """The row of a pair in the table."""
    return Row(f"{pair}{'' if kind == 'trained' else ' (ablated)'}", "both")


@dataclass(frozen=True)
class Outcome:
    """The answer of a sweep.

    Attributes:
        study: its name.
        judged: every picture's scores.
        trained, ablated: the pairs that were tried, in the order of the study.
        scores: row, then score, to its mean with interval; identity and style with base pictures
            at 0 and the pictures learned from at 1.
        effects: row, then score, to the difference to the full pair, likewise.
        agreements: how far ablation foretold training, by concept and score.
        smallest_effect: that matters.
    """

    study: str
    judged: Judged
    trained: tuple[Pair, ...]
    ablated: tuple[Pair, ...]
    scores: Mapping[Row, Mapping[str, Interval]]
    effects: Mapping[Row, Mapping[str, Interval]]
    agreements: Mapping[Concept, tuple[Agreement, ...]]
    smallest_effect: float = SMALLEST_EFFECT

    @property
    def frontier(self) -> tuple[Pair, ...]:
        """Trained pairs that no other trained pair beats in identity, style and prompt at once."""
        table = [[self.scores[row_of(p)][axis].mean for axis in AXES] for p in self.trained]
        kept = pareto(np.array(table)) if table else []
        return tuple(p for p, keep in zip(self.trained, kept, strict=True) if keep)

    @property
    def best(self) -> Pair:
        """The trained pair with the highest harmonic mean of identity and style.

        Among equals (no picture has both) the one whose weaker score is higher. It is chosen by the
        very pictures that it is scored on, so its score flatters it a little.
        """

        def merit(pair: Pair) -> tuple[float, float]:
            found = self.scores[row_of(pair)]
            means = [found[score].mean for score in ("combined", "identity", "style")]
            combined, *both = np.nan_to_num(means, nan=-1.0)
            return float(combined), float(min(both))

        return max(self.trained, key=merit)


def assess(
    study: str,
    tried: Sequence[Tried],
    base: SampleSet,
    panel: Panel,
    questions: Sequence[Question],
    references: References,
    bootstrap: BootstrapConfig,
    smallest_effect: float = SMALLEST_EFFECT,
) -> Outcome:
    """Judge every picture of a sweep in one go.

    Args:
        study: its name.
        tried: the pairs; the full pair, trained, must be among them.
        base: the base model's own pictures.
        panel: the judges.
        questions: by prompt index.
        references: what the adapters learned from.
        bootstrap: how intervals are made.
        smallest_effect: that matters.

    Raises:
        ValueError: the full pair is missing.
        JudgeError: a judge cannot do its work.
    """
    full = row_of(Pair(FULL, FULL))
    if full not in {t.row for t in tried}:
        raise ValueError("the pair of full adapters is what all others are compared with")
    samples = [s for t in tried for s in _samples(t.row, t.samples)]
    judged = judge(panel, _samples(Row(BASE), base) + samples, questions, references)
    rows = [t.row for t in tried]
    found = effects(judged, rows, full, bootstrap)
    pairs = {
        kind: tuple(t.pair for t in tried if t.kind == kind) for kind in ("trained", "ablated")
    }
    return Outcome(
        study=study,
        judged=judged,
        trained=pairs["trained"],
        ablated=pairs["ablated"],
        scores={row: _intervals(judged, row, bootstrap) for row in rows},
        effects=found,
        agreements={c: _agreements(c, found, pairs["trained"], smallest_effect) for c in CONCEPTS},
        smallest_effect=smallest_effect,
    )


def _samples(row: Row, made: SampleSet) -> list[Sample]:
    return [Sample(row, r.prompt_index, r.seed, picture) for r, picture in made]


def _intervals(judged: Judged, row: Row, bootstrap: BootstrapConfig) -> dict[str, Interval]:
    def bounds(score: str) -> Interval:
        generator = np.random.default_rng(bootstrap.seed)
        return interval(scaled(judged, row, score), generator, bootstrap.draws, bootstrap.level)

    return {score: bounds(score) for score in judged.values}


def _agreements(
    concept: Concept,
    found: Mapping[Row, Mapping[str, Interval]],
    pairs: Sequence[Pair],
    smallest: float,
) -> tuple[Agreement, ...]:
    """Over the pairs in which this concept's mask alone varies."""
    other = "style" if concept == "character" else "character"
    alone = {
        getattr(p, concept): p
        for p in pairs
        if getattr(p, other) == FULL and getattr(p, concept) != FULL
    }

    def side(kind: Kind, score: str) -> dict[str, Interval]:
        rows = {mask: row_of(pair, kind) for mask, pair in alone.items()}
        return {mask: found[row][score] for mask, row in rows.items() if row in found}

    return tuple(agreement(s, side("trained", s), side("ablated", s), smallest) for s in SCORES)
