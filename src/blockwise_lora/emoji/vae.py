"""The autoencoder of the embedded world: 64x64 pictures to 16x16x4 latents and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from blockwise_lora.emoji.loop import LoopConfig, Trainer

KL_WEIGHT = 2e-4
"""Per nat and latent value: only keeps the latents bounded, as in Rombach et al. 2022."""


def build_vae(channels: tuple[int, ...] = (32, 64, 64)) -> AutoencoderKL:
    """An `AutoencoderKL` with factor 4: two halvings, no attention in the middle."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        block_out_channels=channels,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=16,
        sample_size=64,
        mid_block_add_attention=False,
    )


def to_tensor(pixels: np.ndarray) -> Tensor:
    """(n, h, w, 3) uint8 to (n, 3, h, w) float in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1


def reconstruction_loss(decoded: Tensor, pictures: Tensor) -> Tensor:
    """L1 on pixels and on image gradients (sharp outlines), plus squared error."""
    error = decoded - pictures
    edges = (error[..., 1:] - error[..., :-1]).abs().mean()
    edges = edges + (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
    return error.abs().mean() + 0.5 * edges + error.square().mean()


def train_vae(
    pixels: np.ndarray, config: LoopConfig, folder: Path, device: str
) -> tuple[AutoencoderKL, Trainer]:
    """Train on (n, 64, 64, 3) uint8 pictures. Returns the averaged model and its trainer."""
    torch.manual_seed(config.seed)  # the initial weights of diffusers' modules are drawn globally
    vae = build_vae().to(device)
    trainer = Trainer("vae", {"vae": vae}, config, folder)

    def loss(step: int, generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(pixels), (config.batch_size,), generator=generator)
        pictures = to_tensor(pixels[rows.numpy()])
        flip = torch.rand(len(rows), generator=generator) < 0.5
        pictures[flip] = pictures[flip].flip(-1)
        pictures = pictures.to(device)
        with torch.autocast(device, torch.bfloat16):
            posterior = vae.encode(pictures).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=generator).to(device)
            decoded = vae.decode(posterior.mean + posterior.std * noise).sample
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        return reconstruction_loss(decoded.float(), pictures) + KL_WEIGHT * kl

    trainer.run(loss)
    trainer.export()
    return vae.eval(), trainer
