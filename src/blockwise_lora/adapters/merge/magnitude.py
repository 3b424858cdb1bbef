"""Magnitude pruning: of each change the largest values, summed.

The rule of PEFT's `magnitude_prune_svd`: it prunes the changes of the weights, not their factors.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from blockwise_lora.adapters.merge.checks import check_density, check_rank
from blockwise_lora.adapters.merge.parts import Part


@dataclass(frozen=True)
class MagnitudePrune:
    """The rule.

    Attributes:
        density: share of the values that stay.
        rank: of the adapter that results; None bakes the sum into the base's weights.
        everywhere: prune, as PEFT does, also layers that only one adapter touches.
    """

    density: float = 0.5
    rank: int | None = None
    everywhere: bool = False
    name: ClassVar[str] = "magnitude_prune"

    def __post_init__(self) -> None:
        check_density(self.density)
        check_rank(self.rank)

    def combine(self, module: str, parts: Sequence[Part]) -> Tensor:
        """Merge the changes of one layer."""
        return sum(part.weight * keep_largest(part.delta(), self.density) for part in parts)


def keep_largest(delta: Tensor, density: float) -> Tensor:
    """Zero all but the `int(density * n)` values of largest magnitude."""
    flat = delta.flatten()
    kept = flat.abs().topk(int(density * flat.numel())).indices
    pruned = torch.zeros_like(flat)
    pruned[kept] = flat[kept]
    return pruned.reshape(delta.shape)
