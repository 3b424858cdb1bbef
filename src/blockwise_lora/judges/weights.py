"""Finding and reading judges' weights: a local folder or a public name, safetensors only."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from blockwise_lora.errors import UserError


class JudgeError(UserError):
    """A judge cannot be found, read or used."""


def sha256_of(path: Path) -> str:
    """The file's SHA-256 in hex, as `sha256sum` prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """A judge's JSON object.

    Raises:
        JudgeError: missing, not JSON, or not an object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise JudgeError(
            f"the judge's folder {path.parent} has no {path.name}: "
            "point the judge at a complete folder or a public model's name"
        ) from None
    except (OSError, ValueError) as error:
        raise JudgeError(f"cannot read {path}: {error}; restore the file") from error
    if not isinstance(content, dict):
        raise JudgeError(f"{path} must hold a JSON object; restore the file")
    return content


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors by name, as float32 where they are floating point (judges may be stored in half).

    Raises:
        JudgeError: missing, truncated, or not safetensors.
    """
    if not path.is_file():
        raise JudgeError(f"the judge's weights {path} are missing: restore the file")
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise JudgeError(
            f"{path} is not a whole safetensors file ({error}): restore it; "
            "pickled weights (.pt, .bin) are never read"
        ) from error
    return {k: v.float() if v.is_floating_point() else v for k, v in weights.items()}


def fit_weights(model: nn.Module, weights: dict[str, Tensor], where: object) -> nn.Module:
    """Put the weights into the model, every name accounted for; returns it frozen, in eval mode.

    Raises:
        JudgeError: names or shapes differ from what the judge's configuration describes.
    """
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise JudgeError(f"{where}: weights and configuration disagree: {error}") from error
    return model.eval().requires_grad_(False)


def download(repository: str, file_name: str, judge: str) -> Path:
    """One safetensors file of a public model, from the hub or its local cache.

    Raises:
        JudgeError: no network and nothing cached, or no such file.
    """
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repo_id=repository.strip("/"), filename=file_name))
    except Exception as error:  # the hub's client has many kinds, none of them the user's to tell
        raise JudgeError(
            f"the public judge {judge} could not be had from the hub ({repository}, {file_name}): "
            f"{error}. Connect once so that it is cached, or name a local folder"
        ) from error


def move(model: nn.Module, device: str) -> nn.Module:
    """The model on a device.

    Raises:
        JudgeError: the machine has no such device.
    """
    try:
        return model.to(torch.device(device))
    except (RuntimeError, AssertionError) as error:
        raise JudgeError(f"device {device!r} cannot be used for judging: {error}") from error
