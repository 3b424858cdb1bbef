import numpy as np
import pytest

from blockwise_lora.judges.bootstrap import Interval, Scores, interval


def table(values) -> Scores:
    values = np.asarray(values, dtype=float)
    return Scores(tuple(range(values.shape[0])), tuple(range(values.shape[1])), values)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_the_mean_gives_every_prompt_the_same_weight():
    found = interval(table([[1, 1, 1, 1], [0, np.nan, np.nan, np.nan]]), rng())
    assert found.mean == 0.5
    assert found.n == 5


def test_the_same_generator_gives_the_same_interval():
    scores = table(rng().normal(size=(5, 4)))
    assert interval(scores, rng()) == interval(scores, rng())


def test_pictures_of_one_prompt_are_no_independent_draws():
    """Four prompts drawn sixteen times over are still four: the interval must not shrink."""
    of_prompt = np.array([0.0, 1.0, 2.0, 3.0])[:, None]
    few, many = interval(table(of_prompt), rng()), interval(table(of_prompt.repeat(16, 1)), rng())
    assert many.high - many.low == pytest.approx(few.high - few.low, rel=0.1)


def test_the_interval_covers_the_mean_about_as_often_as_it_says():
    generator, hits = rng(), 0
    for _ in range(200):
        values = generator.normal(size=(12, 1)) + generator.normal(size=(12, 4))
        found = interval(table(values), generator, draws=300)
        hits += found.low <= 0 <= found.high
    assert 0.87 <= hits / 200 <= 0.99


def test_nothing_measured_is_no_number():
    found = interval(table([[np.nan], [np.nan]]), rng())
    assert np.isnan(found.mean)
    assert found.n == 0
    assert not found.excludes_zero


def test_pairing_removes_what_prompt_and_seed_contribute():
    noise = rng().normal(size=(6, 4))
    a, b = table(noise + 0.1), table(noise)
    found = interval(a - b, rng())
    assert found.mean == pytest.approx(0.1)
    assert found.low > 0.09
    assert found.excludes_zero


def test_a_row_without_seeds_is_taken_from_every_seed():
    copied = Scores((0, 1), (0,), np.array([[1.0], [2.0]]))
    difference = table([[1, 2], [3, 4]]) - copied
    assert difference.values.tolist() == [[0, 1], [1, 2]]
    assert (copied - table([[1, 2], [3, 4]])).values.tolist() == [[0, -1], [-1, -2]]


def test_other_seeds_are_compared_by_their_means():
    a = Scores((0,), (0, 1), np.array([[1.0, 3.0]]))
    b = Scores((0,), (5, 6, 7), np.array([[0.0, 1.0, 2.0]]))
    assert (a - b).values.tolist() == [[1.0]]


def test_only_prompts_that_both_have_are_compared():
    a = Scores((0, 1), (0,), np.array([[1.0], [5.0]]))
    b = Scores((1, 2), (0,), np.array([[2.0], [9.0]]))
    assert (a - b).prompts == (1,)
    assert (a - b).values.tolist() == [[3.0]]
    nothing = a - Scores((7,), (0,), np.array([[2.0]]))
    assert interval(nothing, rng()).n == 0


def test_an_interval_around_zero_does_not_exclude_it():
    assert not Interval(0.1, -0.1, 0.3, 4).excludes_zero
    assert Interval(-0.2, -0.3, -0.1, 4).excludes_zero
