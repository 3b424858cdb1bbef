"""Pictures of many candidates on the same prompts and seeds, and their scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from math import isnan

from blockwise_lora.diffusion.samples import SampleSet
from blockwise_lora.errors import UserError
from blockwise_lora.judges.panel import Views
from blockwise_lora.judges.protocol import judge
from blockwise_lora.judges.samples import BASE, Question, Row, Sample
from blockwise_lora.judges.scores import Judged
from blockwise_lora.sweep.effects import scaled
from blockwise_lora.sweep.outcome import Outcome, Tried, assess
from blockwise_lora.sweep.pictures import Brief, Stack, joined
from blockwise_lora.sweep.search import OBJECTIVES
from blockwise_lora.sweep.studies import Pair
from blockwise_lora.sweep.workshop import Workshop


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

    def scores(self, tried: Tried) -> tuple[float, float, float]:
        """Means of OBJECTIVES.

        Raises:
            UserError: the judges have no scale for identity or style.
        """
        judged = self.judged([tried])
        found = tuple(float(scaled(judged, tried.row, s).values.mean()) for s in OBJECTIVES)
        if any(map(isnan, found)):
            raise UserError(
                "sweep.search: the judges do not tell the pictures learned from from the base "
                "model's own, so there is no scale to search on. Add pictures, sample more per "
                "prompt, or name other judges."
            )
        return found

    def judged(self, tried: Sequence[Tried]) -> Judged:
        """Candidates' pictures beside the base pictures of the same seeds."""
        samples = [
            Sample(t.row, r.prompt_index, r.seed, picture)
            for t in tried
            for r, picture in t.samples
        ]
        seeds = {sample.seed for sample in samples}
        base = [
            Sample(Row(BASE), r.prompt_index, r.seed, picture)
            for r, picture in self._base
            if r.seed in seeds
        ]
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
