import pytest
import torch

from blockwise_lora.adapters import AdapterSpec, Dora, LowRank, Plan
from blockwise_lora.adapters.initial import initial_update
from blockwise_lora.blocks import BlockMap, MaskError


def starts(unet, spec, seed=3):
    for step in Plan.of(BlockMap.of(unet), spec).layers:
        weight = unet.get_submodule(step.name).weight.detach()
        yield weight, initial_update(step, spec.init, weight, seed)


@pytest.mark.parametrize("method", ["locon", "rslora", "dora", "loha", "lokr", "oft"])
def test_nothing_is_changed_yet(tiny_unet, method):
    spec = AdapterSpec("mid", method, 4, conv=method not in ("locon", "oft"))
    for weight, update in starts(tiny_unet, spec):
        torch.testing.assert_close(update.delta(weight), torch.zeros_like(weight))


def test_dora_starts_from_the_weights_own_norms(tiny_unet):
    for weight, update in starts(tiny_unet, AdapterSpec("mid", "dora", 4, conv=True)):
        assert isinstance(update, Dora)
        torch.testing.assert_close(update.magnitude.flatten(), weight.flatten(1).norm(dim=1))


def test_the_orthogonal_start_leaves_both_factors_free_to_learn(tiny_unet):
    """B A is zero and neither factor is, nor is either short of the rank's half."""
    spec = AdapterSpec("mid", "locon", 4, init="orthogonal")
    for _, update in starts(tiny_unet, spec):
        assert isinstance(update, LowRank)
        down, up = update.down.flatten(1), update.up.flatten(1)
        assert torch.linalg.matrix_rank(down) == torch.linalg.matrix_rank(up) == 2
        assert (up @ down).norm() < 1e-6 * up.norm() * down.norm()
        # As PEFT's: normal values through orthogonal rows, over ten.
        assert down.std() == pytest.approx(0.1 * 0.5**0.5, rel=0.5)


def test_ranks_of_the_mask_have_to_suit(tiny_unet):
    blocks = BlockMap.of(tiny_unet)
    with pytest.raises(MaskError, match="MID rank 3, but init orthogonal needs even ranks"):
        Plan.of(blocks, AdapterSpec("all+mid:3", "locon", 4, init="orthogonal"))
    with pytest.raises(MaskError, match=r"MID rank 1, which does not suit oft in .*no blocks"):
        Plan.of(blocks, AdapterSpec("mid:1", "oft", 4))


def test_a_rotations_side_is_lowered_to_a_divisor(tiny_unet):
    plan = Plan.of(BlockMap.of(tiny_unet), AdapterSpec("mid", "oft", 5))
    sides = {step.empty().rank for step in plan.layers}
    assert sides == {4}  # of 32, 64 and 256 inputs


def test_alphas_and_rates_go_by_block(tiny_unet):
    spec = AdapterSpec(
        "mid+out3", "locon", 4, alpha=2, alphas={"all": 8, "mid": 1}, rates={"OUT11": 0.5}
    )
    for step in Plan.of(BlockMap.of(tiny_unet), spec).layers:
        assert step.scale == (0.25 if step.sub_block == "MID" else 2)
        assert step.rate == (0.5 if step.sub_block == "OUT11" else 1)
