"""TIES: trim, elect signs, and average what agrees.

Yadav et al., TIES-Merging: Resolving Interference When Merging Models (arXiv 2306.01708), algorithm
1, layer by layer and with weights as in PEFT's `ties_svd`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from blockwise_lora.adapters.merge.checks import check_density, check_rank
from blockwise_lora.adapters.merge.magnitude import keep_largest
from blockwise_lora.adapters.merge.parts import Part

Election = Literal["total", "frequency"]
"""`total`: the sign of the sum of the values. `frequency`: the sign that occurs more often."""


@dataclass(frozen=True)
class Ties:
    """The rule.

    Attributes:
        density: share of each change's values that is left after trimming.
        election: how the sign of a value is elected.
        rank: of the adapter that results; None bakes the merge into the base's weights.
        everywhere: trim, as PEFT does, also layers that only one adapter touches.
    """

    density: float = 0.2
    election: Election = "total"
    rank: int | None = None
    everywhere: bool = False
    name: ClassVar[str] = "ties"

    def __post_init__(self) -> None:
        check_density(self.density)
        check_rank(self.rank)

    def combine(self, module: str, parts: Sequence[Part]) -> Tensor:
        """Merge the changes of one layer."""
        trimmed = torch.stack([keep_largest(part.delta(), self.density) for part in parts])
        return agreeing_mean(trimmed, [part.weight for part in parts], self.election)


def agreeing_mean(changes: Tensor, weights: Sequence[float], election: Election) -> Tensor:
    """Per value, the mean over the changes that have the elected sign; zeros have none.

    Args:
        changes: (n, ...).
        weights: n factors that enter the mean but not the election.
        election: how signs are elected; where neither wins, plus does.
    """
    votes = changes if election == "total" else changes.sign()
    elected = torch.where(votes.sum(dim=0) >= 0, 1, -1)
    agrees = changes.sign() == elected
    factors = torch.tensor(weights).reshape(-1, *(1 for _ in changes.shape[1:]))
    return (changes * factors * agrees).sum(dim=0) / agrees.sum(dim=0).clamp(min=1)
