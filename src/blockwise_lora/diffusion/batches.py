"""What the U-Net is shown in one turn of one adapter, and what it should answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from blockwise_lora.diffusion.base import BaseModel
from blockwise_lora.diffusion.caches import CachedSet, Shelf
from blockwise_lora.diffusion.config import TrainingConfig
from blockwise_lora.diffusion.draws import Draw, choose, draw, sent, shelf_of
from blockwise_lora.diffusion.objective import (
    add_noise,
    loss_per_picture,
    min_snr_weight,
    target,
)
from blockwise_lora.diffusion.text import Prompts, TokenIds, cat


@dataclass(frozen=True, eq=False)  # a batch is equal to itself alone
class Batch:
    """One turn's inputs and targets, on the model's device.

    Attributes:
        noisy: x_t, (n, channels, height, width), in the model's precision.
        timesteps: (n,) int64.
        text: of the captions, n of them; token ids where the text encoders learn, too.
        frames: what SDXL is told of the pictures' sizes, (n, 6).
        wanted: what the U-Net should answer, of x_t's shape, float32.
        weight: of each picture in the loss, (n,).
        mask: what of each picture counts, (n, 1, height, width); None: all.
        huber_delta: see `loss_per_picture`.
        taught: how many of the last pictures have to be answered as the base model does; their
            part of `wanted` is to be filled in by `taught_by`.
    """

    noisy: Tensor
    timesteps: Tensor
    text: Prompts
    frames: Tensor
    wanted: Tensor
    weight: Tensor
    mask: Tensor | None = None
    huber_delta: float | None = None
    taught: int = 0

    @classmethod
    def of(cls, base: BaseModel, cached: CachedSet, config: TrainingConfig, turn: int) -> Batch:
        """The batch of one turn, which depends on (set, configuration, turn) alone.

        Args:
            base: the model.
            cached: the picture set.
            config: seed, batch size, objective.
            turn: from 0; steps times batches per step.
        """
        counts = [len(shelf.order) for shelf in cached.shelves]
        which, place = shelf_of(config, turn, counts)
        shelf = cached.shelves[which]
        # Each counts turns of its own: shelves of equal area would draw the same in their first.
        size = "x".join(map(str, shelf.shape[1:])) if len(counts) > 1 else ""
        part = partial(_part, base, cached, config)
        levels = len(base.scheduler.alphas_cumprod)
        draws = draw(config, place, shelf.order, shelf.shape, levels, purpose=size)
        parts = [part(shelf, draws, config.loss.min_snr_gamma)]
        done = turn // config.accumulation / config.steps
        if extra := config.prior.rows(config.batch_size, done):
            source = cached.prior or shelf
            purpose = f"prior{size}"
            draws = draw(
                config, place, source.order, source.shape, levels, purpose=purpose, size=extra
            )
            wording = None if cached.prior else shelf.untriggered
            gamma = config.prior.min_snr_gamma or config.loss.min_snr_gamma
            parts.append(part(source, draws, gamma, wording, config.prior.weight))
        batch = _joined(parts)
        taught = extra if config.prior.kind == "distil" else 0
        return replace(batch, taught=taught)

    @property
    def shape(self) -> tuple[int, ...]:
        """Batches of one shape fit into one pass."""
        return tuple(self.noisy.shape)

    @property
    def kind(self) -> tuple:
        """Equal for batches that differ in the numbers alone that their tensors hold."""
        return self.huber_delta, *((tuple(t.shape), t.dtype) for t in self.tensors())

    def tensors(self) -> list[Tensor]:
        """All that it holds, in one order."""
        held = [self.noisy, self.timesteps, *self.text.tensors()]
        held += [self.frames, self.wanted, self.weight]
        return held if self.mask is None else [*held, self.mask]

    @property
    def learns_text(self) -> bool:
        """Whether the captions mean something else to each adapter."""
        return isinstance(self.text, TokenIds)

    def loss(self, prediction: Tensor) -> Tensor:
        """Weighted mean loss over the batch, a scalar.

        Args:
            prediction: the U-Net's answer, of x_t's shape.
        """
        losses = loss_per_picture(prediction, self.wanted, self.mask, self.huber_delta)
        return (losses * self.weight).sum()

    @torch.no_grad()
    def taught_by(self, base: BaseModel) -> Batch:
        """The batch with the base model's own answers, as it is set now, where they are wanted."""
        if not self.taught:
            return self
        last = slice(-self.taught, None)
        answer = base.answer(
            self.noisy[last], self.timesteps[last], self.text[last], self.frames[last]
        )
        return replace(self, wanted=torch.cat([self.wanted[: -self.taught], answer.float()]))


def _part(
    base: BaseModel,
    cached: CachedSet,
    config: TrainingConfig,
    shelf: Shelf,
    draws: Draw,
    gamma: float | None,
    wording: Tensor | None = None,
    weight: float = 1.0,
) -> Batch:
    """Some of a batch's pictures.

    Args:
        base: the model.
        cached: whose text table the shelf speaks of.
        config: objective.
        shelf: where the pictures are.
        draws: which ones, and how they are noised.
        gamma: cap on the weight of nearly noiseless steps; None: all levels alike.
        wording: other captions than the shelf's own.
        weight: of all of these pictures together.
    """
    kind = base.prediction_type
    schedule = base.scheduler.alphas_cumprod
    a_t = sent(schedule[draws.timesteps].float(), base.device)
    draws = draws.to(base.device)
    entry = choose(shelf.entry, draws.rows, draws.view)
    latents = shelf.mean[entry] + shelf.std[entry] * draws.latent_noise
    words = choose(shelf.wording if wording is None else wording, draws.rows, draws.wording)
    n = len(entry)
    weights = torch.full((n,), weight / n, device=base.device)
    return Batch(
        noisy=add_noise(latents, draws.noise, a_t).to(base.dtype),
        timesteps=draws.timesteps,
        text=cached.text[torch.where(draws.dropped, len(cached.text) - 1, words)],
        frames=shelf.frames[entry],
        wanted=target(kind, latents, draws.noise, a_t),
        weight=weights if gamma is None else weights * min_snr_weight(kind, a_t, gamma),
        mask=None if shelf.mask is None else shelf.mask[entry],
        huber_delta=config.loss.huber_delta if config.loss.kind == "huber" else None,
    )


def _joined(parts: Sequence[Batch]) -> Batch:
    """Parts of one configuration as one batch."""
    if len(parts) == 1:
        return parts[0]
    names = ("noisy", "timesteps", "frames", "wanted", "weight")
    tensors = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
    mask = None
    if any(part.mask is not None for part in parts):
        whole = [torch.ones_like(part.noisy[:, :1], dtype=torch.float32) for part in parts]
        masks = [p.mask if p.mask is not None else w for p, w in zip(parts, whole, strict=True)]
        mask = torch.cat(masks)
    text = cat([part.text for part in parts])
    return replace(parts[0], text=text, mask=mask, **tensors)


def predict(base: BaseModel, batches: Sequence[Batch]) -> Tensor:
    """The U-Net's answer to several batches at once, one below the other."""

    def joined(name: str) -> Tensor:
        parts = [getattr(batch, name) for batch in batches]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    text = cat([batch.text for batch in batches])
    return base.answer(joined("noisy"), joined("timesteps"), text, joined("frames"))
