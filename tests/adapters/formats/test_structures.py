import pytest

from blockwise_lora.adapters import AdapterError
from blockwise_lora.adapters.formats.structures import evidence, fitting, known, settle

SD = "up_blocks.3.attentions.0.proj_in"
XL = "up_blocks.0.attentions.0.transformer_blocks.1.attn1.to_q"
BOTH = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"


def families(*layers):
    return [names.family for names in fitting(layers, "a.safetensors")]


def test_layers_tell_sd_from_sdxl():
    assert families(SD) == ["sd1", "sd2"]
    assert families(XL) == ["sdxl"]
    assert families(BOTH) == ["sd1", "sd2", "sdxl"]
    assert families("lora_te2_text_model_encoder_layers_31_mlp_fc1") == ["sdxl"]
    assert families("lora_te_text_model_encoder_layers_22_mlp_fc1") == ["sd2"]
    with pytest.raises(AdapterError, match=r"a\.safetensors is for a model that is not known"):
        fitting([SD, XL], "a.safetensors")


def test_shortcuts_are_known_where_a_smaller_model_has_them():
    """SD 1.5 has none in in3, where the width stays; a model that widens there has one."""
    assert families("down_blocks.3.resnets.0.conv_shortcut") == ["sd1", "sd2"]
    assert known("sd1").places["mid_block.attentions.0.proj_in"].shape == (1280, 1280, 1, 1)
    assert known("sd2").places["mid_block.attentions.0.proj_in"].shape == (1280, 1280)


@pytest.mark.parametrize(
    ("metadata", "widths", "expected"),
    [
        ({}, {}, {"sd1", "sd2", "sdxl"}),
        ({"blockwise_lora.family": "sd2"}, {BOTH: 768}, {"sd2"}),
        ({"blockwise_lora.family": "sd9"}, {}, {"sd1", "sd2", "sdxl"}),
        ({"ss_base_model_version": "sdxl_base_v1-0"}, {}, {"sdxl"}),
        ({"ss_base_model_version": "sd_v1"}, {}, {"sd1"}),
        ({"modelspec.architecture": "stable-diffusion-v2-768-v/lora"}, {}, {"sd2"}),
        ({}, {BOTH: 768}, {"sd1"}),
        ({}, {BOTH: 1024}, {"sd2"}),
        ({}, {"lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_v": 2048}, {"sdxl"}),
        ({}, {BOTH: 32, SD: 768}, {"sd1", "sd2", "sdxl"}),
        ({}, {"lora_unet_input_blocks_4_1_proj_in": 0}, {"sdxl"}),
    ],
)
def test_what_a_file_says_and_its_shapes_tell_the_family(metadata, widths, expected):
    assert evidence(metadata, widths) == expected


def test_only_a_doubt_about_names_stays_open():
    fits = tuple(map(known, ("sd1", "sd2", "sdxl")))
    assert settle(fits, {"sd1", "sd2", "sdxl"}) is None
    assert settle(fits, {"sd1", "sd2"}).family == "sd1"
    assert settle(fits[2:], {"sd1"}).family == "sdxl"
