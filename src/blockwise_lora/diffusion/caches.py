"""What stays the same through a training, computed once: latents and text embeddings.

The VAE's answer for a picture is a distribution: its moments are kept, and each step draws from
them anew. Moments may be kept on disk, too, under a name made of everything that they depend on
(pixels, size, VAE), so that a stale file is never found.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from blockwise_lora.atomic import WriteError, write_bytes
from blockwise_lora.diffusion.base import BaseModel
from blockwise_lora.errors import UserError
from blockwise_lora.imagesets import ImageSet

log = logging.getLogger(__name__)

_ENCODED_AT_ONCE = 1 << 20  # pixels in a batch for the VAE: 4 pictures of 512 px, 256 of 64 px


class ResolutionError(UserError):
    """Pictures whose size does not suit the base model."""


@dataclass(frozen=True)
class CachedSet:
    """A picture set as the U-Net sees it, on the model's device.

    Attributes:
        mean: of the latents, (n, channels, height, width), float32.
        std: likewise.
        embeddings: of the distinct captions and, last, of the empty one, (m, tokens, width).
        caption: (n,) int64, a row of `embeddings` for each picture.
    """

    mean: Tensor
    std: Tensor
    embeddings: Tensor
    caption: Tensor

    def __len__(self) -> int:
        return len(self.mean)

    @classmethod
    def of(cls, base: BaseModel, images: ImageSet, folder: Path | None = None) -> CachedSet:
        """Encode a picture set.

        Args:
            base: whose VAE and text encoder encode.
            images: pictures of one size.
            folder: where moments are kept from one run to the next; None: nowhere.

        Raises:
            ResolutionError: sizes are mixed, or no multiple of what the U-Net can halve.
        """
        pixels = load_pixels(base, images)
        mean, std = _moments(base, pixels, folder)
        captions = sorted(set(images.captions))
        row = {caption: i for i, caption in enumerate(captions)}
        return cls(
            mean=mean.to(base.device),
            std=std.to(base.device),
            embeddings=base.encode_prompts([*captions, ""]),
            caption=torch.tensor([row[c] for c in images.captions], device=base.device),
        )


def load_pixels(base: BaseModel, images: ImageSet) -> Tensor:
    """All pictures as uint8, (n, height, width, 3), in memory.

    Raises:
        ResolutionError: sizes are mixed, or no multiple of what the U-Net can halve.
    """
    check_resolution(base, images)
    return torch.from_numpy(np.stack([np.asarray(p.open()) for p in images]))


def check_resolution(base: BaseModel, images: ImageSet) -> None:
    """Compare the pictures' size with the base model's.

    Raises:
        ResolutionError: sizes are mixed, or no multiple of what the U-Net can halve.
    """
    sizes = sorted({(p.width, p.height) for p in images})
    where = f"the pictures in {images.root}"
    remedy = f"set the resolution in parameters_curation.yml to {base.resolution} and curate again"
    if len(sizes) != 1:
        shown = ", ".join(f"{w}x{h}" for w, h in sizes[:4])
        raise ResolutionError(f"{where} have different sizes ({shown}): {remedy}.")
    width, height = sizes[0]
    if width % base.multiple or height % base.multiple:
        raise ResolutionError(
            f"{where} are {width}x{height}, but {base.name} needs multiples of {base.multiple}: "
            f"{remedy}."
        )
    if (width, height) != (base.resolution, base.resolution):
        log.warning(
            "%s are %dx%d, but %s was made for %dx%d and may not learn well from them: %s.",
            where[0].upper() + where[1:],
            width,
            height,
            base.name,
            base.resolution,
            base.resolution,
            remedy,
        )


def _moments(base: BaseModel, pixels: Tensor, folder: Path | None) -> tuple[Tensor, Tensor]:
    if folder is None:
        return _encode(base, pixels)
    digest = hashlib.sha256(f"{tuple(pixels.shape)} {base.sha256}".encode())
    digest.update(pixels.numpy().tobytes())
    file = folder / f"{digest.hexdigest()[:32]}.safetensors"
    try:
        found = load_file(file)
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
    batches: Sequence[Tensor] = pixels.split(at_once)
    moments = [base.encode_moments(b.permute(0, 3, 1, 2).float() / 127.5 - 1) for b in batches]
    means, stds = zip(*moments, strict=True)
    return torch.cat(means), torch.cat(stds)
