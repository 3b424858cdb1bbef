"""The search from beginning to end, and the one pair of masks that comes out of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, median

import optuna

from blockwise_lora.judges.samples import Question
from blockwise_lora.sweep.candidates import Candidate, Space, everything, shared_out
from blockwise_lora.sweep.effects import effects
from blockwise_lora.sweep.gallery import Gallery
from blockwise_lora.sweep.outcome import Outcome, row_of
from blockwise_lora.sweep.pictures import Brief
from blockwise_lora.sweep.search import Guess, affordable, promising, recommend, screen
from blockwise_lora.sweep.sensitivity import gradient_norms, needs, pulls_apart
from blockwise_lora.sweep.studies import CONCEPTS, FULL, Pair, skip
from blockwise_lora.sweep.workshop import Workshop

FULL_PAIR = Pair(FULL, FULL)
MASK_PRICE = 0.5
"""What a mask costs in a pass with others, in trainings of a full adapter: 0.4 (eight in a pass) to
0.65 (alone) on the embedded model, see benchmarks/training.py. Said beforehand, since finalists are
chosen before they are trained."""
PULLS = 4
"""Batches over which gradients are averaged: noise levels are spread over each, so few will do."""


@dataclass(frozen=True)
class Budget:
    """What a search may cost.

    Attributes:
        trainings: in times of one single training of a full adapter, the two full ones that the
            search starts from included.
        screening: share of what is left after those two that goes into guesses without training.
        finalists: candidates that are trained at most; fewer where the price allows no more.
    """

    trainings: float = 4.0
    screening: float = 0.5
    finalists: int = 8

    def __post_init__(self) -> None:
        mistakes = []
        if self.trainings <= 2:
            mistakes.append("trainings is above 2: two full adapters are trained first")
        if not 0 <= self.screening < 1:
            mistakes.append(f"screening is in [0, 1), not {self.screening}")
        if self.finalists < 1:
            mistakes.append(f"finalists is at least 1, not {self.finalists}")
        if mistakes:
            raise ValueError("\n".join(mistakes))


@dataclass(frozen=True)
class Found:
    """The outcome of a search.

    Attributes:
        screened: candidates that were looked at without training, best first.
        trained: those that were trained, with their scores on the search's pictures.
        recommended: the pair to use.
        outcome: on the search's pictures: the full pair, the trained candidates, and each block of
            the full adapters switched off.
        confirmed: the recommended pair beside the full one, on prompts and seeds that the search
            did not see: its scores are what to expect.
        seconds: of the search, confirmation left out.
    """

    screened: tuple[Guess, ...]
    trained: tuple[Guess, ...]
    recommended: Pair
    outcome: Outcome
    confirmed: Outcome
    seconds: float


class Search:
    """Screens, trains and confirms.

    Args:
        shop: where it is done.
        space: what may be chosen.
        study: Optuna's, see `open_study`.
        brief: prompts and seeds of the search.
        questions: the prompts as the judges see them.
        budget: what it may cost.
    """

    def __init__(
        self,
        shop: Workshop,
        space: Space,
        study: optuna.Study,
        brief: Brief,
        questions: Sequence[Question],
        budget: Budget,
    ) -> None:
        self.shop, self.space, self.study = shop, space, study
        self.brief, self.budget = brief, budget
        self.gallery = Gallery(shop, brief, questions)

    def run(self, confirm: Brief, questions: Sequence[Question]) -> Found:
        """Search, then confirm.

        Args:
            confirm: prompts and seeds of the confirmation.
            questions: its prompts as the judges see them.

        Raises:
            TrainingError: a full adapter cannot be trained.
            ValueError: search and confirmation share both a prompt and a seed.
        """
        _kept_apart(self.brief, confirm)
        began = time.monotonic()
        self.shop.train([FULL_PAIR])
        unit = mean(self.shop.entry(c, FULL).cost.seconds for c in CONCEPTS)
        # Two that the bank had have their price all the same.
        spent = max(time.monotonic() - began, 2 * unit)
        ends = time.monotonic() + self.budget.trainings * unit - spent
        a_look = self._screen(ends)
        screened = promising(self.study, self.space)
        price, left = unit * MASK_PRICE, ends - time.monotonic()
        finalists = affordable(
            screened, lambda c, m: self.shop.entry(c, m).trained, left / price, a_look / price
        )
        trained = self._train(finalists[: self.budget.finalists])
        seconds = time.monotonic() - began
        best = recommend(trained).candidate.pair
        return Found(
            screened=tuple(screened),
            trained=tuple(trained),
            recommended=best,
            outcome=self._outcome([guess.candidate.pair for guess in trained]),
            confirmed=self._confirm(best, confirm, questions),
            seconds=seconds,
        )

    def _screen(self, ends: float) -> float:
        """Look at candidates for a share of the time that is left.

        Args:
            ends: when the whole search should.

        Returns:
            Seconds that sampling and judging all pictures of a candidate takes.
        """
        until = time.monotonic() + (ends - time.monotonic()) * self.budget.screening
        halves: list[float] = []

        def look(candidate: Candidate, only_half: bool) -> tuple[float, float, float]:
            began = time.monotonic()
            scores = self.gallery.scores(self.gallery.ablated(candidate.pair, only_half))
            if only_half:
                halves.append(time.monotonic() - began)
            return scores

        first = [
            everything(self.space),
            shared_out(self.space, self._needs()),
            shared_out(self.space, self._pulls()),
        ]
        tried = len(set(first))
        screen(
            self.study,
            self.space,
            first,
            look,
            lambda n: n >= tried and time.monotonic() > until,
        )
        return 2 * median(halves or [0.0])

    def _needs(self) -> dict[str, float]:
        """From switching each block off in either full adapter."""
        pairs = [FULL_PAIR, *self._skips()]
        judged = self.gallery.judged([self.gallery.ablated(p, only_half=True) for p in pairs])
        rows = [row_of(pair, "ablated") for pair in pairs]
        return needs(effects(judged, rows, rows[0], self.shop.bootstrap), self._blocks)

    def _pulls(self) -> dict[str, float]:
        """From how hard either lesson pulls at each block before anything is learned."""
        base, lessons = self.shop.base, self.shop.lessons
        return pulls_apart({c: gradient_norms(base, lessons[c], PULLS) for c in CONCEPTS})

    @property
    def _blocks(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(b for names in self.space.blocks.values() for b in names))

    def _skips(self) -> list[Pair]:
        skips = [skip(block) for block in self._blocks]
        return [Pair(m, FULL) for m in skips] + [Pair(FULL, m) for m in skips]

    def _outcome(self, trained: Sequence[Pair]) -> Outcome:
        """Everything on the search's own pictures; most of them were sampled before."""
        pairs = dict.fromkeys((FULL_PAIR, *trained))
        tried = [self.gallery.trained(pair) for pair in pairs]
        tried += [self.gallery.ablated(pair) for pair in self._skips()]
        return self.gallery.outcome("search", tried)

    def _confirm(self, pair: Pair, brief: Brief, questions: Sequence[Question]) -> Outcome:
        elsewhere = Gallery(self.shop, brief, questions)
        pairs = dict.fromkeys((FULL_PAIR, pair))
        return elsewhere.outcome("confirmation", [elsewhere.trained(p) for p in pairs])

    def _train(self, guesses: Sequence[Guess]) -> list[Guess]:
        """Train the finalists in as few passes as may be, and score them."""
        candidates = {guess.candidate.pair: guess.candidate for guess in guesses}
        return [
            Guess(candidates[pair], self.gallery.scores(self.gallery.trained(pair)))
            for pair in self.shop.train(list(candidates))
        ]


def _kept_apart(search: Brief, confirm: Brief) -> None:
    prompts = set(search.templates) & set(confirm.templates)
    seeds = set(search.seeds) & set(confirm.seeds)
    if prompts or seeds:
        shared = ", ".join(sorted(prompts) or map(str, sorted(seeds)))
        raise ValueError(
            f"search and confirmation share {'prompts' if prompts else 'seeds'} ({shared}): what "
            "was searched with cannot confirm"
        )
