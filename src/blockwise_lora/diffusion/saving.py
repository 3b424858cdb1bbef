"""Writing a base model as a folder that plain diffusers loads."""

from __future__ import annotations

from pathlib import Path

from blockwise_lora.atomic import replace_folder
from blockwise_lora.diffusion.base import BaseModel
from blockwise_lora.diffusion.quiet import quiet_libraries
from blockwise_lora.diffusion.weights import BaseModelError


def save_base(base: BaseModel, target: Path, note: str | None = None) -> Path:
    """Write a model as it is now, in the precision that it has here.

    Args:
        base: the model; adapters attached to it would be lost.
        target: a new folder, or an empty one.
        note: the content of a file blockwise_lora.json beside the weights, in JSON: how the model
            was made.

    Raises:
        BaseModelError: the folder has content, or adapters are attached.
        WriteError: the folder cannot be written.
    """
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise BaseModelError(f"{target} exists: name a new folder, or move it away")
    if getattr(base.unet, "peft_config", None):
        raise BaseModelError("adapters are attached to the model: detach or bake them first")
    names = ("vae", "unet", "scheduler", *_text_parts(base))
    parts = {name: getattr(base, name) for name in names}
    kind, options = StableDiffusionXLPipeline, {}
    if "text_encoder_2" not in parts:
        kind, options = StableDiffusionPipeline, {"requires_safety_checker": False}
        options |= {"safety_checker": None, "feature_extractor": None}
    with replace_folder(target) as folder, quiet_libraries():
        pipeline = kind(**parts, **options)
        pipeline.save_pretrained(folder, safe_serialization=True)
        if note is not None:
            (folder / "blockwise_lora.json").write_text(note + "\n", encoding="utf-8")
        for file in folder.rglob("*.safetensors"):
            file.chmod(0o644)  # the library leaves them to their owner alone
    return target


def _text_parts(base: BaseModel) -> list[str]:
    names = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
    return [name for name in names if getattr(base, name, None) is not None]
