"""The way back from diffusers' names to those of the original Stable Diffusion code, for tests."""

import re

import torch
from torch import Tensor, nn

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_TOP = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def to_ldm(unet: nn.Module, vae: nn.Module, text_encoder: nn.Module) -> dict[str, Tensor]:
    """One state dict as SD 1.x files have it."""
    state = {}
    for key, value in unet.state_dict().items():
        state[f"model.diffusion_model.{_unet_name(key, unet)}"] = value
    for key, value in vae.state_dict().items():
        name = _vae_name(key, len(vae.config.block_out_channels))
        square = ".attn_1." in name and value.ndim == 2
        state[f"first_stage_model.{name}"] = value[:, :, None, None] if square else value
    for key, value in text_encoder.state_dict().items():
        bare = key.removeprefix("text_model.")
        state[f"cond_stage_model.transformer.text_model.{bare}"] = value
    return {key: value.clone().contiguous() for key, value in state.items()} | {
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(
            text_encoder.config.max_position_embeddings
        )[None]
    }


def _unet_name(key: str, unet: nn.Module) -> str:
    for ours, theirs in _TOP.items():
        if key.startswith(f"{ours}."):
            key = theirs + key.removeprefix(ours)
            break
    side = re.match(r"(down|up)_blocks\.(\d)\.(\w+)\.(\d)", key)
    if side:
        place, i, kind, j = side[1], int(side[2]), side[3], int(side[4])
        if kind == "downsamplers":
            new = f"input_blocks.{3 * (i + 1)}.0.op"
            return key.replace(f"{side[0]}.conv", new)
        if kind == "upsamplers":
            last = 2 if hasattr(unet.up_blocks[i], "attentions") else 1
            return key.replace(side[0], f"output_blocks.{3 * i + 2}.{last}")
        number = 3 * i + j + 1 if place == "down" else 3 * i + j
        stem = "input_blocks" if place == "down" else "output_blocks"
        key = key.replace(side[0], f"{stem}.{number}.{int(kind == 'attentions')}")
    return key if "transformer_blocks" in key else _replace_part(key, _RESNET)


def _vae_name(key: str, levels: int) -> str:
    key = re.sub(r"encoder\.down_blocks\.(\d)\.resnets\.(\d)", r"encoder.down.\1.block.\2", key)
    key = re.sub(r"encoder\.down_blocks\.(\d)\.downsamplers\.0", r"encoder.down.\1.downsample", key)

    def mirrored(match: re.Match) -> str:
        rest = f"block.{match[3]}" if match[2] == "resnets" else "upsample"
        return f"decoder.up.{levels - 1 - int(match[1])}.{rest}"

    key = re.sub(r"decoder\.up_blocks\.(\d)\.(resnets|upsamplers)\.(\d)", mirrored, key)
    key = key.replace("mid_block.resnets.0", "mid.block_1").replace(
        "mid_block.resnets.1", "mid.block_2"
    )
    if "mid_block.attentions.0" in key:
        key = _replace_part(key.replace("mid_block.attentions.0", "mid.attn_1"), _ATTENTION)
    return key.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")


def _replace_part(key: str, names: dict[str, str]) -> str:
    for ours, theirs in names.items():
        if f".{ours}." in key:
            return key.replace(f".{ours}.", f".{theirs}.")
    return key
