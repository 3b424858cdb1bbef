"""Pictures from prompts.

A picture depends on its prompt and seed, not on what else is in its batch: each starts from noise
of a CPU generator of its own, so pictures of different conditions with the same seed are paired,
on a GPU as well.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from blockwise_lora.diffusion.text import Text
from blockwise_lora.errors import UserError

if TYPE_CHECKING:
    from blockwise_lora.diffusion.base import BaseModel


StepHook = Callable[[int, int], None]
"""Called before each denoising step with its number, from 0, and the number of steps. It may set
strengths or choose among attached adapters."""


_AT_ONCE = 8 * 512**2  # pixels in a batch: 8 pictures of 512 px, 2 of 1024 px


class SamplingError(UserError):
    """Pictures that cannot be sampled as asked."""


@dataclass(frozen=True)
class SamplingConfig:
    """How pictures are sampled.

    Raises:
        ValueError: listing every value out of range.
    """

    steps: int = 20
    """Network evaluations per picture (twice as many with guidance)."""
    guidance_scale: float = 4.0
    """How far to go from the unconditional answer towards the prompt; 1: not beyond it."""
    scheduler: Literal["dpm++2m", "euler", "ddim"] = "dpm++2m"
    """The solver. dpm++2m needs the fewest steps."""
    negative_prompt: str = ""
    """What to go away from."""
    size: int | None = None
    """Side in pixels; null: what the base model was made for."""
    center_noise: bool = False
    """Start from noise whose channels have mean 0. Stable Diffusion's schedule leaves 7% of the
    picture in its last step, so the model reads brightness and colour off the noise's mean (Lin et
    al., Common Diffusion Noise Schedules and Sample Steps are Flawed, 2023). A small model follows
    that chance further than its prompt."""
    batch_size: int = 8
    """Pictures at once; a matter of memory and speed only."""

    def __post_init__(self) -> None:
        mistakes = [
            f"{name} is at least 1, not {getattr(self, name)}"
            for name in ("steps", "batch_size")
            if getattr(self, name) < 1
        ]
        if not self.guidance_scale >= 1:
            mistakes.append(f"guidance_scale is at least 1, not {self.guidance_scale}")
        if self.size is not None and self.size < 1:
            mistakes.append(f"size is positive or null, not {self.size}")
        if mistakes:
            raise ValueError("\n".join(mistakes))


def batch_for(side: int) -> int:
    """Pictures to sample at once where nobody says how many.

    Args:
        side: theirs, in pixels.
    """
    return min(SamplingConfig.batch_size, max(1, _AT_ONCE // side**2))


def sample(
    base: BaseModel,
    prompts: Sequence[str],
    seeds: Sequence[int],
    config: SamplingConfig,
    *,
    title: str = "sampling",
    before_step: StepHook | None = None,
    remedy: str = "Lower combination.sampling.batch_size, or combination.sampling.size",
) -> list[Image.Image]:
    """Sample one picture for each pair of prompt and seed, with the adapters as they are set.

    Args:
        base: the model.
        prompts: n texts.
        seeds: n seeds of the initial noise.
        config: how.
        title: of the progress bar.
        before_step: what changes from one denoising step to the next, if anything does.
        remedy: what to do where memory does not suffice.

    Returns:
        n RGB pictures, in order.

    Raises:
        ValueError: the two lists differ in length.
        SamplingError: the size does not suit the model, or the memory the pictures.
    """
    if len(prompts) != len(seeds):
        raise ValueError(f"{len(prompts)} prompts but {len(seeds)} seeds")
    shape = _latent_shape(base, config)
    distinct = sorted(set(prompts))
    row = {prompt: i for i, prompt in enumerate(distinct)}
    pictures: list[Image.Image] = []
    interval = 0.2 if sys.stderr.isatty() else 10.0
    with (
        _explained(min(len(prompts), config.batch_size), shape[-1] * base.vae_factor, remedy),
        tqdm(total=len(prompts), desc=title, unit="picture", mininterval=interval) as bar,
    ):
        embeddings = base.encode_prompts([*distinct, config.negative_prompt])
        for start in range(0, len(prompts), config.batch_size):
            some = slice(start, start + config.batch_size)
            noise = torch.stack([initial_noise(seed, shape) for seed in seeds[some]])
            if config.center_noise:
                noise -= noise.mean(dim=(2, 3), keepdim=True)
            wanted = embeddings[[row[prompt] for prompt in prompts[some]]]
            noise = noise.to(base.device)
            latents = denoise(base, noise, wanted, embeddings[-1:], config, before_step)
            pictures += _to_pictures(base.decode(latents))
            bar.update(len(noise))
    return pictures


@contextmanager
def _explained(count: int, side: int, remedy: str) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        raise SamplingError(
            f"out of memory while sampling {count} pictures of {side} px at once. "
            f"{remedy}; then run again."
        ) from error


def out_of_memory(error: RuntimeError) -> bool:
    """Whether it says that memory does not suffice; on the CPU that has no type of its own."""
    return isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error)


def initial_noise(seed: int, shape: tuple[int, int, int]) -> Tensor:
    """Standard normal noise of a seed, made on the CPU: the same for every device and batch."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def denoise(
    base: BaseModel,
    noise: Tensor,
    wanted: Text,
    unwanted: Text,
    config: SamplingConfig,
    before_step: StepHook | None = None,
) -> Tensor:
    """Follow the U-Net from noise to latents.

    Args:
        base: the model.
        noise: (n, channels, height, width), standard normal, float32.
        wanted: n prompts.
        unwanted: the negative prompt.
        config: how.
        before_step: see `sample`.

    Returns:
        Latents in the U-Net's scale, float32.
    """
    solver = make_scheduler(base, config)
    latents = noise * solver.init_noise_sigma
    guided = config.guidance_scale > 1
    text = Text.cat([unwanted.expand(len(wanted)), wanted]) if guided else wanted
    height, width = (side * base.vae_factor for side in noise.shape[2:])
    frames = noise.new_tensor([[height, width, 0, 0, height, width]]).expand(len(text), -1)
    for step, t in enumerate(solver.timesteps):
        if before_step is not None:
            before_step(step, len(solver.timesteps))
        inputs = solver.scale_model_input(latents, t)
        inputs = torch.cat([inputs, inputs]) if guided else inputs
        answer = base.answer(inputs, t, text, frames).float()
        if guided:
            without, with_prompt = answer.chunk(2)
            answer = without + config.guidance_scale * (with_prompt - without)
        latents = solver.step(answer, t, latents, return_dict=False)[0]
    return latents


def make_scheduler(base: BaseModel, config: SamplingConfig) -> Any:
    """The solver, with the base model's own noise schedule and prediction type."""
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler

    schedule = base.scheduler.config
    if config.scheduler == "dpm++2m":
        solver = DPMSolverMultistepScheduler.from_config(
            schedule, algorithm_type="dpmsolver++", solver_order=2, use_karras_sigmas=True
        )
    elif config.scheduler == "euler":
        solver = EulerDiscreteScheduler.from_config(schedule)
    else:
        solver = DDIMScheduler.from_config(schedule)
    solver.set_timesteps(config.steps, device=base.device)
    return solver


def _latent_shape(base: BaseModel, config: SamplingConfig) -> tuple[int, int, int]:
    size = config.size or base.resolution
    if size % base.multiple:
        raise SamplingError(
            f"combination.sampling.size: {size} is no multiple of {base.multiple}, as {base.name} "
            f"needs it. With null it is what the model was made for, {base.resolution}."
        )
    side = size // base.vae_factor
    return base.unet.config.in_channels, side, side


def _to_pictures(pixels: Tensor) -> list[Image.Image]:
    arrays = (pixels * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(np.ascontiguousarray(array)) for array in arrays]
