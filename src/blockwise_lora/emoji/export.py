"""Writing the trained parts in the formats that others read: diffusers, open_clip, timm."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from blockwise_lora.atomic import replace_folder
from blockwise_lora.emoji.clip import PREPROCESS, model_config
from blockwise_lora.emoji.dino import ARCHITECTURE
from blockwise_lora.emoji.unet import build_scheduler


def export_base(
    target: Path,
    vae: AutoencoderKL,
    scale: float,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    unet: UNet2DConditionModel,
) -> None:
    """Write a `StableDiffusionPipeline` folder in fp16 that plain diffusers loads."""
    vae.register_to_config(scaling_factor=scale)
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).to(dtype=torch.float16)
    with replace_folder(target) as folder:
        pipeline.save_pretrained(folder, safe_serialization=True)
        # transformers loads in the precision that the configuration names, diffusers in fp32: with
        # fp16 there, a pipeline loaded without further words would mix the two and fail.
        path = folder / "text_encoder" / "config.json"
        _write_json(path, json.loads(path.read_text(encoding="utf-8")) | {"dtype": "float32"})
        _readable(folder)
    pipeline.to(dtype=torch.float32)


def export_clip(target: Path, model: open_clip.CLIP, tokenizer: CLIPTokenizer) -> None:
    """Write open_clip's configuration and weights (fp16), with the tokenizer's files."""
    config = {"model_cfg": model_config(len(tokenizer)), "preprocess_cfg": PREPROCESS}
    with replace_folder(target) as folder:
        _write_json(folder / "open_clip_config.json", config)
        save_file(half(model), folder / "open_clip_model.safetensors")
        tokenizer.save_pretrained(folder)
        _readable(folder)


def export_dino(target: Path, model: VisionTransformer) -> None:
    """Write timm's `VisionTransformer` arguments and weights (fp16).

    Patches in their places tell held-out identities apart far better than their mean does (see the
    card), so they are what stands for a picture.
    """
    look = {"mean": PREPROCESS["mean"], "std": PREPROCESS["std"], "vector": "patches"}
    with replace_folder(target) as folder:
        config = {"architecture": "vision_transformer", "kwargs": ARCHITECTURE, **look}
        _write_json(folder / "config.json", config)
        save_file(half(model), folder / "model.safetensors")
        _readable(folder)


def half(model: nn.Module) -> dict[str, Tensor]:
    """State dict with floating-point tensors in fp16; counters stay as they are."""
    return {
        key: (t.half() if t.is_floating_point() else t).contiguous()
        for key, t in model.state_dict().items()
    }


def _write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _readable(folder: Path) -> None:
    """The safetensors library writes files that only their owner can read."""
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o644)
