"""Style vectors: how a picture is drawn, whatever it shows.

Statistics of early features over all places of a picture tell textures and styles apart while they
forget where things are (Gram matrices in Gatys et al. 2016; mean and standard deviation of each
channel in AdaIN, Huang and Belongie 2017). Here the features are the patch tokens of the DINO
judge's first blocks. Raw statistics of any two pictures are nearly parallel, so they are measured
from the centre of the reference pictures, each statistic in units of its own spread there.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from blockwise_lora.judges.dino import DinoJudge

STYLE_BLOCKS = (0, 1)


def token_statistics(tokens: Tensor) -> Tensor:
    """Mean and standard deviation of each channel over a picture's patches.

    Args:
        tokens: (n, patches, d).

    Returns:
        (n, 2 d): the means, then the standard deviations.
    """
    return torch.cat([tokens.mean(1), tokens.std(1, correction=0)], dim=-1)


def style_statistics(
    dino: DinoJudge, pictures: Sequence[Image.Image], blocks: Sequence[int] = STYLE_BLOCKS
) -> np.ndarray:
    """Statistics of the judge's early tokens, (n, d) float32, not centred yet."""
    parts = [
        torch.cat([token_statistics(tokens) for tokens in layers], dim=-1).float().cpu()
        for layers in dino.tokens(pictures, blocks)
    ]
    return torch.cat(parts).numpy()


@dataclass(frozen=True)
class StyleSpace:
    """Where style vectors are measured from, and in which units.

    Attributes:
        centre: (d,) mean statistics of the reference pictures.
        scale: (d,) their standard deviations.
    """

    centre: np.ndarray
    scale: np.ndarray

    @classmethod
    def around(cls, *references: np.ndarray) -> "StyleSpace":
        """The space of some groups of reference pictures' statistics, each (n, d).

        Every group has the same weight, however many pictures it holds, so that a large set does
        not pull the centre onto itself.
        """
        weights = np.concatenate([np.full(len(g), 1 / len(g)) for g in references])
        rows = np.concatenate(references).astype(np.float64)
        centre = np.average(rows, axis=0, weights=weights)
        scale = np.sqrt(np.average((rows - centre) ** 2, axis=0, weights=weights))
        return cls(centre, np.maximum(scale, 1e-6))

    def vectors(self, statistics: np.ndarray) -> np.ndarray:
        """Unit style vectors of pictures' statistics, (n, d) float32."""
        centred = (statistics - self.centre) / self.scale
        length = np.linalg.norm(centred, axis=1, keepdims=True)
        return (centred / np.maximum(length, 1e-12)).astype(np.float32)
