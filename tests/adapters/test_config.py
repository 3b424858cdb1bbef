import pytest
from peft import LoraConfig
from peft.utils.other import get_pattern_key

from blockwise_lora.adapters import AdapterSpec, Plan
from blockwise_lora.adapters.config import peft_config
from blockwise_lora.blocks import BlockMap

SPEC = AdapterSpec("all:2+OUT01:3+mid:5", "locon", 4, alpha=3.0, conv_rank=6, conv_alpha=1.0)


@pytest.fixture
def updates(tiny_unet):
    return {step.name: step.empty() for step in Plan.of(BlockMap.of(tiny_unet), SPEC).layers}


def test_peft_finds_each_layers_own_rank_and_alpha(tiny_unet, updates):
    """With PEFT's own look-up, for which an unanchored key would also match longer names."""
    config = peft_config(updates)
    assert isinstance(config, LoraConfig)
    for name, update in updates.items():
        found = []
        for pattern, common in (
            (config.rank_pattern, config.r),
            (config.alpha_pattern, config.lora_alpha),
        ):
            found.append(pattern.get(get_pattern_key(pattern.keys(), name), common))
        assert found[0] == update.rank
        assert found[1] / found[0] == pytest.approx(update.scale)


def test_layers_are_named_in_full(updates):
    assert set(peft_config(updates).target_modules) == set(updates)


def test_a_configuration_is_made_anew(updates):
    """PEFT shortens the target modules of a configuration that it is given."""
    first = peft_config(updates)
    first.target_modules = {"to_q"}
    first.rank_pattern.clear()
    assert peft_config(updates).rank_pattern
    assert set(peft_config(updates).target_modules) == set(updates)
