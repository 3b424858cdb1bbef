"""Looking at an adapter while it trains: a loss on pictures that it does not see, samples, scores.

A look changes nothing in the training but, where it is asked for, when it ends and which of its
states is kept.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from blockwise_lora.diffusion import optimizers
from blockwise_lora.diffusion.base import BaseModel
from blockwise_lora.diffusion.batches import Batch, predict
from blockwise_lora.diffusion.caches import CachedSet
from blockwise_lora.diffusion.config import CaptionConfig, PriorConfig, TrainingConfig
from blockwise_lora.diffusion.draws import generator_for
from blockwise_lora.diffusion.learner import Learner, TrainingError
from blockwise_lora.diffusion.sampling import SamplingConfig, batch_for, sample
from blockwise_lora.imagesets import ImageSet

_PICTURES = 32  # of the held-out loss, each with noise of its own; fewer vary too much
HELD_OUT_LOSS = "held_out_loss"

Judge = Callable[[str, Sequence[Image.Image], Sequence[str]], Mapping[str, float]]
"""Scores of sample pictures, higher is better: from the adapter's name, pictures and prompts."""


@dataclass(frozen=True, eq=False)
class Look:
    """What was seen of an adapter.

    Attributes:
        step: steps done.
        values: the held-out loss, and the judges' scores, by name.
        pictures: one for each prompt and seed.
    """

    step: int
    values: Mapping[str, float]
    pictures: tuple[Image.Image, ...] = ()


@dataclass(frozen=True)
class Watching:
    """What a caller gives to the looks, and wants of them.

    Attributes:
        judge: scores sample pictures; needed where `validation.judge` is set.
        judge_sha256: of what the judge's scores depend on, such as its weights; where they decide
            which adapter is kept, another judge's saved states are of another training.
        on_look: is told each look with the adapter's name.
        notes: what is to be kept with a saved state, such as the id of the run that records it.
        on_resume: is told those notes when a training goes on from a saved state.
    """

    judge: Judge | None = None
    judge_sha256: str = ""
    on_look: Callable[[str, Look], None] = lambda name, look: None
    notes: Callable[[], Mapping[str, str]] = dict
    on_resume: Callable[[Mapping[str, str]], None] = lambda notes: None


ALONE = Watching()
"""Nobody watches."""


def split_off(images: ImageSet, config: TrainingConfig) -> tuple[ImageSet, ImageSet | None]:
    """Pictures to train on, and those that are kept from it.

    Raises:
        TrainingError: nothing would be left.
    """
    count = config.validation.held_out
    if not count:
        return images, None
    if count >= len(images):
        raise TrainingError(
            f"training.validation.held_out: {count} of {len(images)} pictures leave none to train "
            f"on. Hold out fewer, or none (0)."
        )
    order = torch.randperm(len(images), generator=generator_for(config.seed, "held out")).tolist()
    held = set(order[:count])
    parts = [
        tuple(picture for i, picture in enumerate(images) if (i in held) == out)
        for out in (False, True)
    ]
    return replace(images, pictures=parts[0]), replace(images, pictures=parts[1])


class Watcher:
    """The looks at one adapter.

    Args:
        base: the model.
        learner: the adapter's training.
        held_out: pictures that it does not see, if there are any.
        watching: what the caller gives.

    Raises:
        TrainingError: scores are asked for, but there is no judge.
    """

    def __init__(
        self,
        base: BaseModel,
        learner: Learner,
        held_out: CachedSet | None = None,
        watching: Watching = ALONE,
    ) -> None:
        self.base, self.learner, self.held_out, self.watching = base, learner, held_out, watching
        self.config = learner.config.validation
        self.looks: list[Look] = []
        self.best: Look | None = None
        self._weights: Tensor | None = None
        if self.config.judge and watching.judge is None:
            raise TrainingError(
                "training.validation.judge: there is no judge here. Leave it out, or train by "
                "`kedro run`, which has one."
            )

    @property
    def due(self) -> bool:
        """Whether to look now: every so many steps, and at the end."""
        every, learner = self.config.every, self.learner
        return bool(every) and (learner.step % every == 0 or not learner.active)

    def look(self) -> Look:
        """Look at the adapter, which alone acts in the U-Net now, and decide what to keep."""
        values: dict[str, float] = {}
        if self.held_out:
            values[HELD_OUT_LOSS] = self._held_out_loss()
        pictures = self._sample()
        if self.config.judge:
            values |= self.watching.judge(self.learner.name, pictures, self._prompts)
        look = Look(self.learner.step, values, tuple(pictures))
        self.looks.append(look)
        self._compare(look)
        self.watching.on_look(self.learner.name, look)
        return look

    def keep_best(self) -> None:
        """Put the best look's weights in place of the last ones, where that was asked for."""
        if self._weights is not None:
            _fill(self.learner.parameters, self._weights)

    @property
    def _prompts(self) -> list[str]:
        return [prompt for prompt in self.config.prompts for _ in self.config.seeds]

    def _sample(self) -> list[Image.Image]:
        if not self.config.prompts:
            return []
        seeds = list(self.config.seeds) * len(self.config.prompts)
        sampling = SamplingConfig(
            self.config.sampling_steps,
            self.config.guidance_scale,
            batch_size=batch_for(self.base.resolution),
        )
        title = f"{self.learner.name} at step {self.learner.step}"
        remedy = "Leave training.validation.prompts out, or take base_model.dtype: bfloat16"
        return sample(self.base, self._prompts, seeds, sampling, title=title, remedy=remedy)

    @torch.no_grad()
    def _held_out_loss(self) -> float:
        """At the same noise and levels in every look."""
        probe = replace(self.learner.config, seed=0, prior=PriorConfig(), captions=CaptionConfig())
        turns = range(-(-_PICTURES // probe.batch_size))
        batches = (Batch.of(self.base, self.held_out, probe, turn) for turn in turns)
        losses = [batch.loss(predict(self.base, [batch])) for batch in batches]
        return torch.stack(losses).mean().item()

    def _compare(self, look: Look) -> None:
        if self.config.best_by is None:
            return
        if self.best is None or self._merit(look) > self._merit(self.best):
            self.best, self._weights = look, optimizers.joined(self.learner.parameters).clone()
        self._stop_if_stale()

    def _stop_if_stale(self) -> None:
        if self.config.patience and self.best is not None:
            since = len(self.looks) - 1 - self.looks.index(self.best)
            self.learner.stopped = since >= self.config.patience

    def _merit(self, look: Look) -> float:
        if self.config.best_by == "loss":
            merit = -look.values[HELD_OUT_LOSS]
        else:
            merit = fmean(v for name, v in look.values.items() if name != HELD_OUT_LOSS)
        return merit if math.isfinite(merit) else -math.inf  # nothing is greater than NaN

    def state(self) -> dict[str, Tensor]:
        """All that `restore` needs."""
        best = None if self.best is None else self.looks.index(self.best)
        about = {"best": best, "looks": [[look.step, dict(look.values)] for look in self.looks]}
        tensors = {"watch/about": _bytes(json.dumps(about))}
        if self._weights is not None:
            tensors["watch/weights"] = self._weights
        for i, look in enumerate(self.looks):
            if look.pictures:
                shown = np.stack([np.array(picture) for picture in look.pictures])
                tensors[f"watch/pictures/{i}"] = torch.from_numpy(shown)
        return tensors

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go back to a saved state.

        Raises:
            KeyError: the state is of another training.
        """
        about = json.loads(bytes(tensors["watch/about"].tolist()))
        self.looks = [
            Look(step, values, _pictures(tensors.get(f"watch/pictures/{i}")))
            for i, (step, values) in enumerate(about["looks"])
        ]
        self.best, self._weights = None, None
        if about["best"] is not None:
            self.best = self.looks[about["best"]]
            self._weights = tensors["watch/weights"].to(self.learner.parameters[0].device)
        self._stop_if_stale()


@torch.no_grad()
def _fill(parameters: Sequence[Tensor], values: Tensor) -> None:
    for parameter, part in zip(parameters, optimizers.split(values, parameters), strict=True):
        parameter.copy_(part)


def _bytes(text: str) -> Tensor:
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


def _pictures(shown: Tensor | None) -> tuple[Image.Image, ...]:
    return () if shown is None else tuple(Image.fromarray(p.numpy()) for p in shown)
