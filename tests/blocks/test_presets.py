import re

import pytest
from torch import nn

from blockwise_lora.blocks.mask import Mask, MaskError
from blockwise_lora.blocks.presets import PRESETS
from blockwise_lora.blocks.structure import BlockMap
from blockwise_lora.blocks.terms import GROUPS


@pytest.fixture
def blocks(tiny_unet) -> BlockMap:
    return BlockMap.of(tiny_unet)


@pytest.fixture
def three_levels(make_unet) -> BlockMap:
    plain, cross = "DownBlock2D", "CrossAttnDownBlock2D"
    return BlockMap.of(
        make_unet(
            block_out_channels=(32, 32, 64),
            down_block_types=(plain, cross, cross),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        )
    )


@pytest.mark.parametrize("preset", PRESETS.values(), ids=list(PRESETS))
def test_presets_are_named_groups(preset, blocks, three_levels):
    # No '-', which makes ranges, no block's shape, and no rank of its own.
    assert re.fullmatch(r"[a-z]{3,}", preset.name)
    assert preset.name not in GROUPS
    assert not re.fullmatch(r"(in|out|mid)\d*", preset.name)
    assert len(preset.reason) > 40
    for mask in preset.masks.values():
        assert ":" not in mask
        assert not any(name in mask for name in PRESETS)
    assert preset.masks
    for model in (blocks, three_levels):
        if model.depth not in preset.masks:
            continue
        chosen = Mask.parse(preset.name).selected(model)
        assert chosen == Mask.parse(preset.masks[model.depth]).selected(model)
        assert set(chosen) < set(model.names)


def test_a_preset_takes_a_rank_and_is_skipped_like_any_group(blocks):
    assert set(Mask.parse("style:16").ranks(blocks, 8).values()) == {0, 16}
    without = Mask.parse("all+style:0").selected(blocks)
    assert set(without) == set(blocks.names) - set(Mask.parse("style").selected(blocks))


def test_character_and_style_divide_the_model(blocks):
    """They never meet in a layer, and leave none out."""
    character, style = (set(Mask.parse(x).selected(blocks)) for x in ("character", "style"))
    assert not character & style
    assert character | style == set(blocks.names)


def test_character_and_style_of_sdxl_are_the_two_published_blocks(three_levels):
    assert Mask.parse("character").selected(three_levels) == ("OUT00",)
    assert Mask.parse("style").selected(three_levels) == ("OUT01",)


# The lists of the extension's own presets, for 17 blocks.
COMMUNITY = {
    "INS": "1,1,1,1,0,0,0,0,0,0,0,0,0,0,0,0,0",
    "IND": "1,0,0,0,1,1,1,0,0,0,0,0,0,0,0,0,0",
    "INALL": "1,1,1,1,1,1,1,0,0,0,0,0,0,0,0,0,0",
    "MIDD": "1,0,0,0,1,1,1,1,1,1,1,1,0,0,0,0,0",
    "OUTD": "1,0,0,0,0,0,0,0,1,1,1,1,0,0,0,0,0",
    "OUTS": "1,0,0,0,0,0,0,0,0,0,0,0,1,1,1,1,1",
    "OUTALL": "1,0,0,0,0,0,0,0,1,1,1,1,1,1,1,1,1",
}


@pytest.mark.parametrize(("name", "numbers"), COMMUNITY.items())
def test_the_communitys_presets_are_its_lists(name, numbers, tiny_unet):
    with_text = BlockMap.of(tiny_unet, nn.ModuleDict())
    selected = Mask.parse(numbers).selected(with_text)
    assert Mask.parse(f"{name}+base").selected(with_text) == selected
    assert Mask.parse(name).selected(with_text) == selected[1:]


def test_all_is_the_communitys_all_for_layers_of_attention(blocks, tiny_unet):
    with_text = BlockMap.of(tiny_unet, nn.ModuleDict())
    ones = set(Mask.parse(",".join("1" * 17)).selected(with_text))
    attention = blocks.modules("attention")
    both = set(Mask.parse("ALL+BASE").selected(with_text))
    assert ones <= both
    assert not any(attention[name] for name in both - ones)


def test_b_loras_content_is_a_block_of_sdxl_only(blocks, three_levels):
    assert Mask.parse("content").selected(three_levels) == ("OUT00",)
    with pytest.raises(MaskError, match="'content' is for U-Nets of 3 in-blocks, this one has 4"):
        Mask.parse("content").ranks(blocks, 8)


def test_presets_say_which_models_they_are_for(make_unet):
    two = BlockMap.of(
        make_unet(
            block_out_channels=(32, 64),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        )
    )
    with pytest.raises(MaskError, match="for U-Nets of 3 or 4 in-blocks, this one has 2"):
        Mask.parse("all+style:0").ranks(two, 8)
