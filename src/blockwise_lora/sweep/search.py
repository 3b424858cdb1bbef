"""Search over rank vectors of both adapters: many cheap guesses, few real trainings.

    1  screen    the two full adapters are cut down to a candidate's blocks; costs a few pictures
    2  train     the most promising candidates, many in one pass, scored in earnest
    3  confirm   the recommended one, on prompts and seeds that the search never saw

Candidates come from Optuna (NSGA-II, Deb et al. 2002), after a few that the measured needs of the
blocks suggest. Its storage may be shared: several workers then screen one study, and none trains
a mask twice, since trained adapters are found in the bank.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from blockwise_lora.errors import UserError
from blockwise_lora.sweep.candidates import Candidate, Space
from blockwise_lora.sweep.frontier import harmonic, pareto
from blockwise_lora.sweep.studies import CONCEPTS, Concept

OBJECTIVES = ("identity", "style", "prompt")
MARGIN = 0.25
"""A candidate is given up half way where others are ahead by this share of the gap in both."""


@dataclass(frozen=True)
class Guess:
    """A candidate with its scores.

    Attributes:
        candidate: what was tried.
        scores: of OBJECTIVES; identity and style with base at 0 and real pictures at 1.
    """

    candidate: Candidate
    scores: tuple[float, float, float]


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
    look: Callable[[Candidate, bool], tuple[float, float, float]],
    enough: Callable[[int], bool],
) -> None:
    """Try candidates without training until there are enough.

    Args:
        study: where they are kept; candidates that it has seen are not looked at again.
        space: what may be chosen.
        first: candidates to begin with.
        look: scores of a candidate, from half of the pictures (True) or all of them.
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
            study.tell(trial, known.values)
            repeats += 1
        else:
            _look(study, trial, candidate, look)
            looked, repeats = looked + 1, 0


def _look(study: optuna.Study, trial: Trial, candidate: Candidate, look) -> None:
    half = look(candidate, True)
    if hopeless(half, [t.values for t in _complete(study)]):
        study.tell(trial, state=TrialState.PRUNED)
    else:
        study.tell(trial, look(candidate, False))


def hopeless(scores: Sequence[float], others: Sequence[Sequence[float]]) -> bool:
    """Whether another candidate is ahead in identity and in style by MARGIN each."""
    return any(o[0] >= scores[0] + MARGIN and o[1] >= scores[1] + MARGIN for o in others)


def promising(study: optuna.Study, space: Space) -> list[Guess]:
    """All candidates, those worth a training first: the frontier, then by combined score."""
    trials = {str(t.params): t for t in _complete(study)}
    guesses = [Guess(_candidate(t.params, space), tuple(t.values)) for t in trials.values()]
    if not guesses:
        return []
    scores = np.array([guess.scores for guess in guesses])
    order = np.lexsort((-combined(scores), ~pareto(scores)))
    return [guesses[i] for i in order]


def affordable(
    guesses: Sequence[Guess],
    trained: Callable[[Concept, str], bool],
    masks: float,
    a_look: float = 0.0,
) -> list[Guess]:
    """The most promising candidates that can be paid for, one that needs a training at least.

    Args:
        guesses: best first.
        trained: whether a concept's mask needs no training any more.
        masks: how many may be trained; one that several candidates share counts once.
        a_look: price of a candidate's pictures and scores, in trainings of a mask.
    """
    chosen: list[Guess] = []
    wanted: set[tuple[Concept, str]] = set()
    for guess in guesses:
        own = {(c, getattr(guess.candidate.pair, c)) for c in CONCEPTS}
        more = wanted | {(c, mask) for c, mask in own if not trained(c, mask)}
        if len(more) + a_look * (len(chosen) + 1) <= masks or not wanted:
            chosen, wanted = [*chosen, guess], more
    return chosen


def combined(scores: np.ndarray) -> np.ndarray:
    """Harmonic mean of identity and style, (n,), of scores (n, 3)."""
    return harmonic(scores[:, :2])


def recommend(trained: Sequence[Guess]) -> Guess:
    """The trained candidate with the highest harmonic mean of identity and style."""
    return trained[int(np.argmax(combined(np.array([g.scores for g in trained]))))]


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
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def _seen(study: optuna.Study, trial: Trial) -> FrozenTrial | None:
    return next((t for t in _complete(study) if t.params == trial.params), None)
