"""Pictures of many candidates on the same prompts and seeds, and their scores."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from math import isnan

from blockwise_lora.diffusion.samples import SampleSet
from blockwise_lora.judges.panel import Views
from blockwise_lora.judges.protocol import judge
from blockwise_lora.judges.samples import BASE, Question, Row, Sample
from blockwise_lora.judges.scores import Judged, harmonic_mean
from blockwise_lora.sweep.effects import scaled
from blockwise_lora.sweep.outcome import Outcome, Tried, assess
from blockwise_lora.sweep.pictures import Brief
from blockwise_lora.sweep.search import OBJECTIVES, Means
from blockwise_lora.sweep.studies import Pair
from blockwise_lora.sweep.workshop import Workshop

log = logging.getLogger(__name__)


class Gallery:
    """Samples and judges one candidate after the other.

    A first look may be quick: half of the seeds in half of the denoising steps, a quarter of the
    price. What every candidate is judged with, the judges look at once.

    Args:
        shop: where it is done.
        brief: prompts and seeds.
        questions: the prompts as the judges see them.
    """

    def __init__(self, shop: Workshop, brief: Brief, questions: Sequence[Question]) -> None:
        self.shop, self.questions = shop, tuple(questions)
        self._without_scale: set[str] = set()
        self._studio = shop.studio(brief)
        self._quick = shop.studio(_quick(brief))

    def trained(self, pair: Pair) -> Tried:
        """A pair with adapters of its own."""
        return Tried(pair, "trained", self._studio.samples(self.shop.trained(pair)))

    def ablated(self, pair: Pair, quick: bool = False) -> Tried:
        """A pair that the full adapters are cut down to."""
        studio = self._quick if quick else self._studio
        return Tried(pair, "ablated", studio.samples(self.shop.ablated(pair)))

    def scores(self, tried: Tried) -> Means:
        """Mean scores: base pictures at 0 and real ones at 1, where these differ.

        Where the base model's own pictures are as like the concept as its real ones, there is no
        such scale, and the judge's own score has to do: candidates still differ in it.
        """
        judged = self.judged([tried])
        means = [self._mean(judged, tried.row, score) for score in OBJECTIVES]
        combined = float(scaled(judged, tried.row, "combined").values.mean())
        return Means(*means, float(harmonic_mean(*means[:2])) if isnan(combined) else combined)

    def _mean(self, judged: Judged, row: Row, score: str) -> float:
        mean = float(scaled(judged, row, score).values.mean())
        if not isnan(mean):
            return mean
        if score not in self._without_scale:
            self._without_scale.add(score)
            log.warning(
                "sweep.search: the judge of %s does not tell the pictures learned from from the "
                "base model's own, so its plain score is compared. More pictures_per_prompt, or "
                "other judges, may give it a scale.",
                score,
            )
        return float(judged.scores(row, score).values.mean())

    def judged(self, tried: Sequence[Tried]) -> Judged:
        """Candidates' pictures beside all base pictures, which the scale is read from."""
        samples = [
            Sample(t.row, r.prompt_index, r.seed, picture)
            for t in tried
            for r, picture in t.samples
        ]
        base = [Sample(Row(BASE), r.prompt_index, r.seed, picture) for r, picture in self._base]
        shop = self.shop
        return judge(shop.panel, base + samples, self.questions, shop.references, self._seen)

    def outcome(self, name: str, tried: Sequence[Tried]) -> Outcome:
        """Everything about candidates whose pictures are all there; see `assess`."""
        shop = self.shop
        about = shop.references, shop.bootstrap, shop.smallest_effect
        return assess(name, tried, self._base, shop.panel, self.questions, *about)

    @cached_property
    def _base(self) -> SampleSet:
        """The base model's pictures."""
        return self._studio.base_samples()

    @cached_property
    def _seen(self) -> Views:
        """What the judges see of base pictures and references."""
        references = self.shop.references
        return self.shop.panel.look(
            [*references.character, *references.style, *self._base.pictures]
        )


def _quick(brief: Brief) -> Brief:
    sampling = replace(brief.sampling, steps=max(1, brief.sampling.steps // 2))
    halves = tuple(own[: max(1, len(own) // 2)] for own in brief.seeds_by_prompt)
    return replace(brief, seeds=halves, sampling=sampling)
