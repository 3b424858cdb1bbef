import pytest

from blockwise_lora.adapters import AdapterSpec
from blockwise_lora.blocks.mask import MaskError
from blockwise_lora.blocks.structure import BlockMap
from blockwise_lora.errors import UserError
from blockwise_lora.sweep.studies import Pair, every_combination, named_study, own_study, skip

LORA, LOCON = AdapterSpec(method="lora"), AdapterSpec(method="locon")


@pytest.fixture(scope="module")
def blocks() -> BlockMap:
    import torch
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        return BlockMap.of(UNet2DConditionModel(cross_attention_dim=768))


def test_paper_study_of_locon_skips_and_keeps_all_nine_blocks(blocks):
    masks = named_study("paper", blocks, LOCON, LOCON).masks("character")
    assert masks[0] == "all"
    assert {skip("in3"), "in3", skip("out0"), "out0"} <= set(masks)
    # all, 9 skipped, 9 alone, 4 ablations, `character`.
    assert len(masks) == 1 + 9 + 9 + 4 + 1


def test_attention_lora_has_no_masks_that_differ_only_where_it_has_no_layers(blocks):
    study = named_study("paper", blocks, LORA, LORA)
    assert not {skip("in3"), skip("out0"), "in3", "out0", "bottom"} & set(study.masks("style"))
    # all, 7 skipped, 7 alone; `upper` is `all+mid:0`; shallow, deep; `style`.
    assert len(study.masks("style")) == 1 + 7 + 7 + 2 + 1


def test_coarse_study_counts_subsets(blocks):
    assert len(named_study("coarse", blocks, LORA, LORA).masks("character")) == 2**7 - 1
    assert len(every_combination(list(blocks.coarse))) == 2**9 - 1


def test_one_adapter_varies_at_a_time(blocks):
    for pair in named_study("fine", blocks, LOCON, LOCON).pairs:
        assert "all" in (pair.character, pair.style)


def test_pairs_come_once(blocks):
    pairs = [Pair("all", "OUT1"), Pair("all+in3:0", "out1"), Pair("in0-out3", "out1")]
    assert own_study("mine", pairs, blocks, LORA, LORA).pairs == (Pair("all", "out1"),)


def test_mistakes(blocks):
    with pytest.raises(UserError, match="paper, coarse, fine"):
        named_study("papre", blocks, LORA, LORA)
    with pytest.raises(MaskError, match="out7"):
        own_study("mine", [Pair("all", "out7")], blocks, LORA, LORA)
    with pytest.raises(UserError, match="adapts nothing"):
        own_study("mine", [Pair("all", "in3")], blocks, LORA, LORA)
