"""A hub cache that holds the configurations of public models, without weights, for tests."""

import json
from pathlib import Path

from blockwise_lora.diffusion.single_file import TEXT_ENCODER, UNET

SDXL_UNET = {
    "_class_name": "UNet2DConditionModel",
    "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "transformer_layers_per_block": [1, 2, 10],
    "attention_head_dim": [5, 10, 20],
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
SDXL_TEXT_ENCODER_2 = {
    "architectures": ["CLIPTextModelWithProjection"],
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
}
PUBLIC = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": {"unet": UNET, "text_encoder": TEXT_ENCODER},
    "stabilityai/stable-diffusion-xl-base-1.0": {
        "unet": SDXL_UNET,
        "text_encoder": TEXT_ENCODER,
        "text_encoder_2": SDXL_TEXT_ENCODER_2,
    },
}


def write_hub_cache(folder: Path) -> Path:
    """Write the models of `PUBLIC` as huggingface_hub keeps them; returns the folder."""
    commit = "0" * 40
    for name, parts in PUBLIC.items():
        repository = folder / f"models--{name.replace('/', '--')}"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text(commit)
        for part, config in parts.items():
            place = repository / "snapshots" / commit / part
            place.mkdir(parents=True)
            (place / "config.json").write_text(json.dumps(config))
    return folder
