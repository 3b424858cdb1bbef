"""Block pick: these blocks from this adapter, those from that one.

Frenkel et al., Implicit Style-Content Separation Using B-LoRA (arXiv 2403.14572), take the content
from one block of SDXL and the style from another (masks `OUT00` and `OUT01`); here any masks will
do.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from blockwise_lora.adapters.merge.errors import MergeError
from blockwise_lora.adapters.merge.parts import Part, Weighted
from blockwise_lora.adapters.merge.summed import add
from blockwise_lora.adapters.updates import Update
from blockwise_lora.blocks.mask import Mask
from blockwise_lora.blocks.structure import BlockMap


@dataclass(frozen=True)
class Pick:
    """The rule.

    Attributes:
        blocks: for each adapter the mask of what is taken from it; ranks in it mean nothing.
    """

    blocks: tuple[str, ...]
    name: ClassVar[str] = "pick"

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", tuple(str(Mask.parse(mask)) for mask in self.blocks))

    def combine(self, module: str, parts: Sequence[Part]) -> Update | Tensor:
        """Merge the changes of one layer, of which there is one at most."""
        return add(parts)


def picked(rule: Pick, adapters: Sequence[Weighted], blocks: BlockMap) -> list[Weighted]:
    """The adapters with weight 0 wherever nothing is taken from them.

    Raises:
        MergeError: not one mask for each adapter, or a block is to be taken from several.
        MaskError: a mask does not fit the model.
    """
    if len(rule.blocks) != len(adapters):
        raise MergeError(
            f"rule pick needs one mask for each adapter: {len(adapters)} adapters, "
            f"{len(rule.blocks)} masks"
        )
    chosen = [Mask.parse(mask).selected(blocks) for mask in rule.blocks]
    taken: set[str] = set()
    for mask, names in zip(rule.blocks, chosen, strict=True):
        if twice := [name for name in names if name in taken]:
            raise MergeError(
                f"rule pick takes a block from one adapter, but mask {mask} names {twice[0]} again"
            )
        taken |= set(names)
    return [
        replace(weighted, weight=_within(weighted, names))
        for weighted, names in zip(adapters, chosen, strict=True)
    ]


def _within(weighted: Weighted, names: tuple[str, ...]) -> dict[str, float]:
    homes = weighted.adapter.sub_blocks
    return {
        homes[module]: weighted.weight_of(module) if homes[module] in names else 0.0
        for module in weighted.adapter.updates
    }
