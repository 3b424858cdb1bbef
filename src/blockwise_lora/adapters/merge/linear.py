"""PEFT's `linear`: the factors are added, not the changes.

    B = sum of sqrt(|w s|) B_i,    A = sum of sign(w s) sqrt(|w s|) A_i

B A then has the cross terms B_i A_j, too, which belong to no adapter. So the rule is exact only
where adapters share no layer; elsewhere its error is as large as the changes themselves. It is
here for comparison with what others made with it; `svd` to the same rank is always nearer.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from blockwise_lora.adapters.merge.errors import MergeError
from blockwise_lora.adapters.merge.lowrank import Truncated, concatenate, distance
from blockwise_lora.adapters.merge.parts import Part
from blockwise_lora.adapters.updates import LowRank, Update


@dataclass(frozen=True)
class Linear:
    """The rule."""

    name: ClassVar[str] = "linear"

    def combine(self, module: str, parts: Sequence[Part]) -> Update | Truncated:
        """Merge the changes of one layer.

        Raises:
            MergeError: they are not low-rank, or of different ranks, so that their factors cannot
                be added.
        """
        if len(parts) == 1:
            return parts[0].weighted()
        updates = [part.update for part in parts]
        if not all(isinstance(update, LowRank) for update in updates):
            raise MergeError(f"rule linear adds factors A and B, which {module} has not: take svd")
        if len({update.rank for update in updates}) > 1:
            raise MergeError(
                f"rule linear adds factors of one rank, and in {module} the ranks are "
                f"{', '.join(str(update.rank) for update in updates)}: take svd"
            )
        weights = [part.weight for part in parts]
        added = add_factors(updates, weights)
        return Truncated(added, distance(added, concatenate(updates, weights)))


def add_factors(updates: Sequence[LowRank], weights: Sequence[float]) -> LowRank:
    """Add the factors of changes of one rank, each taking half of weight and scale."""
    strengths = [w * u.scale for u, w in zip(updates, weights, strict=True)]
    roots = [math.sqrt(abs(strength)) for strength in strengths]
    up = sum(r * u.up.float() for r, u in zip(roots, updates, strict=True))
    signed = [math.copysign(r, s) for r, s in zip(roots, strengths, strict=True)]
    down = sum(r * u.down.float() for r, u in zip(signed, updates, strict=True))
    return LowRank(down, up, 1.0)
