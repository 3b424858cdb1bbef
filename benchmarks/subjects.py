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


def random_sd15(device: str, dtype: str) -> BaseModel:
    """SD 1.5's structure with random weights, and the embedded model's small vocabulary."""
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    precision = getattr(torch, dtype)
    wide = (128, 256, 512, 512)
    torch.manual_seed(0)
    parts = {
        "unet": UNet2DConditionModel(
            sample_size=64, cross_attention_dim=768, attention_head_dim=8
        ).to(precision),
        "vae": AutoencoderKL(
            sample_size=512,
            block_out_channels=wide,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            scaling_factor=0.18215,
        ),
        "text_encoder": CLIPTextModel(
            CLIPTextConfig(
                hidden_size=768,
                intermediate_size=3072,
                num_hidden_layers=12,
                num_attention_heads=12,
            )
        ).to(precision),
    }
    for module in parts.values():
        module.requires_grad_(False).eval().to(device)
    tokenizer = CLIPTokenizer.from_pretrained(EMBEDDED, subfolder="tokenizer")
    tokenizer.model_max_length = 77
    return BaseModel(
        **parts,
        tokenizer=tokenizer,
        scheduler=DDPMScheduler(
            beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False
        ),
        name="sd15-random",
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
