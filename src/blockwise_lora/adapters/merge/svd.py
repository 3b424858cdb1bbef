"""The sum, cut to a rank by singular value decomposition: the nearest adapter of that rank."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from blockwise_lora.adapters.merge.checks import check_rank
from blockwise_lora.adapters.merge.parts import Part
from blockwise_lora.adapters.merge.summed import add
from blockwise_lora.adapters.updates import Update


@dataclass(frozen=True)
class Svd:
    """The rule.

    Attributes:
        rank: that no layer exceeds; one whose sum fits it stays exact.
    """

    rank: int
    name: ClassVar[str] = "svd"

    def __post_init__(self) -> None:
        check_rank(self.rank)

    def combine(self, module: str, parts: Sequence[Part]) -> Update | Tensor:
        """Merge the changes of one layer; they are cut to the rank afterwards."""
        return add(parts)
