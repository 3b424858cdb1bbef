"""Keeping what the base model knows of the class while the concept is learned."""

import math
from dataclasses import dataclass
from typing import Literal

from blockwise_lora.diffusion.config.checks import check


@dataclass(frozen=True)
class PriorConfig:
    """The parameter group `training.prior`.

    Ruiz et al., DreamBooth (2022), section 3.2: beside each batch of the concept's pictures the
    model sees others, whose captions do not name the concept, and shall answer as before.

    Raises:
        ValueError: listing every value out of range.
    """

    kind: Literal["none", "pictures", "distil"] = "none"
    """pictures: the base model paints them once, from the captions without the trigger. distil:
    no pictures needed; the concept's own pictures are shown under captions without the trigger,
    and the answer shall be that of the base model. It costs a pass of the base in each step."""
    weight: float = 1.0
    """Weight of this loss beside that of the concept."""
    pictures: int = 32
    """pictures: how many the base model paints; DreamBooth has 200 and more for thousands of
    steps."""
    share: float = 1.0
    """Pictures of this kind in a batch, as a multiple of `batch_size`; rounded up."""
    replacement: str = ""
    """What stands in the captions in the trigger's place, such as another rare word; empty: it is
    left out."""
    sampling_steps: int = 20
    """pictures: network evaluations for each, twice as many with guidance."""
    guidance_scale: float = 4.0
    """pictures: how far to go beyond the unconditional answer; 7.5 is usual for SD 1.5."""

    def __post_init__(self) -> None:
        check(
            self,
            at_least={"pictures": 1, "sampling_steps": 1, "guidance_scale": 1},
            positive=("weight", "share"),
        )

    def rows(self, batch_size: int) -> int:
        """Pictures of this kind in a batch."""
        return 0 if self.kind == "none" else math.ceil(self.share * batch_size)
