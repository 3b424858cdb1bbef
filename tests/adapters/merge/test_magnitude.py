import pytest
import torch
from peft.utils.merge_utils import magnitude_prune

from blockwise_lora.adapters.merge import MagnitudePrune
from blockwise_lora.adapters.merge.magnitude import keep_largest


def test_the_largest_stay_by_hand():
    delta = torch.tensor([[1.0, -5.0], [0.5, 3.0], [-4.0, 2.0]])
    expected = torch.tensor([[0.0, -5.0], [0.0, 3.0], [-4.0, 0.0]])
    assert torch.equal(keep_largest(delta, 0.5), expected)
    assert torch.equal(keep_largest(delta, 0.6), expected)  # int(3.6) values
    assert torch.equal(keep_largest(delta, 1.0), delta)


@pytest.mark.parametrize("density", [0.1, 0.5, 0.93])
def test_as_pefts_function(density):
    deltas = list(torch.randn(2, 8, 5, 3, 3, generator=torch.Generator().manual_seed(1)))
    expected = magnitude_prune(deltas, torch.tensor([0.7, -1.1]), density)
    ours = 0.7 * keep_largest(deltas[0], density) - 1.1 * keep_largest(deltas[1], density)
    assert torch.allclose(ours, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("density", [0, -0.1, 1.5])
def test_a_density_is_a_share(density):
    with pytest.raises(ValueError, match="share of values"):
        MagnitudePrune(density)
