"""A model without its weights: all that block names and adapters' sizes depend on.

The modules are built on the meta device from the configurations alone, so that a model of any
size takes seconds and no memory.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from blockwise_lora.adapters.parts import Parts
from blockwise_lora.diffusion.headers import configurations
from blockwise_lora.diffusion.quiet import quiet_libraries
from blockwise_lora.diffusion.weights import BaseModelError, check_safetensors, hub_configurations

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_DENOISERS = ("unet", "transformer")


def skeleton(source: str | Path) -> Parts:
    """The denoiser and the text encoders of a model, on the meta device.

    Args:
        source: a folder in diffusers' format; the folder of its denoiser, or that one's
            config.json; a single .safetensors file, of which the header alone is read; or a hub
            id such as owner/name, of which the configurations alone are fetched.

    Raises:
        BaseModelError: there is no such model, or it cannot be understood.
    """
    path = Path(source)
    if path.suffix == ".safetensors":
        return _of_single_file(path)
    if path.is_file():
        return Parts(_denoiser(path))
    folder = path if path.is_dir() else hub_configurations(str(source))
    if (folder / "config.json").is_file():
        return Parts(_denoiser(folder / "config.json"))
    return _of_pipeline(folder)


def _of_pipeline(folder: Path) -> Parts:
    found = [folder / name / "config.json" for name in _DENOISERS]
    found = [config for config in found if config.is_file()]
    if not found:
        raise BaseModelError(
            f"{folder}: has neither config.json nor unet/config.json nor transformer/config.json. "
            "Name a diffusers folder, a denoiser's config.json, a single .safetensors file or a "
            "hub id"
        )
    encoders = sorted(folder.glob("text_encoder*/config.json"), key=lambda c: c.parent.name)
    return Parts(_denoiser(found[0]), tuple(_text_encoder(config) for config in encoders))


def _of_single_file(path: Path) -> Parts:
    if not path.is_file():
        raise BaseModelError(f"{path}: no such file")
    check_safetensors(path)
    denoiser, encoders = configurations(path)
    return Parts(
        _build_denoiser(denoiser, path), tuple(_build_text_encoder(c, path) for c in encoders)
    )


def _denoiser(path: Path) -> nn.Module:
    return _build_denoiser(_read(path), path)


def _build_denoiser(config: dict[str, Any], path: Path) -> nn.Module:
    import diffusers

    name = config.get("_class_name", "")
    # The name comes out of a file: only models of diffusers may be built by it.
    cls = getattr(diffusers, name, None) if isinstance(name, str) else None
    if not (isinstance(cls, type) and issubclass(cls, diffusers.ModelMixin)):
        raise BaseModelError(
            f"{path}: its _class_name {name!r} is no model of diffusers; name the config.json of a "
            "U-Net or transformer"
        )
    try:
        with torch.device("meta"), quiet_libraries():
            return cls.from_config(config)
    except Exception as error:  # they raise whatever they stumble over
        raise BaseModelError(f"{path}: cannot be built as {name} ({_first(error)})") from error


def _text_encoder(path: Path) -> nn.Module:
    return _build_text_encoder(_read(path), path)


def _build_text_encoder(config: dict[str, Any], path: Path) -> nn.Module:
    import transformers

    names = config.get("architectures") or [""]
    cls = getattr(transformers, str(names[0]), None)
    if not (isinstance(cls, type) and issubclass(cls, transformers.PreTrainedModel)):
        raise BaseModelError(f"{path}: its architecture {names[0]!r} is no model of transformers")
    try:
        loaded: PretrainedConfig = cls.config_class.from_dict(config)
        with torch.device("meta"), quiet_libraries():
            return cls(loaded)
    except Exception as error:
        raise BaseModelError(f"{path}: cannot be built as {names[0]} ({_first(error)})") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BaseModelError(f"{path}: cannot be read as JSON ({_first(error)})") from error
    if not isinstance(config, dict):
        raise BaseModelError(f"{path}: is no configuration, but {type(config).__name__}")
    return config


def _first(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
