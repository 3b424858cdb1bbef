"""Training as diffusers' own LoRA example does it, for comparison; written from its description.

Each batch is read from its files, encoded by the VAE and the text encoder, and goes through PEFT's
layers; AdamW has one tensor for each factor; the loss is read after every step. Nothing is kept
from one batch to the next. (The example's `accelerate` wrappers are left out: they cost a little
more.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from blockwise_lora.adapters import AdapterSpec, attach, detach, trainable_parameters
from blockwise_lora.diffusion.base import BaseModel
from blockwise_lora.diffusion.config import TrainingConfig
from blockwise_lora.diffusion.draws import generator_for
from blockwise_lora.imagesets import ImageSet

NAME = "example"


@dataclass(frozen=True)
class Noise:
    """The random choices of one step, where they are given."""

    rows: Tensor
    timesteps: Tensor
    noise: Tensor
    latent_noise: Tensor


class DiffusersStyle:
    """The example's loop, one step at a time.

    Args:
        base: the model; its U-Net gets an adapter named `example`.
        images: pictures of one size with captions.
        spec: the adapter.
        config: batch size, learning rate, weight decay, clipping and min-SNR.
    """

    def __init__(
        self, base: BaseModel, images: ImageSet, spec: AdapterSpec, config: TrainingConfig
    ) -> None:
        self.base, self.images, self.config = base, images, config
        attach(base.unet, spec, NAME, generator_for(config.seed, "initial weights"))
        self.parameters = trainable_parameters(base.unet, NAME)
        optimizer = config.optimizer
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=config.learning_rate,
            betas=optimizer.betas,
            weight_decay=optimizer.weight_decay,
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: 1.0)
        self.generator = torch.Generator().manual_seed(config.seed)

    def close(self) -> None:
        """Take the adapter off again."""
        detach(self.base.unet, NAME)

    def step(self) -> float:
        """One optimiser step; returns its loss."""
        loss = self.loss()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, self.config.optimizer.max_grad_norm)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        return loss.item()

    def loss(self, given: Noise | None = None) -> Tensor:
        """The loss of one batch, with random choices of its own or given ones."""
        base, scheduler = self.base, self.base.scheduler
        given = given or self._drawn()
        latents = self.encode_pictures(self.read(given.rows), given.latent_noise)
        noise, timesteps = given.noise.to(base.device), given.timesteps.to(base.device)
        noisy = scheduler.add_noise(latents, noise, timesteps)
        text = self.encode_captions(given.rows)
        with base.autocast():
            answer = base.unet(noisy.to(base.dtype), timesteps, text).sample
        velocity = scheduler.config.prediction_type == "v_prediction"
        wanted = scheduler.get_velocity(latents, noise, timesteps) if velocity else noise
        errors = F.mse_loss(answer.float(), wanted.float(), reduction="none").mean((1, 2, 3))
        return (errors * self._weights(timesteps)).mean()

    def read(self, rows: Tensor) -> Tensor:
        """Decode the pictures' files, (n, 3, height, width) in [-1, 1]."""
        arrays = []
        for row in rows.tolist():
            with Image.open(self.images.root / self.images[row].path) as file:
                arrays.append(np.asarray(file.convert("RGB")))
        return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 127.5 - 1

    @torch.no_grad()
    def encode_pictures(self, pixels: Tensor, latent_noise: Tensor) -> Tensor:
        """A draw from the VAE's distribution, in the U-Net's scale."""
        vae = self.base.vae
        moments = vae.encode(pixels.to(self.base.device)).latent_dist
        latents = moments.mean + moments.std * latent_noise.to(self.base.device)
        return latents * vae.config.scaling_factor

    @torch.no_grad()
    def encode_captions(self, rows: Tensor) -> Tensor:
        """Tokenise and embed the captions."""
        captions = [self.images.captions[row] for row in rows.tolist()]
        tokenizer = self.base.tokenizer
        ids = tokenizer(
            captions,
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        return self.base.text_encoder(ids.to(self.base.device))[0]

    def _drawn(self) -> Noise:
        base, n = self.base, self.config.batch_size
        side = self.images[0].height // base.vae_factor
        shape = (n, base.unet.config.in_channels, side, side)
        generator = self.generator
        levels = len(base.scheduler.alphas_cumprod)
        return Noise(
            rows=torch.randint(len(self.images), (n,), generator=generator),
            timesteps=torch.randint(levels, (n,), generator=generator),
            noise=torch.randn(shape, generator=generator),
            latent_noise=torch.randn(shape, generator=generator),
        )

    def _weights(self, timesteps: Tensor) -> Tensor:
        """min-SNR weights, as the example has them."""
        gamma = self.config.loss.min_snr_gamma
        if gamma is None:
            return torch.ones(len(timesteps), device=timesteps.device)
        alphas = self.base.scheduler.alphas_cumprod.to(timesteps.device)[timesteps].float()
        snr = alphas / (1 - alphas)
        weights = snr.clamp(max=gamma)
        velocity = self.base.scheduler.config.prediction_type == "v_prediction"
        return weights / (snr + 1 if velocity else snr)
