"""Figures for the model card: how good each part is on pictures that it never saw."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor

from blockwise_lora.emoji.corpus import Corpus
from blockwise_lora.emoji.splits import Splits
from blockwise_lora.emoji.vae import to_tensor
from blockwise_lora.judges.clip import ClipJudge
from blockwise_lora.judges.dino import DinoJudge
from blockwise_lora.judges.style import StyleSpace, style_statistics

VENDOR = {"fluent-emoji": "fluent", "fluent-emoji-flat": "fluent"}
"""Sets of one vendor share drawings: a neighbour from a sister set would be no feat."""


@torch.no_grad()
def psnr(vae: AutoencoderKL, pixels: np.ndarray) -> dict[str, float]:
    """Mean PSNR in dB per picture after encoding and decoding, over all and over non-white pixels.

    Args:
        vae: the autoencoder.
        pixels: (n, 64, 64, 3) uint8.
    """
    whole, drawn = [], []
    for start in range(0, len(pixels), 64):
        pictures = to_tensor(pixels[start : start + 64]) / 2 + 0.5
        latents = vae.encode(pictures * 2 - 1).latent_dist.mean
        decoded = (vae.decode(latents).sample / 2 + 0.5).clamp(0, 1)
        error = (decoded - pictures).square().mean(1)
        ink = pictures.min(1).values < 0.99
        whole += _decibels(error.flatten(1).mean(1))
        share = (error * ink).flatten(1).sum(1) / ink.flatten(1).sum(1).clamp_min(1)
        drawn += _decibels(share)
    return {"all_pixels": float(np.mean(whole)), "non_white": float(np.mean(drawn))}


def _decibels(error: Tensor) -> list[float]:
    return (-10 * torch.log10(error.clamp_min(1e-10))).tolist()


def vae_figures(vae: AutoencoderKL, corpus: Corpus, splits: Splits) -> dict[str, dict[str, float]]:
    """PSNR on held-out families in known styles, and on each held-out style."""
    known = corpus.select(lambda e: e.set_name in splits.train_vendors and splits.held_out(e.code))
    figures = {"held-out identities, known styles": psnr(vae, known.pixels[::3])}
    for style in splits.styles:
        unseen = corpus.select(lambda e, s=style: e.set_name == s and not e.skin_toned)
        figures[f"{style} (unseen style)"] = psnr(vae, unseen.pixels[::5])
    return figures


def neighbour_accuracy(similarity: np.ndarray, labels: Sequence, barred: np.ndarray) -> float:
    """Share of queries whose most similar other picture has the same label, in per cent.

    Every label counts the same, however many pictures it has.

    Args:
        similarity: (n, n).
        labels: n labels.
        barred: (n, n) bool, pairs that may not be compared (the query's own style, say).
    """
    masked = np.where(barred | np.eye(len(labels), dtype=bool), -np.inf, similarity)
    labels = np.asarray(labels)
    asked = np.isfinite(masked).any(1)
    right = labels[masked.argmax(1)] == labels
    return 100 * float(np.mean([right[asked & (labels == x)].mean() for x in sorted(set(labels))]))


def pixel_similarity(pixels: np.ndarray) -> np.ndarray:
    """Negative Euclidean distance of raw pixels, (n, n)."""
    flat = torch.from_numpy(pixels.reshape(len(pixels), -1)).float() / 255
    return -torch.cdist(flat, flat).numpy()


def histogram_similarity(pixels: np.ndarray, bins: int = 4) -> np.ndarray:
    """Histogram intersection of joint RGB histograms, (n, n)."""
    levels = (pixels.reshape(len(pixels), -1, 3).astype(int) * bins) // 256
    index = (levels[..., 0] * bins + levels[..., 1]) * bins + levels[..., 2]
    counts = np.stack([np.bincount(row, minlength=bins**3) for row in index]) / index.shape[1]
    return np.minimum(counts[:, None], counts[None]).sum(-1)


def judge_figures(
    clip: ClipJudge, dino: DinoJudge, corpus: Corpus, splits: Splits
) -> dict[str, dict[str, float]]:
    """Identity and style by nearest neighbour on held-out families and vendors, with baselines.

    Identity: members of held-out families in held-out styles, the gallery without the query's
    vendor. Style: one picture per concept and style, the gallery without the query's concept.
    """
    kept = ("openmoji", "fluent-emoji", "fluent-emoji-flat")
    family_of = {code: f.name for f in splits.families.values() for code in f.members}
    held = corpus.select(lambda e: e.set_name in kept and e.code in family_of)
    vendors = np.array([VENDOR.get(e.set_name, e.set_name) for e in held.emojis])
    identity = _accuracies(
        clip,
        dino,
        held.pixels,
        [family_of[e.code] for e in held.emojis],
        vendors[:, None] == vendors[None],
    )
    codes = set(splits.style_set) | set(family_of)
    styled = corpus.select(lambda e: e.set_name in splits.styles and e.code in codes)
    concepts = np.array([e.code for e in styled.emojis])
    style = _accuracies(
        clip,
        dino,
        styled.pixels,
        [e.set_name for e in styled.emojis],
        concepts[:, None] == concepts[None],
    )
    return {"identity": identity, "style": style}


def _accuracies(
    clip: ClipJudge, dino: DinoJudge, pixels: np.ndarray, labels: list[str], barred: np.ndarray
) -> dict[str, float]:
    pictures = as_pictures(pixels)
    statistics = style_statistics(dino, pictures)
    style = StyleSpace.around(statistics).vectors(statistics)
    seen, named = dino.images(pictures), clip.images(pictures)
    similar: dict[str, Callable[[], np.ndarray]] = {
        "DINO judge": lambda: seen @ seen.T,
        "style judge": lambda: style @ style.T,
        "CLIP judge": lambda: named @ named.T,
        "raw pixels": lambda: pixel_similarity(pixels),
        "colour histogram": lambda: histogram_similarity(pixels),
    }
    return {name: neighbour_accuracy(f(), labels, barred) for name, f in similar.items()}


def as_pictures(pixels: np.ndarray) -> list[Image.Image]:
    """(n, h, w, 3) uint8 to pictures."""
    return [Image.fromarray(p) for p in pixels]
