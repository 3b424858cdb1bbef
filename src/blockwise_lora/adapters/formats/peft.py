"""PEFT's directories: `adapter_config.json` and `adapter_model.safetensors`.

A directory is for one model. Where an adapter has parts for text encoders, there is one directory
for each part, `unet/`, `text_encoder/`, `text_encoder_2/`, as diffusers' training scripts lay
them out.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from blockwise_lora.adapters import tensorfile
from blockwise_lora.adapters.adapter import state
from blockwise_lora.adapters.errors import AdapterError
from blockwise_lora.adapters.formats import peft_names
from blockwise_lora.adapters.formats.peft_form import (
    check_rotations,
    peft_form,
    plain_config,
    shapes,
)
from blockwise_lora.adapters.formats.peft_names import LayerContent
from blockwise_lora.adapters.parts import part_of
from blockwise_lora.adapters.tensorfile import TensorFile
from blockwise_lora.adapters.updates import Update

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
PARTS = ("unet", "text_encoder", "text_encoder_2")
PREFIX = "base_model.model."

_MOST = 1 << 24
"""Bytes of a configuration: far more than all names of the largest model."""


def folders(path: Path) -> dict[str, Path]:
    """Part to its directory; empty where this is no PEFT directory."""
    if (path / CONFIG_FILE).exists():
        return {"unet": path}
    return {part: path / part for part in PARTS if (path / part / CONFIG_FILE).exists()}


def read(folder: Path, part: str) -> tuple[TensorFile, dict[str, LayerContent]]:
    """One part's file and layers.

    Raises:
        AdapterError: a file is missing or damaged, or lies outside of the directory.
        ValueError: the content is not understood.
    """
    content = tensorfile.read(_inside(folder, WEIGHTS_FILE))
    config = _config(_inside(folder, CONFIG_FILE))
    bare = {key.removeprefix(PREFIX): tensor for key, tensor in content.tensors.items()}
    found = peft_names.configured(peft_names.grouped(bare), config)
    prefix = "" if part == "unet" else f"{part}."
    return content, {prefix + layer: own for layer, own in found.items()}


@dataclass(frozen=True)
class Part:
    """What is written for one part: tensors and metadata of one file, and the other's text."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    config: str


def encode(updates: Mapping[str, Update]) -> dict[str, Part]:
    """A directory's content, by part; to the bit, but for LoKr of forms that PEFT has not.

    Raises:
        AdapterError: PEFT has no configuration for it.
    """
    return {part: _part(part, own) for part, own in by_part(updates).items()}


def by_part(updates: Mapping[str, Update]) -> dict[str, dict[str, Update]]:
    """Part to its layers, under their names within the part."""
    parts: dict[str, dict[str, Update]] = {}
    for layer, update in updates.items():
        part = part_of(layer)
        parts.setdefault(part, {})[layer.removeprefix(f"{part}.")] = update
    return parts


def _part(part: str, updates: Mapping[str, Update]) -> Part:
    check_rotations(updates)
    updates, config = peft_form(updates)
    prefix = "" if part == "unet" else f"{part}."
    tensors = {f"{PREFIX}{key}": tensor for key, tensor in state(updates).items()}
    metadata = shapes({f"{prefix}{layer}": update for layer, update in updates.items()})
    text = json.dumps(plain_config(config), indent=2, sort_keys=True) + "\n"
    return Part(tensors, metadata, text)


def _config(path: Path) -> dict[str, object]:
    try:
        if path.stat().st_size > _MOST:
            raise ValueError("it is far too large")
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise AdapterError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"{path} is damaged ({error}): fetch it again") from error
    if not isinstance(config, dict):
        raise AdapterError(f"{path} is damaged (not a mapping): fetch it again")
    return config


def _inside(folder: Path, name: str) -> Path:
    """A file of the directory, which no link leads out of.

    A directory in Hugging Face's cache is made of links into `blobs` beside its `snapshots`.
    """
    path, home = folder / name, folder.resolve()
    real = path.resolve()
    blobs = next((p.parent / "blobs" for p in home.parents if p.name == "snapshots"), None)
    if not real.is_relative_to(home) and not (blobs and real.is_relative_to(blobs)):
        raise AdapterError(f"{path} is a link out of its directory: put the file itself there")
    return path
