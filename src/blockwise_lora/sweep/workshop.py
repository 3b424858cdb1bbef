"""Where a sweep is carried out: model, lessons, judges, and what was made so far."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from blockwise_lora.blocks.structure import BlockMap
from blockwise_lora.diffusion.base import BaseModel
from blockwise_lora.judges.panel import Panel
from blockwise_lora.judges.protocol import BootstrapConfig
from blockwise_lora.judges.samples import Question, References
from blockwise_lora.sweep.bank import Bank, Entry, Lesson
from blockwise_lora.sweep.effects import SMALLEST_EFFECT
from blockwise_lora.sweep.outcome import Outcome, Tried, assess
from blockwise_lora.sweep.pictures import Brief, Stack, Studio, ablated_stack, trained_stack
from blockwise_lora.sweep.studies import CONCEPTS, FULL, TEXT, Concept, Pair, Study, shown_blocks
from blockwise_lora.sweep.training import Trainer, TrainHere, train_missing

log = logging.getLogger(__name__)


@dataclass
class Workshop:
    """All that a sweep works with; what it makes is kept in `bank` and `pictures`.

    Attributes:
        base: the model.
        lessons: of both concepts.
        panel: the judges.
        references: what the adapters learn from.
        bank: trained adapters.
        pictures: folder of sampled pictures.
        bootstrap: how intervals are made.
        smallest_effect: of a mask that matters.
        at_once: adapters in a training pass.
        trainer: who trains: this process, or workers elsewhere.
        on_trained: called for each new adapter.
    """

    base: BaseModel
    lessons: Mapping[Concept, Lesson]
    panel: Panel
    references: References
    bank: Bank
    pictures: Path
    bootstrap: BootstrapConfig
    smallest_effect: float = SMALLEST_EFFECT
    at_once: int = 8
    trainer: Trainer = field(default_factory=TrainHere)
    on_trained: Callable[[Entry], None] = lambda _: None

    @cached_property
    def blocks(self) -> BlockMap:
        """Of the base model, its text encoders included."""
        return self.base.blocks

    def train(self, pairs: Sequence[Pair]) -> tuple[Pair, ...]:
        """Train what the bank lacks; returns the pairs whose adapters both came to something.

        Raises:
            TrainingError: a full adapter did not, so that there is nothing to compare with.
        """
        lost: set[tuple[str, str]] = set()
        for concept in CONCEPTS:
            masks = tuple(dict.fromkeys(getattr(pair, concept) for pair in pairs))
            failed = train_missing(
                self.base,
                self.lessons[concept],
                masks,
                self.bank,
                at_once=self.at_once,
                trainer=self.trainer,
                on_trained=self.on_trained,
            )
            for failure in failed:
                if failure.name == FULL:
                    raise failure.error
                log.warning("%s: mask %s is left out: %s", concept, failure.name, failure.error)
                lost.add((concept, failure.name))
        return tuple(p for p in pairs if not any((c, getattr(p, c)) in lost for c in CONCEPTS))

    def entry(self, concept: Concept, mask: str) -> Entry:
        """A mask's place in the bank."""
        return self.bank.entry(self.base, self.lessons[concept], mask)

    def trained(self, pair: Pair) -> Stack:
        """The pair's own adapters."""
        return trained_stack(pair, {c: self.entry(c, getattr(pair, c)) for c in CONCEPTS})

    def ablated(self, pair: Pair) -> Stack:
        """The full adapters, cut down to the pair's masks."""
        full = {c: self.entry(c, FULL) for c in CONCEPTS}
        specs = {c: self.lessons[c].spec for c in CONCEPTS}
        return ablated_stack(pair, full, self.blocks, specs)

    def studio(self, brief: Brief) -> Studio:
        """Where stacks are sampled."""
        return Studio(self.base, brief, self.pictures)


def run_study(shop: Workshop, study: Study, brief: Brief, questions: Sequence[Question]) -> Outcome:
    """Train every mask of a study, ablate the full adapters alike, and judge it all.

    Only pairs in which one mask varies are ablated: of combinations the two kinds would say little.
    Masks with `base` are not: the full adapters have nothing in the text encoders to switch off.

    Args:
        shop: where it is done.
        study: the pairs; the full pair is added where it is missing.
        brief: prompts, seeds, words, sampler.
        questions: the prompts as the judges see them.

    Raises:
        TrainingError: a full adapter cannot be trained.
    """
    full = Pair(FULL, FULL)
    pairs = shop.train(tuple(dict.fromkeys((full, *study.pairs))))
    single = [p for p in pairs if p != full and FULL in (p.character, p.style)]
    single = [p for p in single if TEXT not in shown_blocks(shop.blocks, [p])]
    studio = shop.studio(brief)
    base = studio.base_samples()
    log.info("%s: pictures of %d pairs", study.name, len(pairs) + len(single))
    tried = [Tried(p, "trained", studio.samples(shop.trained(p))) for p in pairs]
    tried += [Tried(p, "ablated", studio.samples(shop.ablated(p))) for p in single]
    about = shop.references, shop.bootstrap, shop.smallest_effect
    return assess(study.name, tried, base, shop.panel, questions, *about)
