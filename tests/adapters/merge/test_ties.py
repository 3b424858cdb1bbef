import pytest
import torch
from peft.utils.merge_utils import ties

from blockwise_lora.adapters.merge.magnitude import keep_largest
from blockwise_lora.adapters.merge.ties import agreeing_mean

CHANGES = torch.tensor([[4.0, -1.0, 0.0, 2.0], [-1.0, -3.0, 5.0, 0.0], [-1.0, 2.0, -5.0, 0.0]])


def test_signs_are_elected_by_total_by_hand():
    # sums 2, -2, 0, 2 elect +, -, +, +; zeros do not count in the mean
    expected = torch.tensor([4.0, -2.0, 5.0, 2.0])
    assert torch.equal(agreeing_mean(CHANGES, [1.0, 1.0, 1.0], "total"), expected)


def test_signs_are_elected_by_frequency_by_hand():
    # signs sum to -1, -1, 0, 1; the two small ones outvote the large one in the first column
    expected = torch.tensor([-1.0, -2.0, 5.0, 2.0])
    assert torch.equal(agreeing_mean(CHANGES, [1.0, 1.0, 1.0], "frequency"), expected)


def test_weights_enter_the_mean_but_not_the_election_by_hand():
    # the first adapter's 4 wins the election although its weight is small
    expected = torch.tensor([0.4, (-0.1 - 6.0) / 2, 10.0, 0.2])
    assert torch.allclose(agreeing_mean(CHANGES, [0.1, 2.0, 2.0], "total"), expected)


@pytest.mark.parametrize("election", ["total", "frequency"])
@pytest.mark.parametrize("density", [0.2, 0.7])
def test_as_pefts_function(election, density):
    deltas = list(torch.randn(3, 8, 5, 3, 3, generator=torch.Generator().manual_seed(1)))
    weights = [0.7, -1.1, 0.4]
    expected = ties(deltas, torch.tensor(weights), density, election)
    trimmed = torch.stack([keep_largest(delta, density) for delta in deltas])
    ours = agreeing_mean(trimmed, weights, election)
    assert torch.allclose(ours, expected, rtol=1e-6, atol=1e-7)
