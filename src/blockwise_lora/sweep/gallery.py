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
from blockwise_lora.sweep.pictures import Brief, Stack, joined
from blockwise_lora.sweep.search import OBJECTIVES, Means
from blockwise_lora.sweep.studies import Pair
from blockwise_lora.sweep.workshop import Workshop

log = logging.getLogger(__name__)


class Gallery:
    """Samples and judges one candidate after the other.

    Half of the seeds may do for a first look; the other half is then sampled only for those that
    deserve it. What every candidate is judged with, the judges look at once.

    Args:
        shop: where it is done.
        brief: prompts and seeds.
        questions: the prompts as the judges see them.
    """

    def __init__(self, shop: Workshop, brief: Brief, questions: Sequence[Question]) -> None:
        self.shop, self.questions = shop, tuple(questions)
        self._without_scale: set[str] = set()
        half = max(1, len(brief.seeds) // 2)
        parts = (brief.seeds[:half], brief.seeds[half:])
        self._studios = [shop.studio(replace(brief, seeds=seeds)) for seeds in parts if seeds]

    def pictures(self, stack: Stack, only_half: bool = False) -> SampleSet:
        """A stack's pictures; what was sampled before is not again."""
        studios = self._studios[:1] if only_half else self._studios
        return joined(studio.samples(stack) for studio in studios)

    def trained(self, pair: Pair) -> Tried:
        """A pair with adapters of its own."""
        return Tried(pair, "trained", self.pictures(self.shop.trained(pair)))

    def ablated(self, pair: Pair, only_half: bool = False) -> Tried:
        """A pair that the full adapters are cut down to."""
        return Tried(pair, "ablated", self.pictures(self.shop.ablated(pair), only_half))

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
        return joined(studio.base_samples() for studio in self._studios)

    @cached_property
    def _seen(self) -> Views:
        """What the judges see of base pictures and references."""
        references = self.shop.references
        return self.shop.panel.look(
            [*references.character, *references.style, *self._base.pictures]
        )
