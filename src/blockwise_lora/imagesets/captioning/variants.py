"""Several wordings of one caption, so that an adapter does not learn the order of its tags.

Text embeddings are computed once, before training, so chance has to strike before them: each
picture gets a number of wordings, and every step takes one of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from blockwise_lora.imagesets.captioning.tags import join_tags, split_tags

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class VariantRules:
    """What chance may do to a caption's tags.

    Attributes:
        shuffle: whether tags change places.
        keep: leading tags that stay in their places and are never left out; 1 is the tag that
            the trigger word begins.
        dropout: share of the other tags that is left out, 0 to below 1.

    Raises:
        ValueError: a value is out of its range.
    """

    shuffle: bool = False
    keep: int = 1
    dropout: float = 0.0

    def __post_init__(self) -> None:
        mistakes = []
        if self.keep < 0:
            mistakes.append(f"keep is at least 0, not {self.keep}")
        if not 0 <= self.dropout < 1:
            mistakes.append(f"dropout is in [0, 1), not {self.dropout}")
        if mistakes:
            raise ValueError("\n".join(mistakes))

    @property
    def random(self) -> bool:
        """Whether two wordings of a caption can differ."""
        return self.shuffle or self.dropout > 0


def variants(
    caption: str, n: int, rules: VariantRules, generator: torch.Generator
) -> tuple[str, ...]:
    """Draw wordings of a caption.

    Args:
        caption: tags between commas, or a sentence, which has only one wording.
        n: wordings wanted; equal ones may come.
        rules: what chance may do. Where it may do nothing, the caption comes back n times,
            letter by letter.
        generator: on the CPU; left alone where chance may do nothing.

    Raises:
        ValueError: n is below 1.
    """
    if n < 1:
        raise ValueError(f"the number of wordings is at least 1, not {n}")
    if not rules.random:
        return (caption,) * n
    return tuple(_draw(split_tags(caption), rules, generator) for _ in range(n))


def _draw(tags: tuple[str, ...], rules: VariantRules, generator: torch.Generator) -> str:
    import torch  # curation alone need not wait for it

    fixed, free = tags[: rules.keep], tags[rules.keep :]
    kept = (torch.rand(len(free), generator=generator) >= rules.dropout).tolist()
    order = torch.randperm(len(free), generator=generator).tolist()
    if not rules.shuffle:
        order = range(len(free))
    return join_tags([*fixed, *(free[i] for i in order if kept[i])])
