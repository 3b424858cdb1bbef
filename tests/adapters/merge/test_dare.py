import pytest
import torch
from peft.utils.merge_utils import dare_linear, dare_ties

from blockwise_lora.adapters.merge import Dare
from blockwise_lora.adapters.merge.dare import drop
from blockwise_lora.adapters.merge.parts import Part
from blockwise_lora.adapters.updates import LowRank


def parts(count=2):
    generator = torch.Generator().manual_seed(1)
    updates = [
        LowRank(
            torch.randn(2, 30, generator=generator), torch.randn(20, 2, generator=generator), 1.0
        )
        for _ in range(count)
    ]
    return [Part(i, update, 0.5 + i) for i, update in enumerate(updates)]


def test_what_is_kept_is_scaled_up():
    delta = torch.randn(200, 200, generator=torch.Generator().manual_seed(1))
    kept = drop(delta, 0.25, torch.Generator().manual_seed(2))
    share = (kept != 0).float().mean().item()
    assert share == pytest.approx(0.25, abs=0.01)
    assert torch.equal(kept[kept != 0], 4 * delta[kept != 0])
    ones = drop(torch.ones(400, 400), 0.25, torch.Generator().manual_seed(3))
    assert ones.mean().item() == pytest.approx(1, abs=0.02)  # the expectation stays


def test_the_seed_decides_and_nothing_else(monkeypatch):
    rule, some = Dare(0.5, seed=3), parts()
    torch.manual_seed(1)
    first = rule.combine("a.layer", some)
    state = torch.random.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(rule.combine("a.layer", some), first)
    torch.manual_seed(1)
    assert torch.equal(torch.random.get_rng_state(), state)  # the global generator is left alone
    assert not torch.equal(Dare(0.5, seed=4).combine("a.layer", some), first)
    assert not torch.equal(rule.combine("another.layer", some), first)


def test_two_adapters_lose_different_values():
    one = parts(1)[0]
    twice = [Part(0, one.update, 1.0), Part(1, one.update, 1.0)]
    merged = Dare(0.5).combine("a.layer", twice)
    counts = (merged / one.delta()).round().unique()
    assert counts.tolist() == [0, 2, 4]  # kept in neither, in one, in both


@pytest.mark.parametrize("election", [None, "total", "frequency"])
def test_as_pefts_function_for_the_same_masks(election, monkeypatch):
    """PEFT draws from the global generator: it is given the masks that our generators draw."""
    rule, some = Dare(0.6, seed=5, election=election), parts()
    masks = iter(
        [
            torch.bernoulli(torch.full((20, 30), 0.6), generator=rule._generator("a.layer", part))
            for part in some
        ]
    )
    monkeypatch.setattr(torch, "bernoulli", lambda values, **_: next(masks))
    deltas, weights = [part.delta() for part in some], torch.tensor([0.5, 1.5])
    expected = (
        dare_linear(deltas, weights, 0.6)
        if election is None
        else dare_ties(deltas, weights, 0.6, election)
    )
    monkeypatch.undo()
    assert torch.allclose(rule.combine("a.layer", some), expected, rtol=1e-6, atol=1e-6)
