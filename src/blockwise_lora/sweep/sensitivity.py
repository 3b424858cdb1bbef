"""What each block contributes, before anything but two full adapters is trained.

Two signs, each cheap and each fallible: what the scores lose when a block of the full adapter is
switched off, and how hard the training pulls at a block.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch

from blockwise_lora.adapters import attach, detach
from blockwise_lora.adapters.layers import adapted_layers
from blockwise_lora.blocks.structure import BlockMap
from blockwise_lora.diffusion.base import BaseModel
from blockwise_lora.diffusion.batches import Batch, predict
from blockwise_lora.diffusion.caches import CachedSet
from blockwise_lora.diffusion.config import PriorConfig
from blockwise_lora.diffusion.draws import generator_for
from blockwise_lora.sweep.bank import Lesson
from blockwise_lora.sweep.search import Means
from blockwise_lora.sweep.studies import CONCEPTS, FULL, Concept


def gradient_norms(base: BaseModel, lesson: Lesson, batches: int = 16) -> dict[str, float]:
    """How hard the lesson pulls at each coarse block of a full adapter that has learned nothing.

    At the start B is zero, so only B has a gradient. Root mean square over the values of B in a
    block and over batches: large and small blocks are told apart by pull, not by size.

    Args:
        base: its U-Net is as before when this returns.
        lesson: pictures, method, ranks, and how batches are drawn.
        batches: to average over.

    Returns:
        Coarse block to gradient, in the model's order, blocks without a layer left out.
    """
    name = "sensitivity"
    blocks = BlockMap.of(base.unet)
    coarse = {sub: block for block, subs in blocks.coarse.items() for sub in subs}
    initial = generator_for(lesson.config.seed, "initial weights")
    draws = replace(lesson.config, prior=PriorConfig())  # the concept alone pulls
    attach(base.unet, lesson.masked(FULL), name, initial)
    try:
        ups = {key: layer.lora_B[name].weight for key, layer in adapted_layers(base.unet, name)}
        cached = CachedSet.of(base, lesson.images, draws)
        squares = dict.fromkeys(blocks.coarse, 0.0)
        for step in range(batches):
            batch = Batch.of(base, cached, draws, step)
            loss = batch.loss(predict(base, [batch]))
            for key, gradient in zip(
                ups, torch.autograd.grad(loss, list(ups.values())), strict=True
            ):
                squares[coarse[blocks.layers[key][0].name]] += gradient.square().sum().item()
        sizes = dict.fromkeys(blocks.coarse, 0)
        for key, up in ups.items():
            sizes[coarse[blocks.layers[key][0].name]] += up.numel()
        return {b: math.sqrt(squares[b] / (batches * n)) for b, n in sizes.items() if n}
    finally:
        detach(base.unet, name)


def pulls_apart(norms: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """How much more of its pull the character's lesson puts on a block than the style's does.

    Args:
        norms: concept to `gradient_norms`; a block without a layer has no pull.

    Returns:
        Coarse block to the difference of shares, each of all that its lesson pulls.
    """
    blocks = dict.fromkeys(block for pulls in norms.values() for block in pulls)
    shares = {
        c: {b: pulls.get(b, 0.0) / sum(pulls.values()) for b in blocks}
        for c, pulls in norms.items()
    }
    return {b: shares["character"][b] - shares["style"][b] for b in blocks}


def needs(full: Means, without: Mapping[tuple[Concept, str], Means]) -> dict[str, float]:
    """How much more the pair loses if the character goes without a block than if the style does.

    Args:
        full: scores of the full pair.
        without: concept and coarse block, to the scores with that block of that adapter off; one
            that was not tried counts as no loss.

    Returns:
        Coarse block to the difference, in identity and style together.
    """

    def loss(concept: Concept, block: str) -> float:
        left = without.get((concept, block), full)
        return full.identity + full.style - left.identity - left.style

    blocks = dict.fromkeys(block for _, block in without)
    return {b: loss("character", b) - loss("style", b) for b in blocks}


def ballast(
    full: Means, without: Mapping[tuple[Concept, str], Means], smallest: float
) -> dict[Concept, set[str]]:
    """Blocks whose switching off helps: identity and style together are better without.

    Args:
        full: scores of the full pair.
        without: as in `needs`.
        smallest: gain that counts.
    """
    found: dict[Concept, set[str]] = {c: set() for c in CONCEPTS}
    for (concept, block), means in without.items():
        gain = [a - b for a, b in zip(means.merit, full.merit, strict=True)]
        if max(gain) >= smallest and min(gain) >= 0:
            found[concept].add(block)
    return found
