"""What `training.py` trains: a model of SD 1.5's structure with random weights, and pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from blockwise_lora.diffusion.base import BaseModel
from blockwise_lora.imagesets import ImageSet, read_imagefolder

EMBEDDED = Path(__file__).resolve().parents[1] / "data" / "06_models" / "base"
PICTURES = 12


SDXL = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}


def random_sd15(device: str, dtype: str) -> BaseModel:
    """SD 1.5's structure with random weights, and the embedded model's small vocabulary."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel

    torch.manual_seed(0)
    with torch.device(device):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
        text = CLIPTextModel(_text(768, 12))
    return _assembled("sd15-random", device, dtype, unet, text)


def random_sdxl(device: str, dtype: str) -> BaseModel:
    """SDXL's structure, both text encoders included, with random weights."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(0)
    with torch.device(device):
        unet = UNet2DConditionModel(**SDXL).to(getattr(torch, dtype))
        text = CLIPTextModel(_text(768, 12))
        second = CLIPTextModelWithProjection(_text(1280, 32, projection_dim=1280))
    return _assembled("sdxl-random", device, dtype, unet, text, second)


def _text(width: int, layers: int, **more: int):
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        **more,
    )


def _assembled(name: str, device: str, dtype: str, unet, text, second=None) -> BaseModel:
    from diffusers import AutoencoderKL, DDPMScheduler
    from transformers import CLIPTokenizer

    precision = getattr(torch, dtype)
    with torch.device(device):
        vae = AutoencoderKL(
            sample_size=512,
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            scaling_factor=0.18215,
        )
    for module in (unet, text, second):
        if module is not None:
            module.to(precision)
    for module in (unet, vae, text, second):
        if module is not None:
            module.requires_grad_(False).eval()
    tokenizer = CLIPTokenizer.from_pretrained(EMBEDDED, subfolder="tokenizer")
    tokenizer.model_max_length = 77
    return BaseModel(
        unet=unet,
        vae=vae,
        text_encoder=text,
        text_encoder_2=second,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer if second is not None else None,
        scheduler=DDPMScheduler(
            beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False
        ),
        name=name,
        sha256="random",
        device=torch.device(device),
        dtype=precision,
    )


def write_pictures(folder: Path, side: int) -> ImageSet:
    """Smooth random pictures with captions."""
    generator, lines = np.random.default_rng(0), []
    folder.mkdir()
    for i in range(PICTURES):
        coarse = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((side, side), Image.BICUBIC).save(folder / f"{i}.png")
        lines.append(json.dumps({"file_name": f"{i}.png", "text": f"zkc cat face, number {i}"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return read_imagefolder(folder)
