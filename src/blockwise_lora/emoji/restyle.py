"""The same drawing by an imagined hand: what a judge of identity must see through.

The sets that the judges learn from are few, and drawings by an unseen hand would look foreign to
them whatever they show. Each picture is therefore redrawn in ways that set hands apart: outlines,
fewer or other colours, flat or shaded fills, stroke width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

LUMINANCE = (0.299, 0.587, 0.114)


def restyle(pictures: Tensor, generator: torch.Generator, chance: float = 0.3) -> Tensor:
    """Redraw each picture by a few of the changes below, drawn anew for each.

    Args:
        pictures: (n, 3, h, w) in [-1, 1], on white.
        generator: a CPU generator.
        chance: that a change is made to a picture.

    Returns:
        Pictures of the same shape and range.
    """
    drawn = pictures / 2 + 0.5
    for change in CHANGES:
        rows = (torch.rand(len(drawn), generator=generator) < chance).nonzero()[:, 0]
        strength = torch.rand(len(rows), 1, 1, 1, generator=generator)
        drawn[rows] = change(drawn[rows], strength, generator)
    return drawn.clamp(0, 1) * 2 - 1


def recolour(drawn: Tensor, strength: Tensor, generator: torch.Generator) -> Tensor:
    """Mix the colour channels by a random matrix whose rows sum to one: white stays white."""
    n = len(drawn)
    mixing = torch.eye(3) + strength[..., 0] * torch.randn(n, 3, 3, generator=generator) * 0.6
    mixing = mixing - (mixing.sum(2, keepdim=True) - 1) / 3
    return torch.einsum("nij,njhw->nihw", mixing, drawn).clamp(0, 1)


def fade(drawn: Tensor, strength: Tensor, generator: torch.Generator) -> Tensor:
    """Take colour away, up to shades of grey."""
    return torch.lerp(drawn, _grey(drawn).expand_as(drawn), strength)


def flatten(drawn: Tensor, strength: Tensor, generator: torch.Generator) -> Tensor:
    """Round colours to 3 to 7 levels a channel: gradients become flat fills."""
    levels = 1 + (strength * 5).ceil().clamp(min=1)
    return (drawn * levels).round() / levels


def shade(drawn: Tensor, strength: Tensor, generator: torch.Generator) -> Tensor:
    """Darken the drawing, not the paper, towards a random side."""
    n, _, height, width = drawn.shape
    slope = torch.randn(n, 2, 1, 1, generator=generator) * 0.5
    rows = torch.linspace(-1, 1, height).view(1, 1, -1, 1)
    columns = torch.linspace(-1, 1, width).view(1, 1, 1, -1)
    light = (slope[:, :1] * rows + slope[:, 1:] * columns) * strength
    ink = (drawn.amin(1, keepdim=True) < 0.97).float()
    return (drawn + light * ink).clamp(0, 1)


def outline(drawn: Tensor, strength: Tensor, generator: torch.Generator) -> Tensor:
    """Draw dark lines, one to three pixels wide, where colours meet."""
    contrast = _edges(drawn)
    lines = torch.where(strength > 0.5, functional.max_pool2d(contrast, 3, 1, 1), contrast)
    return drawn * (1 - (lines * (1.5 + 2.5 * strength)).clamp(max=1))


def soften(drawn: Tensor, strength: Tensor, generator: torch.Generator) -> Tensor:
    """Blur by three pixels, in part."""
    return torch.lerp(
        drawn, functional.avg_pool2d(drawn, 3, 1, 1, count_include_pad=False), strength
    )


def thicken(drawn: Tensor, strength: Tensor, generator: torch.Generator) -> Tensor:
    """Dark strokes grow by a pixel in one half, light ones in the other."""
    darker = -functional.max_pool2d(-drawn, 3, 1, 1)
    return torch.where(strength > 0.5, darker, functional.max_pool2d(drawn, 3, 1, 1))


def _grey(drawn: Tensor) -> Tensor:
    return (drawn * torch.tensor(LUMINANCE).view(1, 3, 1, 1)).sum(1, keepdim=True)


def _edges(drawn: Tensor) -> Tensor:
    """Largest colour difference to the neighbours below and to the right, (n, 1, h, w)."""
    padded = functional.pad(drawn, (0, 1, 0, 1), mode="replicate")
    here = padded[..., :-1, :-1]
    right, below = padded[..., :-1, 1:] - here, padded[..., 1:, :-1] - here
    return torch.maximum(right.abs(), below.abs()).amax(1, keepdim=True)


CHANGES: tuple[Callable[[Tensor, Tensor, torch.Generator], Tensor], ...] = (
    flatten,
    recolour,
    fade,
    shade,
    thicken,
    outline,
    soften,
)
