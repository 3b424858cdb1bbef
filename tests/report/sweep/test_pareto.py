from blockwise_lora.report.sweep.pareto import apart
from blockwise_lora.sweep.studies import Pair, skip
from invented_sweep import FULL, invented

MID, OUT3, BEST = Pair(skip("mid"), "all"), Pair("all", skip("out3")), Pair("mid", "out3")
TWIN = Pair(skip("in0"), "all")
"""Scores as the full pair does."""


def test_what_is_shown_is_far_from_what_is_shown_already():
    outcome = invented()
    assert apart(outcome, [TWIN, MID, OUT3], 2, [FULL]) == [MID], "the farthest first"
    assert set(apart(outcome, [TWIN, MID, OUT3, FULL], 9, [FULL])) == {MID, OUT3}
    assert apart(outcome, [], 3, [FULL]) == []


def test_without_anything_shown_it_begins_anywhere_and_takes_no_twin():
    found = apart(invented(), [FULL, TWIN, MID], 9)
    assert MID in found and len({FULL, TWIN} & set(found)) == 1
