"""Configurations from the header of a single file: what its tensors are called, and their shapes.

A file in the original format of Stable Diffusion, SD 3 or FLUX carries no configuration. All that
decides the modules and their sizes can be read off the names and shapes of its tensors; what
cannot (heads, activations) changes no layer, and gets a usual value.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blockwise_lora.diffusion.weights import BaseModelError

Shapes = Mapping[str, tuple[int, ...]]

_DENOISER = "model.diffusion_model."
_CLIP = ".text_model.encoder.layers."
_OPEN_CLIP = ".transformer.resblocks."


def configurations(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The configurations of the denoiser and of the CLIP text encoders in a single file.

    Raises:
        BaseModelError: the file holds no denoiser that is known.
    """
    shapes = _shapes(path)
    inner = {k.removeprefix(_DENOISER): v for k, v in shapes.items() if k.startswith(_DENOISER)}
    inner = inner or shapes  # files with the transformer alone have no prefix
    if "input_blocks.0.0.weight" in inner:
        denoiser = _unet(inner)
    elif "double_blocks.0.img_attn.qkv.weight" in inner:
        denoiser = _flux(inner)
    elif "joint_blocks.0.x_block.attn.qkv.weight" in inner:
        denoiser = _sd3(inner)
    else:
        raise BaseModelError(
            f"{path}: holds no denoiser in the original format of Stable Diffusion 1.x, 2.x, XL, 3 "
            "or FLUX (perhaps it is an adapter or a VAE)"
        )
    return denoiser, _text_encoders(shapes)


def _shapes(path: Path) -> Shapes:
    from safetensors import safe_open

    with safe_open(str(path), framework="pt") as file:
        return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118


def _count(shapes: Shapes, stem: str) -> int:
    """How many members a list of modules has, by the highest number in the names."""
    pattern = re.compile(re.escape(stem) + r"([0-9]+)\.")
    return 1 + max((int(m[1]) for key in shapes if (m := pattern.match(key))), default=-1)


def _unet(shapes: Shapes) -> dict[str, Any]:
    """A U-Net of `openai` blocks: input blocks of one resnet or one downsampler each."""
    levels: list[list[int]] = [[]]  # by resolution: the numbers of its resnets
    for number in range(1, _count(shapes, "input_blocks.")):
        if f"input_blocks.{number}.0.op.weight" in shapes:
            levels.append([])
        else:
            levels[-1].append(number)
    depths = [_count(shapes, f"input_blocks.{level[0]}.1.transformer_blocks.") for level in levels]
    keys = [key for key in shapes if key.endswith("attn2.to_k.weight")]
    linear = any(k.endswith("1.proj_in.weight") and len(s) == 2 for k, s in shapes.items())
    middle = _count(shapes, "middle_block.1.transformer_blocks.")
    config = {
        "_class_name": "UNet2DConditionModel",
        "in_channels": shapes["input_blocks.0.0.weight"][1],
        "out_channels": shapes["out.2.weight"][0],
        "block_out_channels": [
            shapes[f"input_blocks.{level[0]}.0.out_layers.3.weight"][0] for level in levels
        ],
        "layers_per_block": [len(level) for level in levels],
        "down_block_types": ["CrossAttnDownBlock2D" if d else "DownBlock2D" for d in depths],
        "up_block_types": ["CrossAttnUpBlock2D" if d else "UpBlock2D" for d in depths[::-1]],
        "mid_block_type": "UNetMidBlock2DCrossAttn" if middle else "UNetMidBlock2D",
        "transformer_layers_per_block": [d or 1 for d in depths[:-1]] + [depths[-1] or middle or 1],
        "cross_attention_dim": shapes[keys[0]][1] if keys else 0,
        "use_linear_projection": linear,
        "attention_head_dim": 8,
        "norm_num_groups": 32 if shapes["input_blocks.0.0.weight"][0] % 32 == 0 else 8,
    }
    if "label_emb.0.0.weight" in shapes:
        width = shapes["label_emb.0.0.weight"][1]
        config |= {"addition_embed_type": "text_time", "addition_time_embed_dim": 256}
        config |= {"projection_class_embeddings_input_dim": width}
    return config


def _flux(shapes: Shapes) -> dict[str, Any]:
    width = shapes["double_blocks.0.img_attn.qkv.weight"][1]
    return {
        "_class_name": "FluxTransformer2DModel",
        "in_channels": shapes["img_in.weight"][1],
        "num_layers": _count(shapes, "double_blocks."),
        "num_single_layers": _count(shapes, "single_blocks."),
        "attention_head_dim": 128,
        "num_attention_heads": width // 128,
        "joint_attention_dim": shapes["txt_in.weight"][1],
        "pooled_projection_dim": shapes["vector_in.in_layer.weight"][1],
        "guidance_embeds": "guidance_in.in_layer.weight" in shapes,
    }


def _sd3(shapes: Shapes) -> dict[str, Any]:
    width = shapes["joint_blocks.0.x_block.attn.qkv.weight"][1]
    layers = _count(shapes, "joint_blocks.")
    dual = [i for i in range(layers) if f"joint_blocks.{i}.x_block.attn2.qkv.weight" in shapes]
    normed = "joint_blocks.0.x_block.attn.ln_q.weight" in shapes
    return {
        "_class_name": "SD3Transformer2DModel",
        "in_channels": shapes["x_embedder.proj.weight"][1],
        "num_layers": layers,
        "attention_head_dim": 64,
        "num_attention_heads": width // 64,
        "joint_attention_dim": shapes["context_embedder.weight"][1],
        "caption_projection_dim": width,
        "pooled_projection_dim": shapes["y_embedder.mlp.0.weight"][1],
        "dual_attention_layers": dual,
        "qk_norm": "rms_norm" if normed else None,
    }


def _text_encoders(shapes: Shapes) -> list[dict[str, Any]]:
    """CLIP encoders in the file's order, in the names of OpenAI or of OpenCLIP."""
    found: dict[str, dict[str, Any]] = {}
    for key, shape in shapes.items():
        for marker, feed_forward in (
            (_CLIP, "0.mlp.fc1.weight"),
            (_OPEN_CLIP, "0.mlp.c_fc.weight"),
        ):
            stem, marked, rest = key.partition(marker)
            if marked and rest == feed_forward:
                found[stem] = _clip(shapes, f"{stem}{marker}", shape, marker == _OPEN_CLIP)
    return [found[stem] for stem in sorted(found)]


def _clip(shapes: Shapes, stem: str, shape: tuple[int, ...], open_clip: bool) -> dict[str, Any]:
    wide, width = shape
    layers = _count(shapes, stem)
    # SD 2.x takes the last layer but one, and diffusers leaves the last one out of its model.
    unused = open_clip and stem.startswith("cond_stage_model.")
    return {
        "architectures": ["CLIPTextModelWithProjection" if open_clip else "CLIPTextModel"],
        "hidden_size": width,
        "intermediate_size": wide,
        "num_hidden_layers": layers - unused,
        "num_attention_heads": max(1, width // 64),
        "projection_dim": width,
    }
