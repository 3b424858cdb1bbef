"""Search over rank vectors of both adapters: many cheap guesses, few real trainings.

    1  look        the two full adapters are cut down to a candidate's blocks; quick pictures
    2  look again  all pictures of those that promise most once they are trained
    3  train       the best that the price allows, scored in earnest
    4  confirm     the recommended one, on prompts and seeds that the search never saw

A candidate costs more with each step, so few go on (successive halving, Jamieson and Talwalkar
2016). The first ones switch off one block of one adapter, or all but one; others follow from what
that did to the scores, and Optuna crosses the best of them (NSGA-II, Deb et al. 2002). Its storage
may be shared: several workers then look at one study, and none trains a mask twice, since trained
adapters are found in the bank.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from blockwise_lora.errors import UserError
from blockwise_lora.sweep.candidates import Candidate, Space
from blockwise_lora.sweep.studies import CONCEPTS, Concept

OBJECTIVES = ("identity", "style", "prompt")
SEEN_AGAIN = 8
"""One candidate in so many is looked at again: that costs four times as much as a quick look."""
COMBINED = "combined"


@dataclass(frozen=True)
class Means:
    """Mean scores of a candidate's pictures, identity and style with base at 0 and real at 1.

    Attributes:
        identity, style, prompt: what is searched for.
        combined: mean over pictures of the harmonic mean of identity and style.
    """

    identity: float
    style: float
    prompt: float
    combined: float

    @property
    def objectives(self) -> tuple[float, float, float]:
        """In the order of OBJECTIVES."""
        return self.identity, self.style, self.prompt

    @property
    def merit(self) -> tuple[float, float]:
        """Higher is better: combined, and among equals (often 0) the weaker of the two."""
        return self.combined, min(self.identity, self.style)


@dataclass(frozen=True)
class Guess:
    """A candidate with its scores."""

    candidate: Candidate
    scores: Means


def open_study(name: str, storage: str | None, seed: int) -> optuna.Study:
    """The study of that name, made or found.

    Args:
        name: of the study.
        storage: URL of a database that Optuna knows (sqlite:///..., postgresql://...); None: in
            memory.
        seed: of the proposals.

    Raises:
        UserError: the database cannot be used.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return optuna.create_study(
            study_name=name,
            storage=storage,
            sampler=optuna.samplers.NSGAIISampler(population_size=16, seed=seed),
            directions=["maximize"] * len(OBJECTIVES),
            load_if_exists=True,
        )
    except Exception as error:  # SQLAlchemy's and the database driver's own
        if storage is None:
            raise
        where = storage.rpartition("@")[2]  # never a password
        raise UserError(
            f"sweep.search.storage: the database {where} cannot be used ({error.__class__.__name__}"
            "). Start it, or correct the URL; null keeps the search in memory."
        ) from error


def screen(
    study: optuna.Study,
    space: Space,
    first: Sequence[Candidate],
    look: Callable[[Candidate], Means],
    enough: Callable[[int], bool],
) -> None:
    """Look at candidates without training until there are enough.

    Args:
        study: where they are kept; candidates that it has seen are not looked at again.
        space: what may be chosen.
        first: candidates to begin with.
        look: scores of a candidate.
        enough: told the number of candidates looked at in this call; True ends the screening.
    """
    for candidate in first:
        study.enqueue_trial(_parameters(candidate), skip_if_exists=True)
    looked, repeats = 0, 0
    while not enough(looked) and repeats < 50:
        trial = study.ask()
        candidate = _suggest(trial, space)
        known = None if not candidate.trains_both else _seen(study, trial)
        if not candidate.trains_both:
            study.tell(trial, state=TrialState.FAIL)
            repeats += 1
        elif known:
            _tell(study, trial, _means(known))
            repeats += 1
        else:
            _tell(study, trial, look(candidate))
            looked, repeats = looked + 1, 0


def _tell(study: optuna.Study, trial: Trial, scores: Means) -> None:
    trial.set_user_attr(COMBINED, scores.combined)
    study.tell(trial, scores.objectives)


def _means(trial: FrozenTrial) -> Means:
    return Means(*trial.values, trial.user_attrs[COMBINED])


def best_first(guesses: Sequence[Guess]) -> list[Guess]:
    """In falling order of merit."""
    return sorted(guesses, key=lambda guess: guess.scores.merit, reverse=True)


def worth(guess: Guess, than: Means, price: float) -> float:
    """What a candidate promises over another, in `combined`, for each unit of its price.

    Improvement per second chooses among candidates of different cost (Snoek et al. 2012, section
    3.2). Where none is promised, the price is no help, and nearness counts.
    """
    gain = guess.scores.combined - than.combined
    return gain / price if gain > 0 else gain


def looked_at(study: optuna.Study, space: Space) -> list[Guess]:
    """All candidates of a study, best first."""
    trials = {str(t.params): t for t in _complete(study)}
    return best_first([Guess(_candidate(t.params, space), _means(t)) for t in trials.values()])


def affordable(
    guesses: Sequence[Guess],
    trained: Callable[[Concept, str], bool],
    price: Callable[[Candidate, Concept], float],
    a_look: float,
    left: float,
) -> list[Guess]:
    """The first candidates that can be paid for; one that is too dear is passed over.

    Args:
        guesses: in the order of preference.
        trained: whether a concept's mask needs no training any more.
        price: of training one of a candidate's masks; one that several share counts once.
        a_look: price of a candidate's pictures and scores.
        left: to spend, in the same unit.
    """
    chosen: list[Guess] = []
    bought: set[tuple[Concept, str]] = set()
    for guess in guesses:
        pair = guess.candidate.pair
        masks = [(c, getattr(pair, c)) for c in CONCEPTS]
        new = [mask for mask in masks if mask not in bought and not trained(*mask)]
        paid = a_look + sum(price(guess.candidate, concept) for concept, _ in new)
        if paid <= left:
            chosen, bought, left = [*chosen, guess], bought | set(new), left - paid
    return chosen


def _suggest(trial: Trial, space: Space) -> Candidate:
    chosen = {
        concept: {
            block: trial.suggest_categorical(f"{concept}.{block}", space.ranks[concept])
            for block in space.blocks[concept]
        }
        for concept in CONCEPTS
    }
    return space.candidate(chosen)


def _parameters(candidate: Candidate) -> dict[str, int]:
    return {
        f"{concept}.{block}": rank
        for concept in CONCEPTS
        for block, rank in getattr(candidate, concept).items()
    }


def _candidate(parameters: Mapping[str, int], space: Space) -> Candidate:
    return space.candidate(
        {c: {b: parameters[f"{c}.{b}"] for b in space.blocks[c]} for c in CONCEPTS}
    )


def _complete(study: optuna.Study) -> list[FrozenTrial]:
    """Those with all scores; a database may hold others, of an earlier version."""
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return [trial for trial in trials if COMBINED in trial.user_attrs]


def _seen(study: optuna.Study, trial: Trial) -> FrozenTrial | None:
    return next((t for t in _complete(study) if t.params == trial.params), None)
