"""The sum, exactly: what both adapters do when both are active."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from blockwise_lora.adapters.merge.lowrank import concatenate
from blockwise_lora.adapters.merge.parts import Part
from blockwise_lora.adapters.updates import LowRank, Update


@dataclass(frozen=True)
class Sum:
    """The rule: weights times changes, added up; ranks add up where layers are shared."""

    name: ClassVar[str] = "sum"

    def combine(self, module: str, parts: Sequence[Part]) -> Update | Tensor:
        """Merge the changes of one layer."""
        return add(parts)


def add(parts: Sequence[Part]) -> Update | Tensor:
    """The weighted sum of changes: low-rank where all are, else of the weight's full size."""
    if len(parts) == 1:
        return parts[0].weighted()
    if all(isinstance(part.update, LowRank) for part in parts):
        return concatenate([part.update for part in parts], [part.weight for part in parts])
    return sum(part.weight * part.delta() for part in parts)
