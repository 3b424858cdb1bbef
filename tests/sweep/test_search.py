import numpy as np
import pytest

from blockwise_lora.errors import UserError
from blockwise_lora.sweep.candidates import Space, everything, shared_out
from blockwise_lora.sweep.search import (
    Guess,
    affordable,
    hopeless,
    open_study,
    promising,
    recommend,
    screen,
)

BLOCKS = ("in0", "in1", "mid", "out2", "out3")
SPACE = Space(
    dict.fromkeys(("character", "style"), BLOCKS), dict.fromkeys(("character", "style"), (0, 8))
)


def landscape(candidate, half: bool) -> tuple[float, float, float]:
    """Identity lives in in1 and mid, style in out3; a block in both adapters harms both."""
    mine, theirs = candidate.character, candidate.style
    clash = sum(bool(mine[b] and theirs[b]) for b in BLOCKS)
    identity = 0.5 * bool(mine["in1"]) + 0.5 * bool(mine["mid"]) - 0.1 * clash
    style = 1.0 * bool(theirs["out3"]) - 0.1 * clash
    return identity, style, 0.3


def test_it_finds_the_division_of_a_known_landscape(tmp_path):
    study = open_study("known", f"sqlite:///{tmp_path / 'search.db'}", seed=0)
    screen(study, SPACE, [everything(SPACE)], landscape, lambda n: n >= 70)
    best = promising(study, SPACE)[0]
    assert best.scores[:2] == pytest.approx((1.0, 1.0))
    assert best.candidate.character["mid"] and not best.candidate.character["out3"]


def guess(mine: str, theirs: str) -> Guess:
    chosen = {"character": mine, "style": theirs}
    ranks = {c: {b: 8 * (b == one) for b in BLOCKS} for c, one in chosen.items()}
    return Guess(SPACE.candidate(ranks), (0.0, 0.0, 0.0))


def test_only_what_can_be_paid_for_is_trained():
    full, divided, dear, shared = guesses = [
        Guess(everything(SPACE), (0.0, 0.0, 0.0)),
        guess("mid", "out3"),
        guess("in0", "in1"),
        guess("mid", "in0"),
    ]

    def bank(concept: str, mask: str) -> bool:
        return mask == "all"

    assert affordable(guesses, bank, 2) == [full, divided], "the full pair costs nothing"
    assert affordable(guesses, bank, 3) == [full, divided, shared], "mid is paid for once"
    assert affordable(guesses, bank, 5) == guesses
    assert affordable(guesses, bank, -1) == [full, divided], "a search without a guess is none"
    assert affordable([dear, divided], lambda c, m: True, 0) == [dear, divided]
    assert affordable(guesses, bank, 4, a_look=0.5) == [full, divided], "looking costs, too"


def test_first_come_the_candidates_that_were_handed_in():
    study = open_study("first", None, seed=0)
    division = shared_out(SPACE, {"in1": 1.0, "mid": 1.0, "out3": -1.0})
    looked = []

    def look(candidate, half):
        looked.append(candidate)
        return landscape(candidate, half)

    screen(study, SPACE, [everything(SPACE), division], look, lambda n: n >= 2)
    assert set(looked) == {everything(SPACE), division}


def test_no_candidate_is_looked_at_twice_also_by_a_later_worker(tmp_path):
    storage = f"sqlite:///{tmp_path / 'search.db'}"
    seen = []

    def look(candidate, half):
        seen.append((str(candidate.pair), half))
        return landscape(candidate, half)

    for seed in (0, 1):
        screen(
            open_study("two", storage, seed), SPACE, [everything(SPACE)], look, lambda n: n >= 20
        )
    assert len(seen) == len(set(seen))
    assert len(open_study("two", storage, 2).trials) >= 40


def test_what_is_far_behind_is_given_up_half_way():
    assert hopeless((0.1, 0.1, 0.9), [(0.4, 0.4, 0.0)])
    assert not hopeless((0.1, 0.3, 0.9), [(0.4, 0.4, 0.0), (0.0, 0.9, 0.0)])
    halves = []

    def look(candidate, half):
        halves.append(half)
        scores = np.array(landscape(candidate, half))
        return tuple(scores - (0.0 if candidate == everything(SPACE) else 5.0))

    study = open_study("hopeless", None, 0)
    screen(study, SPACE, [everything(SPACE)], look, lambda n: n >= 6)
    assert halves == [True, False] + [True] * 5


def test_recommended_is_who_has_both():
    space = everything(SPACE)
    guesses = [Guess(space, s) for s in [(1.0, 0.1, 0), (0.6, 0.5, 0), (0.2, 0.9, 0)]]
    assert recommend(guesses).scores == (0.6, 0.5, 0)


def test_a_database_that_is_not_there_is_named_without_its_password(tmp_path):
    url = f"sqlite:///{tmp_path / 'no' / 'folder.db'}"
    with pytest.raises(UserError, match=r"sweep\.search\.storage"):
        open_study("x", url, 0)
    with pytest.raises(UserError) as caught:
        open_study("x", "postgresql://me:secret@127.0.0.1:1/none", 0)
    assert "secret" not in str(caught.value)
