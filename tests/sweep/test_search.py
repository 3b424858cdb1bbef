import optuna
import pytest

from blockwise_lora.errors import UserError
from blockwise_lora.sweep.candidates import Space, everything, shared_out, skips
from blockwise_lora.sweep.search import (
    Guess,
    Means,
    affordable,
    best_first,
    looked_at,
    open_study,
    screen,
    worth,
)

BLOCKS = ("in0", "in1", "mid", "out2", "out3")
SPACE = Space(
    dict.fromkeys(("character", "style"), BLOCKS), dict.fromkeys(("character", "style"), (0, 8))
)


def landscape(candidate) -> Means:
    """Identity lives in in1 and mid, style in out3; a block in both adapters harms both."""
    mine, theirs = candidate.character, candidate.style
    clash = sum(bool(mine[b] and theirs[b]) for b in BLOCKS)
    identity = 0.5 * bool(mine["in1"]) + 0.5 * bool(mine["mid"]) - 0.1 * clash
    style = 1.0 * bool(theirs["out3"]) - 0.1 * clash
    return Means(identity, style, 0.3, max(0.0, min(identity, style)))


def test_it_finds_the_division_of_a_known_landscape():
    study = open_study("known", None, seed=0)
    first = [everything(SPACE), *skips(SPACE).values()]
    screen(study, SPACE, first, landscape, lambda n: n >= 100)
    best = looked_at(study, SPACE)[0]
    assert best.scores.objectives[:2] == pytest.approx((1.0, 1.0))
    assert best.candidate.character["mid"] and not best.candidate.character["out3"]


def guess(mine: str, theirs: str) -> Guess:
    chosen = {"character": mine, "style": theirs}
    ranks = {c: {b: 8 * (b == one) for b in BLOCKS} for c, one in chosen.items()}
    return Guess(SPACE.candidate(ranks), Means(0.0, 0.0, 0.0, 0.0))


def test_only_what_can_be_paid_for_is_trained():
    divided, dear, shared = guesses = [
        guess("mid", "out3"),
        guess("in0", "in1"),
        guess("mid", "in0"),
    ]

    def bought(left: float, had=(), a_look: float = 0.0, dear_mask: str = "") -> list[Guess]:
        def price(candidate, concept) -> float:
            return 10.0 if getattr(candidate.pair, concept) == dear_mask else 1.0

        return affordable(guesses, lambda _, mask: mask in had, price, a_look, left)

    assert bought(1.9) == [], "one mask is not a pair"
    assert bought(2) == [divided]
    assert bought(3) == [divided, shared], "mid is paid for once"
    assert bought(5) == guesses
    assert bought(1, had=["out3"]) == [divided]
    assert bought(0, had=["mid", "out3", "in0", "in1"]) == guesses
    assert bought(3, a_look=0.5) == [divided], "looking costs, too"
    assert bought(4, dear_mask="in1") == [divided, shared], "what is too dear is passed over"
    assert dear not in bought(9, dear_mask="in1")


def test_first_come_the_candidates_that_were_handed_in():
    study = open_study("first", None, seed=0)
    division = shared_out(SPACE, {"in1": 1.0, "mid": 1.0, "out3": -1.0})
    looked = []

    def look(candidate):
        looked.append(candidate)
        return landscape(candidate)

    screen(study, SPACE, [everything(SPACE), division], look, lambda n: n >= 2)
    assert set(looked) == {everything(SPACE), division}


def test_no_candidate_is_looked_at_twice_also_by_a_later_worker(tmp_path):
    storage = f"sqlite:///{tmp_path / 'search.db'}"
    seen = []

    def look(candidate):
        seen.append(str(candidate.pair))
        return landscape(candidate)

    for seed in (0, 1):
        screen(
            open_study("two", storage, seed), SPACE, [everything(SPACE)], look, lambda n: n >= 20
        )
    assert len(seen) == len(set(seen))
    last = open_study("two", storage, 2)
    assert len(last.trials) >= 40
    found = {str(g.candidate.pair): g.scores for g in looked_at(last, SPACE)}
    assert found["all / all"] == landscape(everything(SPACE)), "scores survive the database"


def test_trials_of_an_earlier_version_are_looked_at_anew():
    study = open_study("old", None, seed=0)
    screen(study, SPACE, [everything(SPACE)], landscape, lambda n: n >= 1)
    (trial,) = study.trials
    old = open_study("older", None, seed=0)
    old.add_trial(
        optuna.trial.create_trial(
            params=trial.params, distributions=trial.distributions, values=[9.0, 9.0, 9.0]
        )
    )
    assert looked_at(old, SPACE) == []
    assert [g.scores for g in looked_at(study, SPACE)] == [landscape(everything(SPACE))]


def test_best_is_who_has_both_in_the_same_pictures():
    space = everything(SPACE)
    one_sided, mixed, both, neither = guesses = [
        Guess(space, Means(1.0, 0.1, 0.0, 0.18)),
        Guess(space, Means(0.8, 0.8, 0.0, 0.30)),  # half of the pictures each
        Guess(space, Means(0.6, 0.5, 0.0, 0.55)),
        Guess(space, Means(0.6, -0.2, 0.0, 0.0)),
    ]
    worse = Guess(space, Means(0.9, -0.4, 0.0, 0.0))  # no picture has both: the weaker score tells
    assert best_first([*guesses, worse]) == [both, mixed, one_sided, neither, worse]


def test_what_promises_most_for_its_price_comes_first():
    full = Means(0.7, 0.3, 0.0, 0.4)
    a, b, c, d = (
        Guess(everything(SPACE), Means(0.5, 0.5, 0.0, both)) for both in (0.5, 0.46, 0.39, 0.2)
    )
    assert worth(a, full, 0.5) == pytest.approx(0.2)
    assert worth(b, full, 0.25) > worth(a, full, 0.5) > worth(c, full, 0.01)
    assert worth(c, full, 0.5) > worth(d, full, 0.01), (
        "what promises nothing is not better for less"
    )


def test_a_database_that_is_not_there_is_named_without_its_password(tmp_path):
    url = f"sqlite:///{tmp_path / 'no' / 'folder.db'}"
    with pytest.raises(UserError, match=r"sweep\.search\.storage"):
        open_study("x", url, 0)
    with pytest.raises(UserError) as caught:
        open_study("x", "postgresql://me:secret@127.0.0.1:1/none", 0)
    assert "secret" not in str(caught.value)
