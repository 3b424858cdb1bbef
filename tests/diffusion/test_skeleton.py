import json
from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel
from safetensors.torch import save_file

from blockwise_lora.adapters.formats.names import Names
from blockwise_lora.blocks.structure import BlockMap
from blockwise_lora.diffusion.skeleton import skeleton
from blockwise_lora.diffusion.weights import BaseModelError
from ldm_format import to_ldm


def test_a_folder_gives_all_parts_without_weights(tiny_base_folder, loaded_tiny_base):
    parts = skeleton(tiny_base_folder)
    base = loaded_tiny_base
    assert parts.blocks == BlockMap.of(base.unet, base.text_encoder)
    for module in (parts.denoiser, *parts.text_encoders):
        assert all(parameter.is_meta for parameter in module.parameters())


@pytest.mark.parametrize("place", ["unet", "unet/config.json"])
def test_a_configuration_alone_will_do(tiny_base_folder, loaded_tiny_base, tmp_path, place):
    (tmp_path / "unet").mkdir()
    config = (tiny_base_folder / "unet" / "config.json").read_bytes()
    (tmp_path / "unet" / "config.json").write_bytes(config)
    assert skeleton(tmp_path / place).blocks == BlockMap.of(loaded_tiny_base.unet)


def test_a_single_file_tells_its_structure(loaded_tiny_base, tmp_path):
    base, path = loaded_tiny_base, tmp_path / "model.safetensors"
    save_file(to_ldm(base.unet, base.vae, base.text_encoder), path)
    assert skeleton(path).blocks == BlockMap.of(base.unet, base.text_encoder)


SDXL = {
    "block_out_channels": (32, 64, 64),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 3),
    "attention_head_dim": 8,
    "cross_attention_dim": 24,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 16,
    "projection_class_embeddings_input_dim": 48,
}
SD2 = {
    "attention_head_dim": 8,
    "cross_attention_dim": 24,
    "use_linear_projection": True,
    "block_out_channels": (32, 32, 64, 64),
}


@pytest.mark.parametrize("config", [SDXL, SD2, SD2 | {"in_channels": 9}])
def test_a_single_file_of_another_unet(config, tmp_path):
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
    shapes = {layer: unet.get_submodule(layer).weight.shape for layer in Names.of(unet).original}
    state = {
        f"model.diffusion_model.{theirs}.weight": torch.zeros(shapes[ours])
        for ours, theirs in Names.of(unet).original.items()
    }
    save_file(state, tmp_path / "x.safetensors")
    parts = skeleton(tmp_path / "x.safetensors")
    assert parts.blocks == BlockMap.of(unet)
    assert parts.denoiser.config.in_channels == unet.config.in_channels
    assert parts.denoiser.config.addition_embed_type == unet.config.addition_embed_type


def test_the_text_encoders_of_a_single_file(tmp_path):
    """SDXL's second one is whole; of SD 2's, diffusers leaves out the last layer."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**SDXL)
    state = {
        f"model.diffusion_model.{theirs}.weight": torch.zeros(unet.get_submodule(ours).weight.shape)
        for ours, theirs in Names.of(unet).original.items()
    }
    one = {
        f"0.transformer.text_model.encoder.layers.{i}.mlp.fc1.weight": torch.zeros(64, 32)
        for i in range(2)
    }
    two = {
        f"1.model.transformer.resblocks.{i}.mlp.c_fc.weight": torch.zeros(96, 48) for i in (0, 2)
    }
    xl = {f"conditioner.embedders.{key}": value for key, value in (one | two).items()}
    save_file(state | xl, tmp_path / "xl.safetensors")
    first, second = skeleton(tmp_path / "xl.safetensors").text_encoders
    assert (first.config.num_hidden_layers, first.config.intermediate_size) == (2, 64)
    assert (second.config.num_hidden_layers, second.config.hidden_size) == (3, 48)
    assert type(second).__name__ == "CLIPTextModelWithProjection"
    sd2 = {key.replace("1.model", "cond_stage_model.model"): value for key, value in two.items()}
    save_file(state | sd2, tmp_path / "sd2.safetensors")
    (only,) = skeleton(tmp_path / "sd2.safetensors").text_encoders
    assert only.config.num_hidden_layers == 2


def zeros(**shapes: tuple[int, ...]) -> dict[str, torch.Tensor]:
    return {name.replace("__", "."): torch.zeros(shape) for name, shape in shapes.items()}


def test_a_single_file_of_flux(tmp_path):
    state = zeros(
        img_in__weight=(128, 64),
        txt_in__weight=(128, 40),
        vector_in__in_layer__weight=(128, 24),
        guidance_in__in_layer__weight=(128, 256),
        double_blocks__0__img_attn__qkv__weight=(384, 128),
        double_blocks__1__img_attn__qkv__weight=(384, 128),
        single_blocks__2__linear1__weight=(896, 128),
    )
    save_file(state, tmp_path / "flux.safetensors")
    with torch.device("meta"):
        model = FluxTransformer2DModel(
            num_layers=2,
            num_single_layers=3,
            num_attention_heads=1,
            joint_attention_dim=40,
            pooled_projection_dim=24,
            guidance_embeds=True,
        )
    parts = skeleton(tmp_path / "flux.safetensors")
    assert parts.blocks == BlockMap.of(model)
    found = {name: p.shape for name, p in parts.denoiser.named_parameters()}
    assert found == {name: p.shape for name, p in model.named_parameters()}


def test_a_single_file_of_sd3(tmp_path):
    state = zeros(
        x_embedder__proj__weight=(64, 16, 2, 2),
        context_embedder__weight=(64, 40),
        y_embedder__mlp__0__weight=(64, 24),
        joint_blocks__0__x_block__attn__qkv__weight=(192, 64),
        joint_blocks__0__x_block__attn__ln_q__weight=(64,),
        joint_blocks__0__x_block__attn2__qkv__weight=(192, 64),
        joint_blocks__2__x_block__attn__qkv__weight=(192, 64),
    )
    state = {f"model.diffusion_model.{key}": value for key, value in state.items()}
    save_file(state, tmp_path / "sd3.safetensors")
    with torch.device("meta"):
        model = SD3Transformer2DModel(
            num_layers=3,
            num_attention_heads=1,
            joint_attention_dim=40,
            caption_projection_dim=64,
            pooled_projection_dim=24,
            dual_attention_layers=(0,),
            qk_norm="rms_norm",
        )
    assert skeleton(tmp_path / "sd3.safetensors").blocks == BlockMap.of(model)


def test_a_hub_id_fetches_configurations_only(tiny_base_folder, tmp_path, monkeypatch):
    """From the hub's cache, as it lies on disk after a download; there is no network in tests."""
    repository = tmp_path / "hub" / "models--someone--tiny"
    snapshot = repository / "snapshots" / ("0" * 40)
    for part in ("unet", "text_encoder"):
        (snapshot / part).mkdir(parents=True)
        config = (tiny_base_folder / part / "config.json").read_bytes()
        (snapshot / part / "config.json").write_bytes(config)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert len(skeleton("someone/tiny").blocks.names) == 25
    with pytest.raises(BaseModelError, match="'someone/other' is neither a folder or file here"):
        skeleton("someone/other")


def written(folder: Path, content: object) -> Path:
    path = folder / "config.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as JSON"),
        ([1], "is no configuration, but list"),
        ({"_class_name": "StableDiffusionPipeline"}, "'StableDiffusionPipeline' is no model of"),
        ({"_class_name": "os"}, "'os' is no model of diffusers"),
        ({"_class_name": 3}, "3 is no model of diffusers"),
        ({}, "'' is no model of diffusers"),
        (
            {"_class_name": "UNet2DConditionModel", "block_out_channels": [8]},
            "cannot be built as UNet2DConditionModel",
        ),
    ],
)
def test_configurations_that_cannot_be_used(content, message, tmp_path):
    with pytest.raises(BaseModelError, match=message):
        skeleton(written(tmp_path, content))


def test_what_is_no_model(tmp_path):
    with pytest.raises(BaseModelError, match=r"has neither config\.json"):
        skeleton(tmp_path)
    with pytest.raises(BaseModelError, match="no such file"):
        skeleton(tmp_path / "none.safetensors")
    save_file({"lora_te_x.alpha": torch.zeros(1)}, tmp_path / "adapter.safetensors")
    with pytest.raises(BaseModelError, match=r"holds no denoiser.*perhaps it is an adapter"):
        skeleton(tmp_path / "adapter.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10")
    with pytest.raises(BaseModelError, match="truncated"):
        skeleton(tmp_path / "cut.safetensors")


def test_a_text_encoder_of_an_unknown_kind(tiny_base_folder, tmp_path):
    for part in ("unet", "text_encoder"):
        (tmp_path / part).mkdir()
    config = (tiny_base_folder / "unet" / "config.json").read_bytes()
    (tmp_path / "unet" / "config.json").write_bytes(config)
    written(tmp_path / "text_encoder", {"architectures": ["subprocess"]})
    with pytest.raises(BaseModelError, match="'subprocess' is no model of transformers"):
        skeleton(tmp_path)
