"""Reading the parts of a base model from where they lie."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from blockwise_lora.diffusion.weights import BaseModelError, hub_snapshot


def find_device(device: str | torch.device) -> torch.device:
    """The device of a name.

    Raises:
        BaseModelError: it cannot be used here.
    """
    try:
        device = torch.device(device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise BaseModelError(
            f"device: {str(device)!r} cannot be used here ({str(error).splitlines()[0]}). Use "
            f"`--params device=cpu`, or install the PyTorch build for your card."
        ) from error
    return device


def snapshot(source: str) -> Path:
    """The folder of a hub id.

    Raises:
        BaseModelError: it is no id, or the hub does not give the model.
    """
    # A hub id is owner/name; anything else was meant as a path.
    if source.count("/") != 1 or source.startswith((".", "/", "~")) or source.endswith("/"):
        raise BaseModelError(
            f"base_model.source: no folder or file {source}. Name a diffusers folder, a single "
            f".safetensors file or a hub id. (The embedded model comes with the repository; "
            f"`kedro run --pipelines pretraining` makes it anew.)"
        )
    return hub_snapshot(source)


def check_pipeline(folder: Path) -> None:
    """Make sure that a folder is a model that can be trained.

    Raises:
        BaseModelError: it is not.
    """
    index = folder / "model_index.json"
    try:
        parts = json.loads(index.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BaseModelError(
            f"{folder}: has no model_index.json, so it is not a model in diffusers' format. "
            f"base_model.source must be such a folder, a single .safetensors file or a hub id."
        ) from None
    except (ValueError, OSError) as error:
        raise BaseModelError(f"{index}: cannot be read ({error}). Download it again.") from error
    if "unet" not in parts or "text_encoder" not in parts:
        raise BaseModelError(
            f"{folder}: is a {parts.get('_class_name')}, not a base model of Stable Diffusion 1.x "
            f"or XL (U-Net with one or two text encoders), which is what can be trained."
        )


def load_folder(folder: Path, dtype: torch.dtype, variant: str | None) -> dict[str, Any]:
    """The parts of a diffusers folder, by `BaseModel`'s names.

    Args:
        folder: the model.
        dtype: precision of U-Net and text encoders.
        variant: of the weight files, such as fp16.

    Raises:
        BaseModelError: weights are missing.
    """
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    def part(cls: Any, name: str, **precision: torch.dtype) -> Any:
        model, report = cls.from_pretrained(
            folder,
            subfolder=name,
            use_safetensors=True,
            variant=variant,
            local_files_only=True,
            output_loading_info=True,
            **precision,
        )
        # The libraries would fill what is missing with random values, and only warn.
        if report["missing_keys"]:
            raise BaseModelError(
                f"{folder / name}: the weights lack {sorted(report['missing_keys'])[0]}, which "
                f"config.json speaks of. Download the model again, whole."
            )
        return model

    parts = {
        "unet": part(UNet2DConditionModel, "unet", torch_dtype=dtype),
        "vae": part(AutoencoderKL, "vae"),
        "text_encoder": part(CLIPTextModel, "text_encoder", dtype=dtype),
        "tokenizer": CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer"),
        # Latents are not bounded as pixels are; configurations of PNDM do not say so.
        "scheduler": DDPMScheduler.from_pretrained(
            folder, subfolder="scheduler", clip_sample=False
        ),
    }
    if (folder / "text_encoder_2").is_dir():
        second = part(CLIPTextModelWithProjection, "text_encoder_2", dtype=dtype)
        parts["text_encoder_2"] = second
        parts["tokenizer_2"] = CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer_2")
    return parts


@contextmanager
def explained(source: Path) -> Iterator[None]:
    """Turn what the libraries raise over a wrong model into an error about `source`."""
    try:
        yield
    except (BaseModelError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # they raise whatever they stumble over
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BaseModelError(
            f"{source}: cannot be loaded as a Stable Diffusion model ({first}). Check that it is "
            f"one and that it is whole."
        ) from error
