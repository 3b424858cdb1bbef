"""The training loop: cached pictures in, an adapter and its loss curve out.

    trained = train(load_base("data/06_models/base"), images, AdapterSpec(), TrainingConfig())

A step draws its pictures, noise levels and noise as a function of (seed, step) alone, so the
result depends on the arguments and not on what the process did before, and a run that was killed
ends with the same bits as one that was not.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from blockwise_lora.adapters.attach import Attached, attach, detach, trainable_parameters
from blockwise_lora.adapters.spec import AdapterSpec
from blockwise_lora.diffusion.base import BaseModel
from blockwise_lora.diffusion.caches import CachedSet
from blockwise_lora.diffusion.checkpoints import Checkpoint, configuration_hash
from blockwise_lora.diffusion.config import TrainingConfig
from blockwise_lora.diffusion.draws import Draw, draw, generator_for
from blockwise_lora.diffusion.learner import Learner, TrainingError
from blockwise_lora.diffusion.objective import (
    add_noise,
    loss_per_picture,
    min_snr_weight,
    target,
)
from blockwise_lora.imagesets import ImageSet

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """A finished training; the adapter is in the base model's U-Net, active.

    Attributes:
        attached: what was attached, and under which name.
        losses: of every step, each the weighted mean over its batch.
        data_sha256: of the pictures and captions.
        seconds: of this process's share of the training.
        resumed_from: steps that an earlier process had done.
    """

    attached: Attached
    losses: tuple[float, ...]
    data_sha256: str
    seconds: float
    resumed_from: int


def train(
    base: BaseModel,
    images: ImageSet,
    spec: AdapterSpec,
    config: TrainingConfig,
    *,
    name: str = "adapter",
    checkpoint_dir: Path | None = None,
    cache_dir: Path | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Trained:
    """Train one adapter.

    Args:
        base: the model; on failure its U-Net is as before.
        images: pictures of one size, with captions.
        spec: which blocks, method and ranks.
        config: how.
        name: of the adapter in the U-Net, and in messages.
        checkpoint_dir: where states are saved to go on from; None: nowhere.
        cache_dir: where latents are kept for other runs; None: nowhere.
        on_step: called after each step with the number of steps done.

    Raises:
        MaskError: the mask does not fit the model.
        ResolutionError: the pictures' size does not.
        TrainingError: no pictures, float16, a loss that is not finite, or no memory.
    """
    _check(base, images, config)
    data = images.sha256
    checkpoint = checkpoint_dir and Checkpoint.of(
        checkpoint_dir, _training_key(base, data, spec, config)
    )
    attached = attach(base.unet, spec, name, generator_for(config.seed, "initial weights"))
    try:
        cached = CachedSet.of(base, images, cache_dir)
        learner = Learner(name, trainable_parameters(base.unet, name), config)
        resumed_from = _resume(learner, checkpoint)
        began = time.monotonic()
        with _memory_explained(config), _gradient_checkpointing(base, config):
            _loop(base, cached, learner, checkpoint, on_step)
    except BaseException:
        detach(base.unet, name)
        raise
    if checkpoint:
        checkpoint.remove()
    seconds = time.monotonic() - began
    return Trained(attached, tuple(learner.losses()), data, seconds, resumed_from)


def _loop(
    base: BaseModel,
    cached: CachedSet,
    learner: Learner,
    checkpoint: Checkpoint | None,
    on_step: Callable[[int], None] | None,
) -> None:
    config = learner.config
    shape, levels = tuple(cached.mean.shape[1:]), len(base.scheduler.alphas_cumprod)
    alphas = base.scheduler.alphas_cumprod.to(base.device, torch.float32)
    with _progress(learner) as bar:
        while learner.step < config.steps:
            draws = draw(config, learner.step, len(cached), shape, levels)
            loss = batch_loss(base, cached, draws, alphas, config.min_snr_gamma)
            loss.backward()
            learner.update(loss)
            bar.update()
            last = learner.step == config.steps
            save = checkpoint and not last and learner.step % config.checkpoint_every == 0
            if save or last or learner.step % config.log_every == 0:
                bar.set_postfix(loss=f"{learner.check():.4f}", refresh=False)
            if save:
                checkpoint.save(learner.step, learner.state())
            if on_step:
                on_step(learner.step)


def batch_loss(
    base: BaseModel, cached: CachedSet, draws: Draw, alphas: Tensor, gamma: float | None
) -> Tensor:
    """The mean loss of one batch.

    Args:
        base: the model with the adapter active.
        cached: the set.
        draws: the step's random choices.
        alphas: cumulative products of the noise schedule, on the device.
        gamma: of min-SNR weighting; None: unweighted.
    """
    draws = draws.to(base.device)
    a_t, kind = alphas[draws.timesteps], base.prediction_type
    latents = cached.mean[draws.rows] + cached.std[draws.rows] * draws.latent_noise
    captions = torch.where(draws.dropped, len(cached.embeddings) - 1, cached.caption[draws.rows])
    with base.autocast():
        prediction = base.unet(
            add_noise(latents, draws.noise, a_t).to(base.dtype),
            draws.timesteps,
            encoder_hidden_states=cached.embeddings[captions],
        ).sample
    weight = None if gamma is None else min_snr_weight(kind, a_t, gamma)
    wanted = target(kind, latents, draws.noise, a_t)
    return loss_per_picture(prediction, wanted, weight).mean()


def _training_key(base: BaseModel, data: str, spec: AdapterSpec, config: TrainingConfig) -> str:
    return configuration_hash(
        base=base.sha256,
        data=data,
        spec=spec.to_json(),
        config=config,
        machine=[base.device.type, str(base.dtype), torch.__version__],
    )


def _check(base: BaseModel, images: ImageSet, config: TrainingConfig) -> None:
    if not len(images):
        raise TrainingError(f"{images.root}: no pictures to train on. Curate some first.")
    if base.dtype == torch.float16:
        raise TrainingError(
            "base_model.dtype: float16 gradients underflow. Train in bfloat16, or in float32 on a "
            "card without it; float16 will do for sampling."
        )


def _resume(learner: Learner, checkpoint: Checkpoint | None) -> int:
    saved = checkpoint.load() if checkpoint else None
    if saved is None:
        return 0
    learner.restore(*saved)
    log.info("%s: going on from the state saved at step %d", learner.name, learner.step)
    return learner.step


@contextmanager
def _progress(learner: Learner):
    """A bar with loss, speed and time left; a line every 10 s where there is no terminal."""
    interval = 0.2 if sys.stderr.isatty() else 10.0
    with tqdm(
        desc=f"training {learner.name}",
        total=learner.config.steps,
        initial=learner.step,
        unit="step",
        mininterval=interval,
        maxinterval=max(10.0, interval),
        dynamic_ncols=True,
    ) as bar:
        yield bar


@contextmanager
def _gradient_checkpointing(base: BaseModel, config: TrainingConfig):
    if config.gradient_checkpointing:
        base.unet.enable_gradient_checkpointing()
    try:
        yield
    finally:
        base.unet.disable_gradient_checkpointing()


@contextmanager
def _memory_explained(config: TrainingConfig):
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError is one; the CPU has no type of its own
        if isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error):
            raise TrainingError(
                f"out of memory at batch size {config.batch_size}. Lower training.batch_size, or "
                f"set training.gradient_checkpointing: true; then run again."
            ) from error
        raise
