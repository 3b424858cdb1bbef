"""What a training step sees, as a function of (seed, step) alone.

There is no running generator whose state would have to be kept: a run that is resumed, or that
shares its process with others, draws the same. All draws are made on the CPU, so that a GPU run
has the same ones.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from blockwise_lora.diffusion.config import TrainingConfig
from blockwise_lora.diffusion.objective import offset_noise


@dataclass(frozen=True)
class Draw:
    """The random choices of one step, on the CPU.

    Attributes:
        rows: pictures, (batch,) int64.
        timesteps: (batch,) int64.
        noise: (batch, channels, height, width).
        latent_noise: of the VAE's distribution, likewise.
        dropped: pictures whose caption is left out, (batch,) bool.
    """

    rows: Tensor
    timesteps: Tensor
    noise: Tensor
    latent_noise: Tensor
    dropped: Tensor

    def to(self, device: torch.device) -> Draw:
        """The same on another device."""
        moved = {f.name: getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)}
        return Draw(**moved)


def generator_for(seed: int, *purpose: object) -> torch.Generator:
    """A CPU generator of its own for each purpose, unrelated to the others."""
    digest = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def draw(
    config: TrainingConfig, step: int, pictures: int, shape: tuple[int, ...], levels: int
) -> Draw:
    """The choices of one step.

    Args:
        config: names seed, batch size and ways of drawing.
        step: from 0.
        pictures: in the set.
        shape: of one picture's latents, (channels, height, width).
        levels: number of noise levels of the model's schedule.
    """
    n = config.batch_size
    generator = generator_for(config.seed, "step", step)
    noise = torch.randn(n, *shape, generator=generator)
    latent_noise = torch.randn(n, *shape, generator=generator)
    if config.noise.offset:
        shift = torch.randn(n, shape[0], generator=generator)
        noise = offset_noise(noise, shift, config.noise.offset)
    dropped = torch.rand(n, generator=generator) < config.captions.dropout
    return Draw(
        rows=_rows(config.seed, step, n, pictures),
        timesteps=_timesteps(config, levels, generator),
        noise=noise,
        latent_noise=latent_noise,
        dropped=dropped,
    )


def _rows(seed: int, step: int, n: int, pictures: int) -> Tensor:
    """The next n of an endless row of shuffled passes through the set."""
    places = range(step * n, (step + 1) * n)
    passes = {
        p: torch.randperm(pictures, generator=generator_for(seed, "pass", p))
        for p in {place // pictures for place in places}
    }
    return torch.stack([passes[place // pictures][place % pictures] for place in places])


def _timesteps(config: TrainingConfig, levels: int, generator: torch.Generator) -> Tensor:
    n = config.batch_size
    if config.noise.timesteps == "uniform":
        return torch.randint(levels, (n,), generator=generator)
    # One from each of n equal ranges, in random order: each is still uniform over all levels.
    spread = torch.randperm(n, generator=generator) + torch.rand(n, generator=generator)
    return (spread * levels / n).long().clamp(max=levels - 1)
