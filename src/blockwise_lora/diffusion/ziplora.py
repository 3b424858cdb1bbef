"""Learning ZipLoRA's column factors from the two adapters' picture sets.

Shah et al., ZipLoRA: Any Subject in Any Style by Effectively Merging LoRAs (arXiv 2311.13600),
equation 3. With both adapters at work, each behind one factor for every input column of a layer,
the U-Net should answer as with the content's alone on the content's pictures, and as with the
style's alone on the style's; and the two should use different columns:

    |answer_m(x_c) - answer_c(x_c)|^2 + |answer_m(x_s) - answer_s(x_s)|^2
        + lambda * sum over layers of |m_c . m_s| / n

Nothing but the factors is trained; they start at 1, the plain sum (appendix A). Two things differ
from the paper. The distances are means over all values, as losses are elsewhere here, and the last
term is divided by a layer's number of columns n, without which it would be hundreds of times the
others at the start. And all steps are made: the paper stops early where the last term reaches 0,
which the divided one does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from blockwise_lora.adapters import LowRank, detach, load_adapter, set_strengths
from blockwise_lora.adapters.layers import adapted_layers
from blockwise_lora.adapters.merge import MergeError, Weighted, ZipLora
from blockwise_lora.adapters.parts import part_of
from blockwise_lora.diffusion.base import BaseModel
from blockwise_lora.diffusion.batches import Batch, predict
from blockwise_lora.diffusion.caches import CachedSet
from blockwise_lora.diffusion.config import TrainingConfig
from blockwise_lora.imagesets import ImageSet
from blockwise_lora.parameters import asdict

_NAMES = ("ziplora_0", "ziplora_1")


@dataclass(frozen=True)
class ZipLoraConfig:
    """How the factors are learned.

    Raises:
        ValueError: listing every value out of range.
    """

    steps: int = 100
    """Optimiser steps; the most that the paper makes (section 4)."""
    learning_rate: float = 0.01
    """Adam's; the paper's (appendix A)."""
    overlap_weight: float = 0.01
    """lambda, how much sharing columns costs; the paper's (section 4)."""
    batch_size: int = 4
    """Pictures of each set a step."""
    seed: int = 0
    """Of pictures, noise levels and noise."""

    def __post_init__(self) -> None:
        low = {"steps": 1, "batch_size": 1, "overlap_weight": 0, "seed": 0}
        mistakes = [
            f"{name} is at least {bound}, not {getattr(self, name)}"
            for name, bound in low.items()
            if not getattr(self, name) >= bound
        ]
        if not self.learning_rate > 0:
            mistakes.append(f"learning_rate is positive, not {self.learning_rate}")
        if mistakes:
            raise ValueError("\n".join(mistakes))


@dataclass(frozen=True)
class Learned:
    """Factors that were learned.

    Attributes:
        rule: for `merge`, with the factors in it.
        losses: of every step.
    """

    rule: ZipLora
    losses: tuple[float, ...]


def learn_columns(
    base: BaseModel,
    adapters: Sequence[Weighted],
    images: Sequence[ImageSet],
    config: ZipLoraConfig,
) -> Learned:
    """Learn the factors of the layers that two adapters share.

    Args:
        base: the model that they were trained on; its U-Net is given back without them, and with
            whatever else is attached to it switched off.
        adapters: the content's and the style's.
        images: the pictures that each was trained on.
        config: how.

    Raises:
        MergeError: not two adapters and sets, adapters that change what captions mean, or there
            is nothing to learn.
    """
    shared = _shared_columns(adapters, images)
    sets = [CachedSet.of(base, some) for some in images]
    draws = TrainingConfig(steps=config.steps, batch_size=config.batch_size, seed=config.seed)
    with _attached(base.unet, adapters, shared) as columns:
        optimizer = torch.optim.Adam(columns.parameters(), lr=config.learning_rate)
        losses = []
        for step in range(config.steps):
            batches = [Batch.of(base, cached, draws, step) for cached in sets]
            loss = _loss(base, columns, batches) + config.overlap_weight * columns.overlap()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
    learned = asdict(config) | {
        "base_sha256": base.sha256,
        "data_sha256": [some.sha256 for some in images],
    }
    return Learned(ZipLora(columns.values(), learned), tuple(torch.stack(losses).tolist()))


def _loss(base: BaseModel, columns: _Columns, batches: Sequence[Batch]) -> Tensor:
    """The two answers' squared distances from what each adapter answers alone."""
    with torch.no_grad():
        wanted = []
        for alone, batch in enumerate(batches):
            columns.alone = alone
            wanted.append(predict(base, [batch]).float())
    columns.alone = None
    answers = predict(base, batches).float().split([len(batch.noisy) for batch in batches])
    pairs = zip(answers, wanted, strict=True)
    return sum(nn.functional.mse_loss(answer, want) for answer, want in pairs)


@dataclass(eq=False)
class _Columns:
    """The factors, applied where the inputs enter the adapters: A (m x) = (A diag(m)) x.

    Attributes:
        factors: for each adapter, layer name to its factors.
        alone: the one adapter that acts, as it is; None: both, behind their factors.
    """

    factors: tuple[dict[str, nn.Parameter], ...]
    alone: int | None = None
    handles: list = field(default_factory=list)

    def parameters(self) -> list[nn.Parameter]:
        return [factor for one in self.factors for factor in one.values()]

    def overlap(self) -> Tensor:
        first, second = self.factors
        return sum((first[name] * second[name]).mean().abs() for name in first)

    def values(self) -> tuple[dict[str, Tensor], ...]:
        return tuple({k: v.detach().cpu().clone() for k, v in one.items()} for one in self.factors)

    def hook(self, index: int, name: str, down: nn.Module) -> None:
        def enter(module: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
            (x,) = inputs
            if self.alone is not None:
                return x if self.alone == index else torch.zeros_like(x)
            factor = self.factors[index].get(name)
            if factor is None:
                return x
            spatial = isinstance(module, nn.Conv2d)  # (n, in, h, w); else (..., in)
            return x * (factor.reshape(-1, 1, 1) if spatial else factor)

        self.handles.append(down.register_forward_pre_hook(enter))


@contextmanager
def _attached(
    unet: nn.Module, adapters: Sequence[Weighted], shared: dict[str, int]
) -> Iterator[_Columns]:
    """Both adapters in the U-Net behind their factors, frozen; taken off at the end."""
    device = next(unet.parameters()).device
    columns = _Columns(
        tuple(
            {n: nn.Parameter(torch.ones(c, device=device)) for n, c in shared.items()} for _ in "cs"
        )
    )
    loaded = []
    try:
        for index, (name, weighted) in enumerate(zip(_NAMES, adapters, strict=True)):
            load_adapter(unet, weighted.adapter, name)
            loaded.append(name)
            for module, layer in adapted_layers(unet, name):
                columns.hook(index, module, layer.lora_A[name])
        strengths = zip(_NAMES, (weighted.weight for weighted in adapters), strict=True)
        set_strengths(unet, dict(strengths))
        for parameter in unet.parameters():
            parameter.requires_grad_(False)
        yield columns
    finally:
        for handle in columns.handles:
            handle.remove()
        for name in loaded:
            detach(unet, name)


def _check_text(weighted: Weighted) -> None:
    """The U-Nets' answers are compared under captions as the base model reads them."""
    adapter, reason = weighted.adapter, None
    if adapter.word is not None:
        reason = f"has learned the word {adapter.word.word!r}"
    elif {part_of(layer) for layer in adapter.updates} - {"unet"}:
        reason = "acts in the text encoder"
    if reason:
        raise MergeError(
            f"rule ziplora learns from captions as the base model reads them, and "
            f"{weighted.name or 'an adapter'} {reason}: take rule sum or svd, or train it without "
            f"the block base and with trigger_embedding.train: false"
        )


def _shared_columns(adapters: Sequence[Weighted], images: Sequence[ImageSet]) -> dict[str, int]:
    """The layers that both adapters touch, with their numbers of input columns.

    Raises:
        MergeError: not two adapters and sets, adapters of other methods or of the text encoders,
            or no such layer.
    """
    if len(adapters) != 2 or len(images) != 2:
        raise MergeError(
            f"rule ziplora takes two adapters and the two sets of pictures that they learned from, "
            f"not {len(adapters)} and {len(images)}"
        )
    for weighted in adapters:
        _check_text(weighted)
    first, second = (weighted.adapter.updates for weighted in adapters)
    if not all(isinstance(u, LowRank) for u in (*first.values(), *second.values())):
        raise MergeError(
            "rule ziplora scales the factor A of LoRA and LoCon, and of no other method"
        )
    shared = {name: first[name].shape[1] for name in first if name in second}
    shared = {n: c for n, c in shared.items() if all(w.weight_of(n) for w in adapters)}
    if not shared:
        raise MergeError(
            "the adapters share no layer, so ziplora has nothing to learn: their sum is exact and "
            "free of interference; take rule sum"
        )
    return shared
