"""DARE: drop values at random and rescale the rest, so that the expectation stays.

Yu et al., Language Models are Super Mario: Absorbing Abilities from Homologous Models as a Free
Lunch (arXiv 2311.03099), equations 2 and 3; then a weighted sum (PEFT's `dare_linear_svd`) or
TIES' election (`dare_ties_svd`).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from blockwise_lora.adapters.merge.checks import check_density, check_rank
from blockwise_lora.adapters.merge.parts import Part
from blockwise_lora.adapters.merge.ties import Election, agreeing_mean


@dataclass(frozen=True)
class Dare:
    """The rule.

    Attributes:
        density: share of the values that stay, 1 minus the paper's p.
        seed: of what is dropped.
        election: None sums; else only values of the elected sign are averaged.
        rank: of the adapter that results; None bakes the merge into the base's weights.
        everywhere: drop, as PEFT does, also in layers that only one adapter touches.
    """

    density: float = 0.5
    seed: int = 0
    election: Election | None = None
    rank: int | None = None
    everywhere: bool = False
    name: ClassVar[str] = "dare"

    def __post_init__(self) -> None:
        check_density(self.density)
        check_rank(self.rank)

    def combine(self, module: str, parts: Sequence[Part]) -> Tensor:
        """Merge the changes of one layer.

        What is dropped depends on the seed, the layer's name and the adapter's place alone, not on
        what other layers there are.
        """
        kept = [drop(part.delta(), self.density, self._generator(module, part)) for part in parts]
        weights = [part.weight for part in parts]
        if self.election is None:
            return sum(weight * change for weight, change in zip(weights, kept, strict=True))
        return agreeing_mean(torch.stack(kept), weights, self.election)

    def _generator(self, module: str, part: Part) -> torch.Generator:
        digest = hashlib.sha256(f"{self.seed}:{part.index}:{module}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def drop(delta: Tensor, density: float, generator: torch.Generator) -> Tensor:
    """Keep each value with probability `density` and divide it by that."""
    mask = torch.bernoulli(torch.full(delta.shape, density), generator=generator)
    return delta * mask / density
