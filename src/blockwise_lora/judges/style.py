"""Style vectors: how a picture is drawn, whatever it shows.

What is measured has two parts. Strokes: statistics of early features over all places, which tell
textures apart while they forget where things are (Gram matrices in Gatys et al. 2016; mean and
standard deviation of each channel in AdaIN, Huang and Belongie 2017); here the features are the
patch tokens of the DINO judge's first blocks. Palette: a colour histogram (Swain and Ballard 1991),
its square roots, so that distances are Hellinger's and rare colours count. A median filter and
shares between neighbouring levels keep it steady where a decoder blurs edges and shifts tones a
little: a picture that went through the base model's VAE must keep the style that it has.

Raw statistics of any two pictures are nearly parallel, and they vary more with what is shown than
with how. So they are measured from the centre of the reference pictures, and directions in which
drawings of one hand differ among themselves are damped (within-class covariance normalisation,
Hatch et al. 2006). The damping needs no training, only the two sets that every comparison has.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from blockwise_lora.judges.dino import DinoJudge
from blockwise_lora.judges.preprocess import on_white

STYLE_BLOCKS = (0, 1)
LEVELS = 6
"""Steps of each colour channel in the palette."""
PALETTE_WEIGHT = 2.0
"""Spread of the palette over that of the strokes."""
SHRINKAGE = 0.1
"""Variance, as a share of the largest within a group, from which on a direction is damped."""


def token_statistics(tokens: Tensor) -> Tensor:
    """Mean and standard deviation of each channel over a picture's patches.

    Args:
        tokens: (n, patches, d).

    Returns:
        (n, 2 d): the means, then the standard deviations.
    """
    return torch.cat([tokens.mean(1), tokens.std(1, correction=0)], dim=-1)


def palette(picture: Image.Image) -> np.ndarray:
    """Square roots of the shares of colours, (LEVELS ** 3,), of length one.

    Every pixel is shared out among the eight nearest levels, by its distances to them.
    """
    smooth = on_white(picture).filter(ImageFilter.MedianFilter(3))
    place = np.asarray(smooth, dtype=float).reshape(-1, 3) * (LEVELS - 1) / 255
    below = np.minimum(place.astype(int), LEVELS - 2)
    above = place - below
    shares = np.zeros(LEVELS**3)
    for corner in np.ndindex(2, 2, 2):
        bins = (below + corner) @ np.array([LEVELS**2, LEVELS, 1])
        weights = np.where(corner, above, 1 - above).prod(1)
        shares += np.bincount(bins, weights, minlength=LEVELS**3)
    return np.sqrt(shares / len(place)).astype(np.float32)


def style_statistics(
    dino: DinoJudge, pictures: Sequence[Image.Image], blocks: Sequence[int] = STYLE_BLOCKS
) -> np.ndarray:
    """Strokes, then palette, of each picture, (n, d) float32, not centred yet."""
    strokes = [
        torch.cat([token_statistics(tokens) for tokens in layers], dim=-1).float().cpu()
        for layers in dino.tokens(pictures, blocks)
    ]
    colours = np.stack([palette(picture) for picture in pictures])
    return np.concatenate([torch.cat(strokes).numpy(), colours], axis=1)


@dataclass(frozen=True)
class StyleSpace:
    """Where style vectors are measured from, and in which units.

    Attributes:
        centre: (d,) mean statistics of the reference pictures.
        scale: (d,) factor of each statistic: the same for all strokes, and for all colours.
        directions: (k, d) in which pictures of one group differ, orthonormal.
        damping: (k,) what is taken off along each, 0 (nothing) to 1 (all).
    """

    centre: np.ndarray
    scale: np.ndarray
    directions: np.ndarray
    damping: np.ndarray

    @classmethod
    def around(cls, *references: np.ndarray) -> "StyleSpace":
        """The space of groups of reference pictures' statistics, each (n, d), each of one hand.

        Every group has the same weight, however many pictures it holds, so that a large set does
        not pull the centre onto itself.
        """
        groups = [group.astype(np.float64) for group in references]
        share = np.concatenate([np.full(len(g), 1 / (len(g) * len(groups))) for g in groups])
        rows = np.concatenate(groups)
        centre = share @ rows
        scale = _part_scales(share @ (rows - centre) ** 2)
        within = np.concatenate([g - g.mean(0) for g in groups]) * scale
        _, deviations, directions = np.linalg.svd(
            within * np.sqrt(share)[:, None], full_matrices=False
        )
        known = deviations > 1e-9
        variance = deviations[known] ** 2
        floor = SHRINKAGE * variance.max(initial=0)
        return cls(centre, scale, directions[known], 1 - 1 / np.sqrt(1 + variance / (floor or 1)))

    def vectors(self, statistics: np.ndarray) -> np.ndarray:
        """Unit style vectors of pictures' statistics, (n, d) float32."""
        centred = (statistics - self.centre) * self.scale
        damped = centred - (centred @ self.directions.T * self.damping) @ self.directions
        length = np.linalg.norm(damped, axis=1, keepdims=True)
        return (damped / np.maximum(length, 1e-12)).astype(np.float32)


def _part_scales(variance: np.ndarray) -> np.ndarray:
    """Factors that give strokes a spread of 1 in all, and the palette PALETTE_WEIGHT."""
    strokes = len(variance) - LEVELS**3
    spreads = (np.sqrt(part.sum()) for part in (variance[:strokes], variance[strokes:]))
    factors = [
        w / s if s > 1e-9 else 0.0 for w, s in zip((1, PALETTE_WEIGHT), spreads, strict=True)
    ]
    return np.repeat(factors, [strokes, LEVELS**3])
