import pytest
import torch
from diffusers import FluxTransformer2DModel
from diffusers.loaders.lora_conversion_utils import (
    _convert_non_diffusers_lora_to_diffusers,
    _maybe_map_sgm_blocks_to_diffusers,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from blockwise_lora.adapters import AdapterError
from blockwise_lora.adapters.formats import Names
from blockwise_lora.adapters.formats.names import ordered, with_text_model
from blockwise_lora.adapters.formats.structures import known
from blockwise_lora.blocks import BlockMap
from ldm_format import to_ldm


@pytest.fixture(scope="module")
def encoders():
    config = CLIPTextConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    with torch.device("meta"):
        return CLIPTextModel(config), CLIPTextModelWithProjection(config)


def test_names_as_kohyas_scripts_write_them(sd_unet, xl_unet, encoders):
    """Spelled out: what such files are known to hold."""
    sd, xl = Names.of(sd_unet, encoders[0]), Names.of(xl_unet, *encoders)
    block = "transformer_blocks.0.attn1.to_out.0"
    assert sd.joined(f"up_blocks.1.attentions.2.{block}") == (
        "lora_unet_up_blocks_1_attentions_2_transformer_blocks_0_attn1_to_out_0"
    )
    assert sd.joined("down_blocks.0.resnets.1.time_emb_proj") == (
        "lora_unet_down_blocks_0_resnets_1_time_emb_proj"
    )
    expected = {
        f"down_blocks.1.attentions.0.{block}": (
            "input_blocks_4_1_transformer_blocks_0_attn1_to_out_0"
        ),
        "down_blocks.0.downsamplers.0.conv": "input_blocks_3_0_op",
        "down_blocks.2.resnets.0.conv_shortcut": "input_blocks_7_0_skip_connection",
        "down_blocks.2.resnets.1.conv2": "input_blocks_8_0_out_layers_3",
        "mid_block.resnets.0.conv1": "middle_block_0_in_layers_2",
        "mid_block.attentions.0.proj_in": "middle_block_1_proj_in",
        "mid_block.resnets.1.time_emb_proj": "middle_block_2_emb_layers_1",
        "up_blocks.0.attentions.1.proj_out": "output_blocks_1_1_proj_out",
        "up_blocks.0.upsamplers.0.conv": "output_blocks_2_2_conv",
        "up_blocks.2.resnets.2.conv1": "output_blocks_8_0_in_layers_2",
        "conv_in": "input_blocks_0_0",
        "conv_out": "out_2",
        "time_embedding.linear_2": "time_embed_2",
        "add_embedding.linear_1": "label_emb_0_0",
    }
    assert {layer: xl.joined(layer) for layer in expected} == {
        layer: f"lora_unet_{name}" for layer, name in expected.items()
    }


def test_names_of_text_encoders(sd_unet, xl_unet, encoders):
    sd, xl = Names.of(sd_unet, encoders[0]), Names.of(xl_unet, *encoders)
    first = next(layer for layer in sd.places if layer.endswith("layers.1.mlp.fc1"))
    second = "text_encoder_2.text_model.encoder.layers.0.self_attn.q_proj"
    assert sd.joined(first) == "lora_te_text_model_encoder_layers_1_mlp_fc1"
    assert xl.joined(first) == "lora_te1_text_model_encoder_layers_1_mlp_fc1"
    assert xl.joined(second) == "lora_te2_text_model_encoder_layers_0_self_attn_q_proj"
    for names in (sd, xl):
        # Files name the first encoder either way, and layers with `text_model` or without.
        for spelling in (
            "lora_te_text_model_encoder_layers_1_mlp_fc1",
            "lora_te1_text_model_encoder_layers_1_mlp_fc1",
            "text_encoder.text_model.encoder.layers.1.mlp.fc1",
            "text_encoder.encoder.layers.1.mlp.fc1",
        ):
            assert names.layers[spelling] == first
        assert names.places[first].sub_block == "BASE"
    assert xl.joined("text_encoder_2.text_projection") == "lora_te2_text_projection"
    assert with_text_model("text_encoder_2.text_projection") == "text_encoder_2.text_projection"


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_every_name_leads_back(family):
    names = known(family)
    assert {names.layers[names.joined(layer)] for layer in names.places} == set(names.places)
    assert {names.layers[layer] for layer in names.places} == set(names.places)


def test_a_joined_name_is_not_to_be_split_by_itself():
    """The trap: by its underscores alone, this name can be read in two ways."""
    names = known("sd1")
    key = names.joined("down_blocks.0.attentions.0.transformer_blocks.0.ff.net.0.proj")
    assert "ff_net_0_proj" in key
    assert key.replace("_", ".") not in {f"lora.unet.{layer}" for layer in names.places}
    assert names.layers[key] == "down_blocks.0.attentions.0.transformer_blocks.0.ff.net.0.proj"


def test_original_names_are_those_of_whole_models(sd_unet):
    """Against the way back that the tests for single-file models have, written apart."""
    names = Names.of(sd_unet)
    state = {f"{layer}.weight": torch.zeros(1) for layer in names.original}

    class Fake:
        up_blocks = sd_unet.up_blocks

        @staticmethod
        def state_dict():
            return state

    class Empty:
        config = type("C", (), {"block_out_channels": (1, 2), "max_position_embeddings": 1})

        @staticmethod
        def state_dict():
            return {}

    theirs = [key for key in to_ldm(Fake, Empty, Empty) if key.startswith("model.")]
    ours = [f"model.diffusion_model.{name}.weight" for name in names.original.values()]
    assert sorted(ours) == sorted(theirs)


def test_diffusers_reads_the_sdxl_names_as_the_same_layers(xl_unet):
    """Every layer in a block, through diffusers' own converter."""
    names = Names.of(xl_unet)
    mark = {layer: float(i) for i, layer in enumerate(BlockMap.of(xl_unet).layers)}
    file = {}
    for layer, value in mark.items():
        for x in ("down", "up"):
            file[f"{names.joined(layer)}.lora_{x}.weight"] = torch.full((1, 1), value)
    mapped = _maybe_map_sgm_blocks_to_diffusers(file, xl_unet.config)
    converted, _ = _convert_non_diffusers_lora_to_diffusers(mapped)
    found = {
        key.removeprefix("unet.")
        .replace(".processor.", ".")
        .replace("to_out_lora", "to_out.0")
        .replace("_lora.", ".")
        .replace(".lora.", ".")
        .removesuffix(".down.weight"): value.item()
        for key, value in converted.items()
        if key.endswith(".down.weight")
    }
    assert found == mark


def test_layers_outside_of_all_blocks_are_known(sd_unet):
    names = Names.of(sd_unet)
    assert names.places["conv_in"].sub_block == "REST"
    assert names.places["time_embedding.linear_1"].sub_block == "REST"
    assert names.places["mid_block.resnets.0.conv1"].shape == (64, 64, 3, 3)


def test_a_layer_of_another_model_has_no_name(xl_unet):
    with pytest.raises(AdapterError, match=r"has no layer down_blocks\.3\.resnets\.0\.conv1"):
        Names.of(xl_unet).joined("down_blocks.3.resnets.0.conv1")


def test_a_transformer_is_refused():
    with torch.device("meta"):
        flux = FluxTransformer2DModel(num_layers=1, num_single_layers=1, num_attention_heads=1)
    with pytest.raises(AdapterError, match="FluxTransformer2DModel is no U-Net"):
        Names.of(flux)


def test_sub_blocks_are_put_in_the_models_order():
    names = ["OUT10", "REST", "IN02", "MID", "BASE", "OUT02", "IN11"]
    assert ordered(names) == ["BASE", "IN02", "IN11", "MID", "OUT02", "OUT10", "REST"]
