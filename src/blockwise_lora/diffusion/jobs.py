"""From jobs to what trains: pictures cached, adapters attached, optimisers made."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from blockwise_lora.adapters.attach import Attached, attach
from blockwise_lora.adapters.spec import AdapterSpec
from blockwise_lora.blocks.text_encoder import BASE
from blockwise_lora.diffusion.base import BaseModel
from blockwise_lora.diffusion.batched import BatchedAdapters
from blockwise_lora.diffusion.caches import CachedSet
from blockwise_lora.diffusion.checkpoints import configuration_hash
from blockwise_lora.diffusion.config import TrainingConfig
from blockwise_lora.diffusion.draws import generator_for
from blockwise_lora.diffusion.learner import Learner
from blockwise_lora.diffusion.looks import Watcher, Watching, split_off
from blockwise_lora.diffusion.loop import Member
from blockwise_lora.diffusion.optimizers import Group, OptimizerError
from blockwise_lora.diffusion.prior import class_pictures
from blockwise_lora.diffusion.trigger import learned_trigger
from blockwise_lora.imagesets import ImageSet

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """One adapter to train.

    Attributes:
        name: of the adapter in the model, and in messages.
        images: pictures with captions; sizes may differ.
        spec: which blocks, method and ranks.
        config: how.
    """

    name: str
    images: ImageSet
    spec: AdapterSpec
    config: TrainingConfig


def members_of(
    base: BaseModel,
    jobs: Sequence[Job],
    cache_dir: Path | None,
    done: list[Attached],
    watching: Watching,
) -> tuple[list[Member], BatchedAdapters]:
    """Attach and cache.

    Args:
        base: the model.
        jobs: what to train.
        cache_dir: where what is cached is kept; None: nowhere.
        done: what was attached is appended to it at once, for the caller to undo it.
        watching: for the looks at the adapters.
    """
    words: dict[str, list[Group]] = {}
    for job in jobs:
        initial = generator_for(job.config.seed, "initial weights")
        done.append(attach(base.parts, job.spec, job.name, initial))
        if job.config.trigger_embedding.train:
            words[job.name] = [learned_trigger(base, job.name, job.images, job.config)]
    caches: dict[Hashable, tuple[CachedSet, CachedSet | None]] = {}
    for job in jobs:
        if _data_key(base, job) not in caches:
            caches[_data_key(base, job)] = _cached(base, job, cache_dir)
    adapters = BatchedAdapters(base.parts, [job.name for job in jobs], words)
    members = []
    for job, attached in zip(jobs, done, strict=True):
        cached, held_out = caches[_data_key(base, job)]
        groups = _groups(adapters, job, attached) + words.get(job.name, [])
        learner = Learner(job.name, groups, job.config, half=base.dtype == torch.float16)
        watcher = Watcher(base, learner, held_out, watching)
        members.append(Member(learner, cached, training_key(base, job, watching), watcher))
    return members, adapters


def learns_text(base: BaseModel, job: Job) -> bool:
    """Whether the job changes what the U-Net is told of a prompt.

    Raises:
        MaskError: the mask does not fit the model.
    """
    in_mask = BASE in job.spec.mask.selected(base.blocks)
    return in_mask or job.config.trigger_embedding.train


def training_key(base: BaseModel, job: Job, watching: Watching) -> str:
    """Hash of all that determines a training's result on this machine."""
    scored = job.config.validation.best_by == "score"
    judge = {"judge": watching.judge_sha256} if scored else {}
    return configuration_hash(
        base=base.sha256,
        data=job.images.sha256,
        spec=job.spec.to_json(),
        config=job.config.decisive,
        machine=[base.device.type, str(base.dtype), torch.__version__],
        **judge,
    )


def _groups(adapters: BatchedAdapters, job: Job, attached: Attached) -> list[Group]:
    optimizer = job.config.optimizer
    groups = adapters.groups(
        job.name,
        attached.rates,
        up=optimizer.lora_plus_ratio,
        full=job.spec.method == "full",
        joined=optimizer.name == "adamw",
    )
    # A layer's weights of a method without factors A and B are all one group's.
    filled = [group for group in groups if group.parameters]
    if optimizer.lora_plus_ratio != 1 and len(filled) < 2:
        raise OptimizerError(
            f"training.optimizer.lora_plus_ratio: method {job.spec.method} has no up factors that "
            f"could learn at a rate of their own; leave it at 1, or take lora, locon or dora."
        )
    return filled


def _data_key(base: BaseModel, job: Job) -> Hashable:
    """Equal for jobs that can share what is cached of their pictures and captions."""
    config = job.config
    about = (config.captions, config.augment, config.loss, config.prior, config.trigger)
    held_out = config.validation.held_out
    chance = (
        config.captions.shuffle
        or config.captions.tag_dropout
        or config.prior.kind != "none"
        or held_out
    )
    seed = config.seed if chance else None
    word = job.name if config.trigger_embedding.train else None  # each has ids of its own
    return job.images.sha256, about, held_out, seed, learns_text(base, job), word


def _cached(base: BaseModel, job: Job, folder: Path | None) -> tuple[CachedSet, CachedSet | None]:
    """What is trained on, and what is kept from it, if anything."""
    images, held_out = split_off(job.images, job.config)
    painted, encoded = folder and folder / "class_pictures", not learns_text(base, job)
    if not encoded:
        log.info("%s: what captions mean is learned, so each step encodes them anew.", job.name)
    with (
        class_pictures(base, images, job.config, painted) as prior,
        base.vocabulary.only([job.name]),
    ):
        cached = CachedSet.of(base, images, job.config, folder, prior, encoded=encoded)
        kept = held_out and CachedSet.of(base, held_out, folder=folder, encoded=encoded)
    return cached, kept
