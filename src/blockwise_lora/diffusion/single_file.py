"""Stable Diffusion 1.x from one .safetensors file, without asking the hub for its configuration.

diffusers' `from_single_file` downloads configuration and tokenizer. Those of SD 1.x are public
constants (Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, 2022: model
card and v1-inference configuration; CLIP ViT-L/14 text model), so they are written here, and the
tokenizer is made from the CLIP vocabulary that open_clip carries.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from blockwise_lora.diffusion.weights import COMPONENTS, SECOND, BaseModelError

_CROSS_DOWN, _CROSS_UP = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"

UNET = {
    "_class_name": "UNet2DConditionModel",
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [320, 640, 1280, 1280],
    "down_block_types": [_CROSS_DOWN, _CROSS_DOWN, _CROSS_DOWN, "DownBlock2D"],
    "up_block_types": ["UpBlock2D", _CROSS_UP, _CROSS_UP, _CROSS_UP],
    "layers_per_block": 2,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
VAE = {
    "_class_name": "AutoencoderKL",
    "sample_size": 512,
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "scaling_factor": 0.18215,
}
SCHEDULER = {
    "_class_name": "DDPMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "clip_sample": False,
    "steps_offset": 1,
}
TEXT_ENCODER = {
    "model_type": "clip_text_model",
    "architectures": ["CLIPTextModel"],
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "max_position_embeddings": 77,
    "vocab_size": 49408,
    "hidden_act": "quick_gelu",
    "projection_dim": 768,
    "bos_token_id": 49406,
    "eos_token_id": 49407,
    "pad_token_id": 1,
}
INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "scheduler": ["diffusers", "DDPMScheduler"],
    "safety_checker": [None, None],
    "feature_extractor": [None, None],
}


def load_single_file(path: Path, dtype: torch.dtype, config: Path | None = None) -> dict[str, Any]:
    """The parts of a model in Stability's original ("LDM") format.

    Args:
        path: a whole .safetensors file.
        dtype: precision of the weights.
        config: a diffusers folder of the same structure; None: Stable Diffusion 1.x.

    Returns:
        unet, vae, text_encoder, tokenizer, scheduler.

    Raises:
        BaseModelError: the file is of another family and `config` is None.
    """
    if config is not None:
        return _from_single_file(path, dtype, config)
    _check_family(path)
    with tempfile.TemporaryDirectory() as folder:
        write_sd1_configuration(Path(folder))
        return _from_single_file(path, dtype, Path(folder))


def _from_single_file(path: Path, dtype: torch.dtype, config: Path) -> dict[str, Any]:
    from diffusers import (
        DDPMScheduler,
        StableDiffusionPipeline,
        StableDiffusionXLPipeline,
    )

    second = (config / SECOND).is_dir()
    cls = StableDiffusionXLPipeline if second else StableDiffusionPipeline
    absent = {} if second else {"safety_checker": None}
    pipeline = cls.from_single_file(
        str(path),
        config=str(config),
        torch_dtype=dtype,
        local_files_only=True,
        feature_extractor=None,
        **absent,
    )
    weighty = (*COMPONENTS, SECOND) if second else COMPONENTS
    names = (*weighty, "tokenizer", *(["tokenizer_2"] if second else []))
    parts = {name: getattr(pipeline, name) for name in names}
    for name in weighty:
        # What the file lacks stays without values, and no error is raised.
        empty = [key for key, p in parts[name].named_parameters() if p.is_meta]
        if empty:
            raise BaseModelError(
                f"{path}: lacks weights of the {name} (such as {empty[0]}). Get the whole model, "
                f"or name in base_model.config a diffusers folder of the same structure."
            )
    return {**parts, "scheduler": DDPMScheduler.from_config(pipeline.scheduler.config)}


def _check_family(path: Path) -> None:
    """Tell SD 1.x from its relatives by the names and shapes in the file's header."""
    from safetensors import safe_open

    probe = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    with safe_open(str(path), framework="pt") as file:
        names = set(file.keys())
        width = file.get_slice(probe).get_shape()[1] if probe in names else None
    if width == UNET["cross_attention_dim"]:
        return
    if not any(name.startswith("model.diffusion_model.") for name in names):
        what = "holds no U-Net (perhaps it is an adapter or a VAE)"
    elif any(name.startswith("conditioner.") for name in names):
        what = "is a Stable Diffusion XL model, whose configuration does not come with this project"
    else:
        what = f"is not a Stable Diffusion 1.x model (text width {width}, expected 768)"
    raise BaseModelError(
        f"{path}: {what}. Give an SD 1.x file or a diffusers folder, or name in base_model.config "
        f"a diffusers folder of the same structure."
    )


def write_sd1_configuration(folder: Path) -> None:
    """Write SD 1.x as a diffusers folder without weights."""
    parts = {"unet": UNET, "vae": VAE, "text_encoder": TEXT_ENCODER}
    for name, content in parts.items():
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(content))
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
    (folder / "model_index.json").write_text(json.dumps(INDEX))
    clip_tokenizer().save_pretrained(folder / "tokenizer")


def clip_tokenizer() -> Any:
    """CLIP's tokenizer, made from the vocabulary that open_clip carries."""
    from open_clip.tokenizer import SimpleTokenizer
    from transformers import CLIPTokenizer

    vocabulary = SimpleTokenizer()
    # open_clip numbers the two special tokens differently spelt; the ids are the same.
    encoder = {
        token.replace("<start_of_text>", "<|startoftext|>").replace(
            "<end_of_text>", "<|endoftext|>"
        ): index
        for token, index in vocabulary.encoder.items()
    }
    merges = list(vocabulary.bpe_ranks)
    return CLIPTokenizer(vocab=encoder, merges=merges, model_max_length=77)
