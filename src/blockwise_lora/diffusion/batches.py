"""What the U-Net is shown in one step of one adapter, and what it should answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from blockwise_lora.diffusion.base import BaseModel
from blockwise_lora.diffusion.caches import CachedSet
from blockwise_lora.diffusion.config import TrainingConfig
from blockwise_lora.diffusion.draws import draw
from blockwise_lora.diffusion.objective import (
    add_noise,
    loss_per_picture,
    min_snr_weight,
    target,
)


@dataclass(frozen=True, eq=False)  # a batch is equal to itself alone
class Batch:
    """One step's inputs and targets, on the model's device.

    Attributes:
        noisy: x_t, (n, channels, height, width), in the model's precision.
        timesteps: (n,) int64.
        text: embeddings, (n, tokens, width).
        wanted: what the U-Net should answer, of x_t's shape, float32.
        weight: of each picture in the loss, (n,), or None.
    """

    noisy: Tensor
    timesteps: Tensor
    text: Tensor
    wanted: Tensor
    weight: Tensor | None

    @classmethod
    def of(cls, base: BaseModel, cached: CachedSet, config: TrainingConfig, step: int) -> Batch:
        """The batch of one step, which depends on (set, configuration, step) alone.

        Args:
            base: the model.
            cached: the picture set.
            config: seed, batch size, objective.
            step: from 0.
        """
        schedule, kind = base.scheduler.alphas_cumprod, base.prediction_type
        shape = tuple(cached.mean.shape[1:])
        draws = draw(config, step, len(cached), shape, len(schedule))
        a_t = schedule[draws.timesteps].to(base.device, torch.float32, non_blocking=True)
        draws = draws.to(base.device)
        latents = cached.mean[draws.rows] + cached.std[draws.rows] * draws.latent_noise
        captions = torch.where(
            draws.dropped, len(cached.embeddings) - 1, cached.caption[draws.rows]
        )
        gamma = config.loss.min_snr_gamma
        return cls(
            noisy=add_noise(latents, draws.noise, a_t).to(base.dtype),
            timesteps=draws.timesteps,
            text=cached.embeddings[captions],
            wanted=target(kind, latents, draws.noise, a_t),
            weight=None if gamma is None else min_snr_weight(kind, a_t, gamma),
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """Batches of one shape fit into one pass."""
        return tuple(self.noisy.shape)

    def loss(self, prediction: Tensor) -> Tensor:
        """Mean loss over the batch, a scalar.

        Args:
            prediction: the U-Net's answer, of x_t's shape.
        """
        return loss_per_picture(prediction, self.wanted, self.weight).mean()


def predict(base: BaseModel, batches: Sequence[Batch]) -> Tensor:
    """The U-Net's answer to several batches at once, one below the other."""

    def joined(name: str) -> Tensor:
        parts = [getattr(batch, name) for batch in batches]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    with base.autocast():
        return base.unet(
            joined("noisy"), joined("timesteps"), encoder_hidden_states=joined("text")
        ).sample
