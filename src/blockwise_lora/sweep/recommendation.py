"""The search from beginning to end, and the one pair of masks that comes out of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import mean, median

import optuna

from blockwise_lora.errors import UserError
from blockwise_lora.judges.samples import Question
from blockwise_lora.sweep.budget import Budget
from blockwise_lora.sweep.candidates import (
    Candidate,
    Space,
    alone,
    everything,
    shared_out,
    skips,
    without,
)
from blockwise_lora.sweep.gallery import Gallery
from blockwise_lora.sweep.outcome import Outcome
from blockwise_lora.sweep.pictures import Brief
from blockwise_lora.sweep.search import (
    SEEN_AGAIN,
    Guess,
    Means,
    affordable,
    best_first,
    looked_at,
    screen,
    worth,
)
from blockwise_lora.sweep.sensitivity import (
    ballast,
    foretold,
    gradient_norms,
    needs,
    pulls_apart,
    shares,
)
from blockwise_lora.sweep.studies import CONCEPTS, FULL, Concept, Pair, skip
from blockwise_lora.sweep.workshop import Workshop

log = logging.getLogger(__name__)

FULL_PAIR = Pair(FULL, FULL)
FORWARD, EACH_BLOCK = 0.4, 0.6
"""What a mask's training costs, in trainings of a full adapter: the forward pass, and the rest by
the share of blocks that it trains. As measured on the embedded model to 0.1 and a little too dear
(see benchmarks/training.py, step time by mask); finalists are chosen before they are trained."""
PULLS = 4
"""Batches over which gradients are averaged: noise levels are spread over each, so few will do."""
A_LOOK = 0.05
"""Price of a candidate that needs no training, likewise: pictures and scores."""
KEPT_BACK = 0.03
"""Share of the whole price that is kept back: searches took up to that much more than reckoned."""
PULLED = 0.01
"""Share of its lesson's gradient from which on a block is left out by itself and tried by itself:
for the others neither makes a difference."""


@dataclass(frozen=True)
class Found:
    """The outcome of a search.

    Attributes:
        screened: candidates that were looked at twice, and what is foretold of their training, best
            first; the full pair with its own scores.
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
            UserError: search and confirmation share a prompt or a seed.
        """
        keep_apart(self.brief, confirm)
        began = time.monotonic()
        self.shop.train([FULL_PAIR])
        unit = mean(self.shop.entry(c, FULL).cost.seconds for c in CONCEPTS)
        # Two that the bank had have their price all the same.
        spent = max(time.monotonic() - began, 2 * unit)
        price = self.budget.trainings * (1 - KEPT_BACK) * unit
        ends = time.monotonic() + price - spent
        self._look(time.monotonic() + (ends - time.monotonic()) * self.budget.screening)
        full, others, a_look = self._look_again()
        finalists = affordable(
            others,
            lambda c, mask: self.shop.entry(c, mask).trained,
            lambda candidate, c: unit * _share(candidate, c),
            a_look,
            ends - time.monotonic(),
        )
        if not finalists:
            log.warning("sweep.search.trainings: the price left no candidate to train")
        trained = best_first([full, *self._train(finalists[: self.budget.finalists - 1])])
        seconds = time.monotonic() - began
        best = trained[0].candidate.pair
        return Found(
            screened=tuple(best_first([full, *others])),
            trained=tuple(trained),
            recommended=best,
            outcome=self._outcome([guess.candidate.pair for guess in trained]),
            confirmed=self._confirm(best, confirm, questions),
            seconds=seconds,
        )

    def _look(self, until: float) -> None:
        """Quick pictures of many candidates, until the time has come."""
        space, whole = self.space, everything(self.space)
        off, only = (
            {key: c for key, c in kind.items() if self._shares[key[0]].get(key[1], 0.0) >= PULLED}
            for kind in (skips(space), alone(space))
        )
        self._screen([whole, *off.values(), *only.values()], until=0.0)
        known = {g.candidate: g.scores for g in looked_at(self.study, space)}
        full = known.get(whole) or self._quick(whole)  # another worker may be at work on it
        without_one = {key: known[c] for key, c in off.items() if c in known}
        divided = [
            without(space, ballast(full, without_one, self.shop.smallest_effect)),
            shared_out(space, needs(full, without_one)),
            shared_out(space, pulls_apart(self._shares)),
        ]
        self._screen(divided, until)

    def _screen(self, first: Sequence[Candidate], until: float) -> None:
        """These candidates, and Optuna's own until the time has come."""
        known = {guess.candidate for guess in looked_at(self.study, self.space)}
        first = [candidate for candidate in first if candidate.trains_both]
        new = len(set(first) - known)

        def enough(looked: int) -> bool:
            return looked >= new and time.monotonic() >= until

        screen(self.study, self.space, first, self._quick, enough)

    def _look_again(self) -> tuple[Guess, list[Guess], float]:
        """All pictures of the full pair, and of the others that promise most once trained.

        Returns:
            The full pair; the others, those first that are most worth their price; and the median
            seconds of such a look.
        """
        whole, took = everything(self.space), []

        def look(candidate: Candidate) -> Means:
            began = time.monotonic()
            scores = self.gallery.scores(self.gallery.ablated(candidate.pair))
            took.append(time.monotonic() - began)
            return scores

        quick = {g.candidate: g.scores for g in looked_at(self.study, self.space)}
        start = quick.pop(whole, None) or self._quick(whole)
        hopeful = [self._foretold(c, found, start) for c, found in quick.items()]
        hopeful = self._most_worth(hopeful, start)[: max(1, len(quick) // SEEN_AGAIN)]
        full = look(whole)
        others = [self._foretold(g.candidate, look(g.candidate), full) for g in hopeful]
        return Guess(whole, full), self._most_worth(others, full), median(took)

    def _most_worth(self, guesses: Sequence[Guess], full: Means) -> list[Guess]:
        """First those that promise most over the full pair for their price."""
        # What is foretold is a mean of means, so it is compared with the like.
        than = self._foretold(everything(self.space), full, full).scores

        def key(guess: Guess) -> float:
            masks = [(c, getattr(guess.candidate.pair, c)) for c in CONCEPTS]
            new = [c for c, mask in masks if not self.shop.entry(c, mask).trained]
            price = sum(_share(guess.candidate, c) for c in new)
            return worth(guess, than, max(price, A_LOOK))

        return sorted(guesses, key=key, reverse=True)

    def _foretold(self, candidate: Candidate, ablated: Means, full: Means) -> Guess:
        return Guess(candidate, foretold(ablated, full, candidate, self._shares))

    def _quick(self, candidate: Candidate) -> Means:
        return self.gallery.scores(self.gallery.ablated(candidate.pair, quick=True))

    @cached_property
    def _shares(self) -> dict[Concept, dict[str, float]]:
        """How hard either lesson pulls at each block before anything is learned."""
        base, lessons = self.shop.base, self.shop.lessons
        return {c: shares(gradient_norms(base, lessons[c], PULLS)) for c in CONCEPTS}

    def _skips(self) -> list[Pair]:
        return [
            Pair(skip(b), FULL) if c == "character" else Pair(FULL, skip(b))
            for c, b in skips(self.space)
        ]

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


def _share(candidate: Candidate, concept: Concept) -> float:
    """Of a full adapter's training that one of these blocks takes."""
    ranks = getattr(candidate, concept).values()
    return FORWARD + EACH_BLOCK * sum(rank > 0 for rank in ranks) / len(ranks)


def keep_apart(search: Brief, confirm: Brief) -> None:
    """Check that nothing is confirmed with what was searched with.

    Args:
        search: prompts and seeds of the search.
        confirm: those of the confirmation.

    Raises:
        UserError: they share a prompt or a seed.
    """
    prompts = set(search.templates) & set(confirm.templates)
    seeds = set().union(*search.seeds_by_prompt) & set().union(*confirm.seeds_by_prompt)
    cannot = "What was searched with cannot confirm:"
    if prompts:
        shared = ", ".join(repr(prompt) for prompt in sorted(prompts))
        raise UserError(
            f"sweep.prompts and prompts share prompts: {shared}. {cannot} leave each in one of "
            "them only."
        )
    if seeds:
        raise UserError(
            "sweep.search.first_seed and seed share seeds of the noise: "
            f"{', '.join(map(str, sorted(seeds)))}. {cannot} set sweep.search.first_seed farther "
            "from seed."
        )
