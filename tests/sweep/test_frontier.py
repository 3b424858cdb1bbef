import numpy as np

from blockwise_lora.sweep.frontier import pareto


def test_pareto_by_hand():
    scores = np.array([[1, 5], [2, 4], [2, 3], [3, 1], [0, 5], [2, 4]])
    # (2, 3) is beaten by (2, 4), (0, 5) by (1, 5); the twins (2, 4) do not beat each other.
    assert pareto(scores).tolist() == [True, True, False, True, False, True]


def test_unknown_scores_neither_win_nor_beat():
    assert pareto(np.array([[np.nan, 9.0], [1.0, 1.0]])).tolist() == [False, True]
