"""Keeping what the base model knows of the class while the concept is learned."""

import math
from dataclasses import dataclass
from string import Formatter
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
    min_snr_gamma: float | None = None
    """As in `training.loss`, for this loss; null: that one's. A small one, together with a larger
    `weight`, moves the weight to the noisy steps, where a picture's composition is decided."""
    pictures: int = 32
    """pictures: how many the base model paints; DreamBooth has 200 and more for thousands of
    steps."""
    share: float = 1.0
    """Pictures of this kind in a batch, as a multiple of `batch_size`; rounded up."""
    start: float = 0.0
    """Share of the steps that go by before it begins: what the concept is can be learned first, and
    where it applies after that."""
    contexts: tuple[str, ...] = ()
    """distil: what surrounds a caption in turn, such as "{word} style, {caption}": {caption} is the
    whole, {head} its first tag, {tail} the others, {word} a made-up word. So the adapter acts where
    its trigger has its place in a longer prompt, and only there."""
    companions: tuple[str, ...] = ()
    """distil: triggers of adapters that this one will be stacked with; {word} is one of them half
    of the time, so that prompts with just these two in the wrong places are refused."""
    sampling_steps: int = 20
    """pictures: network evaluations for each, twice as many with guidance."""
    guidance_scale: float = 4.0
    """pictures: how far to go beyond the unconditional answer; 7.5 is usual for SD 1.5."""

    def __post_init__(self) -> None:
        more = [more for context in self.contexts if (more := _mistake(context))]
        if not 0 <= self.start < 1:
            more.append(f"start is in [0, 1), not {self.start}")
        check(
            self,
            at_least={"pictures": 1, "sampling_steps": 1, "guidance_scale": 1},
            positive=("weight", "min_snr_gamma", "share"),
            more=more,
        )

    @property
    def in_contexts(self) -> bool:
        """Whether captions are surrounded by other words."""
        return self.kind == "distil" and bool(self.contexts)

    def rows(self, batch_size: int, done: float) -> int:
        """Pictures of this kind in a batch.

        Args:
            batch_size: pictures of the concept in it.
            done: share of the steps that lie behind, in [0, 1).
        """
        if self.kind == "none" or done < self.start:
            return 0
        return math.ceil(self.share * batch_size)


def _mistake(context: str) -> str | None:
    """What is wrong with a context, if anything."""
    try:
        names = {name for _, name, *_ in Formatter().parse(context) if name is not None}
    except ValueError as error:
        return f"contexts: {context!r} cannot be read ({error})"
    if unknown := names - {"caption", "head", "tail", "word"}:
        return f"contexts: {context!r} has {sorted(unknown)}; known: caption, head, tail, word"
    if not names & {"caption", "head"}:
        return f"contexts: {context!r} lacks {{caption}} or {{head}}, and so the trigger"
    return None
