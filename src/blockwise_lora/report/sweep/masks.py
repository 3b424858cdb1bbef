"""A mask for people: as squares, one a block, and in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from typing import Literal

from markupsafe import Markup

from blockwise_lora.blocks.mask import Mask
from blockwise_lora.blocks.structure import BlockMap

Share = Literal["all", "part", "none"]
"""How much of a block is trained; part: some of its sub-blocks, or a rank of its own."""
SIDE, GAP = 9, 2
"""Of the small squares, in pixels."""


@dataclass(frozen=True)
class DrawnMask:
    """Which coarse blocks a mask trains.

    Attributes:
        mask: as it is written in a command.
        shares: coarse block, in the model's order, to how much of it is trained.
    """

    mask: str
    shares: tuple[tuple[str, Share], ...]

    @classmethod
    def of(cls, mask: str, model: BlockMap, blocks: Sequence[str]) -> DrawnMask:
        """A mask on a model.

        Args:
            mask: as written.
            model: its blocks.
            blocks: the coarse ones to show.
        """
        full = 1_000_003  # a rank that no mask names
        ranks = Mask.parse(mask).ranks(model, full)

        def share(block: str) -> Share:
            here = {ranks[sub] for sub in model.coarse[block]}
            return "none" if here == {0} else "all" if here == {full} else "part"

        return cls(mask, tuple((block, share(block)) for block in blocks))

    @property
    def words(self) -> str | None:
        """Such as "all blocks but in0"; None where words would be longer than the mask."""
        if any(share == "part" for _, share in self.shares):
            return None
        names = [block for block, _ in self.shares]
        off = [block for block, share in self.shares if share == "none"]
        if not off:
            return "all blocks"
        if len(off) <= 2 < len(names) - len(off):
            return f"all blocks but {' and '.join(off)}"
        runs = [
            [block for block, _ in run]
            for share, run in groupby(self.shares, key=lambda item: item[1])
            if share == "all"
        ]
        named = [name for run in runs for name in _run(run)]
        if len(named) == 1:
            return named[0] if len(runs[0]) > 1 else f"{named[0]} alone"
        return f"{', '.join(named[:-1])} and {named[-1]}"

    def small(self, kind: str) -> Markup:
        """A row of small squares, filled where the block is trained.

        Args:
            kind: CSS class that colours them.
        """
        squares = "".join(
            f'<rect class="{share}" x="{i * (SIDE + GAP) + 0.5}" y="0.5" width="{SIDE - 1}" '
            f'height="{SIDE - 1}" rx="1.5"/>'
            for i, (_, share) in enumerate(self.shares)
        )
        width = len(self.shares) * (SIDE + GAP)
        hint = self.words or ", ".join(b for b, share in self.shares if share != "none")
        return Markup(
            f'<svg class="m {escape(kind)}" width="{width}" height="{SIDE}" role="img">'
            f"<title>{escape(hint)}</title>{squares}</svg>"
        )


def _run(blocks: list[str]) -> list[str]:
    return blocks if len(blocks) < 3 else [f"{blocks[0]} to {blocks[-1]}"]
