"""Moments of pictures' latents, computed once.

The VAE's answer for a picture is a distribution: its moments are kept, and each step draws from
them anew. They may be kept on disk, too, under a name made of everything that they depend on
(pixels, size, VAE, device), so that a stale file is never found.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from blockwise_lora.atomic import WriteError, write_bytes
from blockwise_lora.diffusion.base import BaseModel

log = logging.getLogger(__name__)

# Pixels in a batch for the VAE: 1 picture of 512 px, 64 of 64 px. More would take more memory than
# the steps that follow.
_ENCODED_AT_ONCE = 1 << 18


def moments(base: BaseModel, pixels: Tensor, folder: Path | None) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of latents, on the model's device.

    Args:
        base: whose VAE encodes.
        pixels: uint8, (n, height, width, 3).
        folder: where they are kept from one run to the next; None: nowhere.

    Returns:
        Two float32 tensors (n, channels, height / factor, width / factor).
    """
    if folder is None:
        return _encode(base, pixels)
    scale = base.vae.config.scaling_factor, getattr(base.vae.config, "shift_factor", None)
    about = f"{tuple(pixels.shape)} {base.sha256} {scale}{base.arithmetic}"
    digest = hashlib.sha256(about.encode())
    digest.update(pixels.numpy().tobytes())
    file = folder / f"{digest.hexdigest()[:32]}.safetensors"
    try:
        found = load_file(file, str(base.device))
        return found["mean"], found["std"]
    except (OSError, SafetensorError, KeyError):
        pass  # not there yet, or damaged: computed (again)
    mean, std = _encode(base, pixels)
    try:
        write_bytes(file, save({"mean": mean.cpu().contiguous(), "std": std.cpu().contiguous()}))
    except WriteError as error:
        log.warning("Latents are not kept for the next run: %s", error)
    return mean, std


def _encode(base: BaseModel, pixels: Tensor) -> tuple[Tensor, Tensor]:
    at_once = max(1, _ENCODED_AT_ONCE // (pixels.shape[1] * pixels.shape[2]))
    parts = [
        base.encode_moments(some.permute(0, 3, 1, 2).float() / 127.5 - 1)
        for some in pixels.split(at_once)
    ]
    means, stds = zip(*parts, strict=True)
    # The VAE leaves channels innermost, a file does not: other kernels, and not the same bits.
    return torch.cat(means).contiguous(), torch.cat(stds).contiguous()
