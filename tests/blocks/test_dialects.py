import pytest
import torch
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel
from torch import nn

from blockwise_lora.adapters.formats.names import Names
from blockwise_lora.blocks.dialects import kohya_prefixes, original_name
from blockwise_lora.blocks.structure import BlockMap

SDXL = {
    "block_out_channels": (32, 64, 64),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "addition_embed_type": "text_time",
    "projection_class_embeddings_input_dim": 32,
}


def unet(**config) -> nn.Module:
    with torch.device("meta"):
        return UNet2DConditionModel(
            **({"attention_head_dim": 8, "cross_attention_dim": 16} | config)
        )


@pytest.mark.parametrize("config", [{}, SDXL])
def test_every_key_in_files_begins_as_its_block_does(config):
    model = unet(**config)
    names = Names.of(model)
    for block in BlockMap.of(model).sub_blocks:
        keys = tuple(f"{prefix}_" for prefix in kohya_prefixes(block, model))
        original = f"{original_name(block, model)}."
        for layer in block.layers:
            assert names.joined(layer.name).startswith(keys)
            assert names.original[layer.name].startswith(original)


def test_names_as_the_tools_print_them():
    sd, xl = unet(), unet(**SDXL)
    by_name = {block.name: block for block in BlockMap.of(sd, nn.ModuleDict()).sub_blocks}
    assert original_name(by_name["IN04"], sd) == "input_blocks.4"
    assert original_name(by_name["BASE"], sd) == "cond_stage_model"
    assert kohya_prefixes(by_name["OUT11"], sd) == (
        "lora_unet_up_blocks_3_resnets_2",
        "lora_unet_up_blocks_3_attentions_2",
    )
    assert kohya_prefixes(by_name["BASE"], sd) == ("lora_te",)
    both = BlockMap.of(xl, nn.ModuleDict(), nn.ModuleDict()).sub_blocks
    assert kohya_prefixes(both[0], xl) == ("lora_te1", "lora_te2")
    assert kohya_prefixes(both[4], xl) == ("lora_unet_input_blocks_4",)


def test_transformers():
    small = {"num_layers": 2, "num_attention_heads": 1, "attention_head_dim": 8}
    with torch.device("meta"):
        flux = FluxTransformer2DModel(**small, num_single_layers=1, axes_dims_rope=(2, 2, 4))
        sd3 = SD3Transformer2DModel(**small)
    double, _, single = BlockMap.of(flux).sub_blocks
    assert original_name(double, flux) == "double_blocks.0"
    assert kohya_prefixes(single, flux) == ("lora_unet_single_blocks_0",)
    base = BlockMap.of(flux, nn.ModuleDict(), nn.ModuleDict()).sub_blocks[0]
    assert kohya_prefixes(base, flux) == ("lora_te1", "lora_te3")
    joint = BlockMap.of(sd3).sub_blocks[1]
    assert kohya_prefixes(joint, sd3) == ("lora_unet_joint_blocks_1",)
