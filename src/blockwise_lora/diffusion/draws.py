"""What a training step sees, as a function of (seed, turn) alone.

A turn is one batch: a step has as many as gradients are accumulated over. There is no running
generator whose state would have to be kept: a run that is resumed, or that shares its process with
others, draws the same. All draws are made on the CPU, so that a GPU run has the same ones.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from blockwise_lora.diffusion.config import NoiseConfig, TrainingConfig
from blockwise_lora.diffusion.objective import offset_noise, pyramid_noise


@dataclass(frozen=True)
class Draw:
    """The random choices of one turn, on the CPU.

    Attributes:
        rows: pictures, (batch,) int64.
        view: a number in [0, 1) for each picture, by which one of its views is chosen.
        wording: likewise for its wordings.
        timesteps: (batch,) int64.
        noise: (batch, channels, height, width).
        latent_noise: of the VAE's distribution, likewise.
        dropped: pictures whose caption is left out, (batch,) bool.
    """

    rows: Tensor
    view: Tensor
    wording: Tensor
    timesteps: Tensor
    noise: Tensor
    latent_noise: Tensor
    dropped: Tensor

    def to(self, device: torch.device) -> Draw:
        """The same on another device."""
        return Draw(**{f.name: sent(getattr(self, f.name), device) for f in fields(self)})


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on the model's device, without a wait for the device."""
    # From ordinary memory a card is sent nothing before it has done all that it was told.
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def generator_for(seed: int, *purpose: object) -> torch.Generator:
    """A CPU generator of its own for each purpose, unrelated to the others."""
    digest = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def draw(
    config: TrainingConfig,
    turn: int,
    order: Tensor,
    shape: tuple[int, ...],
    levels: int,
    *,
    purpose: str = "",
    size: int | None = None,
) -> Draw:
    """The choices of one turn.

    Args:
        config: names seed, batch size and ways of drawing.
        turn: from 0.
        order: pictures of one pass, each as often as it is to be shown.
        shape: of one picture's latents, (channels, height, width).
        levels: number of noise levels of the model's schedule.
        purpose: draws of another purpose are unrelated.
        size: pictures in the batch; None: the configuration's batch size.
    """
    n = size or config.batch_size
    generator = generator_for(config.seed, "turn", purpose, turn)
    noise = torch.randn(n, *shape, generator=generator)
    latent_noise = torch.randn(n, *shape, generator=generator)
    if config.noise.offset:
        shift = torch.randn(n, shape[0], generator=generator)
        noise = offset_noise(noise, shift, config.noise.offset)
    if config.noise.pyramid:
        noise = pyramid_noise(noise, config.noise.pyramid, generator)
    chances = torch.rand(3, n, generator=generator)
    return Draw(
        rows=_rows(config.seed, purpose, turn, n, order),
        view=chances[0],
        wording=chances[1],
        timesteps=draw_timesteps(config.noise, n, levels, generator),
        noise=noise,
        latent_noise=latent_noise,
        dropped=chances[2] < config.captions.dropout,
    )


def choose(table: Tensor, rows: Tensor, chance: Tensor) -> Tensor:
    """One column of each row, by a number in [0, 1): (n,) out of (pictures, columns)."""
    return table[rows, (chance * table.shape[1]).long()]


def shelf_of(config: TrainingConfig, turn: int, counts: Sequence[int]) -> tuple[int, int]:
    """Which shelf a turn takes its pictures from, since a batch has pictures of one size only.

    A cycle has as many turns of each shelf as its pictures fill batches, in an order of its own.

    Args:
        config: names seed and batch size.
        turn: from 0.
        counts: pictures in a pass of each shelf.

    Returns:
        The shelf, and how many turns it has had before.
    """
    if len(counts) == 1:
        return 0, turn
    batches = [math.ceil(count / config.batch_size) for count in counts]
    cycle, place = divmod(turn, sum(batches))
    shelves = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(batches))
    mixed = torch.randperm(len(shelves), generator=generator_for(config.seed, "shelves", cycle))
    taken = shelves[mixed].tolist()
    shelf = taken[place]
    return shelf, cycle * batches[shelf] + taken[:place].count(shelf)


def draw_timesteps(config: NoiseConfig, n: int, levels: int, generator: torch.Generator) -> Tensor:
    """Noise levels, (n,) int64.

    Args:
        config: the way of drawing, and the range.
        n: how many.
        levels: of the model's schedule.
        generator: on the CPU.
    """
    if config.timesteps == "stratified":
        # One from each of n equal ranges, in random order: each is still uniform over all levels.
        place = (torch.randperm(n, generator=generator) + torch.rand(n, generator=generator)) / n
    elif config.timesteps == "logit_normal":
        normal = torch.randn(n, generator=generator)
        place = torch.sigmoid(config.logit_mean + config.logit_std * normal)
    else:
        place = torch.rand(n, generator=generator)
        if config.timesteps == "cubic":
            place = 1 - place**3
    low, high = config.lowest * levels, config.highest * levels
    return (low + place * (high - low)).long().clamp(max=levels - 1)


def _rows(seed: int, purpose: str, turn: int, n: int, order: Tensor) -> Tensor:
    """The next n of an endless row of shuffled passes through the set."""
    shown = len(order)
    places = range(turn * n, (turn + 1) * n)
    passes = {
        p: torch.randperm(shown, generator=generator_for(seed, "pass", purpose, p))
        for p in {place // shown for place in places}
    }
    return torch.stack([order[passes[place // shown][place % shown]] for place in places])
