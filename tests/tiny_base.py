"""A Stable Diffusion folder small enough for tests, with random weights, and pictures for it."""

import json
from pathlib import Path

import torch
from PIL import Image


def write_tiny_base(folder: Path, **scheduler: object) -> Path:
    """Write a `StableDiffusionPipeline` folder: 16 px pictures, 8x8 latents, a letter a token.

    Args:
        folder: where to write.
        scheduler: changes to the noise schedule's configuration, e.g. prediction_type.
    """
    from diffusers import (
        AutoencoderKL,
        DDPMScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextModel

    tokenizer = _letter_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(16, 16, 32, 32),
            norm_num_groups=8,
            attention_head_dim=1,
            cross_attention_dim=24,
        )
        vae = AutoencoderKL(
            sample_size=16,
            block_out_channels=(8, 16),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            layers_per_block=1,
            norm_num_groups=4,
            scaling_factor=0.5,
        )
        text_encoder = CLIPTextModel(_text_config(tokenizer, 24))
    schedule = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    schedule |= {"steps_offset": 1, "clip_sample": False}
    pipeline = StableDiffusionPipeline(
        unet=unet,
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        scheduler=DDPMScheduler(**(schedule | scheduler)),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def write_tiny_sdxl(folder: Path) -> Path:
    """Write a `StableDiffusionXLPipeline` folder: 16 px pictures, two text encoders, time ids."""
    from diffusers import (
        AutoencoderKL,
        DDPMScheduler,
        StableDiffusionXLPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    tokenizer = _letter_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(16, 16, 32),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 2),
            norm_num_groups=8,
            attention_head_dim=(1, 1, 2),
            cross_attention_dim=24 + 16,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=6 * 4 + 12,
        )
        vae = AutoencoderKL(
            sample_size=16,
            block_out_channels=(8, 16),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            layers_per_block=1,
            norm_num_groups=4,
            scaling_factor=0.13025,
        )
        first = CLIPTextModel(_text_config(tokenizer, 24))
        second = CLIPTextModelWithProjection(_text_config(tokenizer, 16, projection_dim=12))
    schedule = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    StableDiffusionXLPipeline(
        unet=unet,
        vae=vae,
        text_encoder=first,
        text_encoder_2=second,
        tokenizer=tokenizer,
        tokenizer_2=_letter_tokenizer(),
        scheduler=DDPMScheduler(**schedule, steps_offset=1, clip_sample=False),
        add_watermarker=False,
    ).save_pretrained(folder, safe_serialization=True)
    return folder


def _text_config(tokenizer, width: int, **more: int):
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **more,
    )


def _letter_tokenizer():
    from transformers import CLIPTokenizer

    letters = [chr(c) for c in range(33, 127)]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{x}</w>" for x in letters)]
    vocabulary = {word: i for i, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=32)


def write_tiny_pictures(folder: Path, count: int = 5, side: int = 16) -> Path:
    """Write an image folder of coloured squares with captions."""
    folder.mkdir(parents=True)
    lines = []
    for i in range(count):
        colour = (40 * i % 256, 255 - 30 * i, 90)
        Image.new("RGB", (side, side), colour).save(folder / f"{i}.png")
        lines.append(json.dumps({"file_name": f"{i}.png", "text": f"zkc square, {i}"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder
