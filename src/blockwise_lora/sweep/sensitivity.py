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
from blockwise_lora.judges.scores import harmonic_mean
from blockwise_lora.sweep.bank import Lesson
from blockwise_lora.sweep.candidates import Candidate
from blockwise_lora.sweep.search import Means
from blockwise_lora.sweep.studies import CONCEPTS, FULL, Concept


def gradient_norms(base: BaseModel, lesson: Lesson, batches: int = 16) -> dict[str, float]:
    """How hard the lesson pulls at each coarse block of a full adapter that has learned nothing.

    At the start B is zero, so only B has a gradient: its length over all values of B in a block,
    root mean square over batches.

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
        touched = {coarse[blocks.layers[key][0].name] for key in ups}
        for step in range(batches):
            batch = Batch.of(base, cached, draws, step)
            loss = batch.loss(predict(base, [batch]))
            for key, gradient in zip(
                ups, torch.autograd.grad(loss, list(ups.values())), strict=True
            ):
                squares[coarse[blocks.layers[key][0].name]] += gradient.square().sum().item()
        return {b: math.sqrt(square / batches) for b, square in squares.items() if b in touched}
    finally:
        detach(base.unet, name)


def shares(norms: Mapping[str, float]) -> dict[str, float]:
    """Of the whole gradient's squared length, by block."""
    whole = sum(norm**2 for norm in norms.values())
    return {block: norm**2 / whole for block, norm in norms.items()}


def pulls_apart(shares: Mapping[Concept, Mapping[str, float]]) -> dict[str, float]:
    """How much more of its pull the character's lesson puts on a block than the style's does.

    Args:
        shares: concept to the shares of its blocks; a block without a layer has no pull.

    Returns:
        Coarse block to the difference of shares.
    """
    blocks = dict.fromkeys(block for pulls in shares.values() for block in pulls)
    mine, theirs = shares["character"], shares["style"]
    return {b: mine.get(b, 0.0) - theirs.get(b, 0.0) for b in blocks}


def foretold(
    ablated: Means,
    full: Means,
    candidate: Candidate,
    shares: Mapping[Concept, Mapping[str, float]],
) -> Means:
    """Scores to expect of a candidate once it is trained.

    Blocks that are trained without the others take over some of what these did. How much they can
    is foretold from the start: the length of the gradient on the candidate's blocks beside that on
    all blocks. So far the scores move from what is left of the full pair towards its own.

    Args:
        ablated: of the full adapters cut down to the candidate.
        full: of the full pair.
        candidate: its masks.
        shares: concept to the shares of its blocks.
    """
    kept = math.prod(
        math.sqrt(sum(shares[c].get(b, 0.0) for b, rank in getattr(candidate, c).items() if rank))
        for c in CONCEPTS
    )
    pairs = zip(ablated.objectives, full.objectives, strict=True)
    identity, style, prompt = (a + kept * (f - a) for a, f in pairs)
    return Means(identity, style, prompt, float(harmonic_mean(identity, style)))


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
