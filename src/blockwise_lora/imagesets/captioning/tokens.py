"""How long captions are for the text encoder, which cuts off what is too long without a word."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

NAMED = 5
"""Pictures that a warning names."""


@dataclass(frozen=True)
class TextLimit:
    """What a text encoder takes.

    Attributes:
        count: tokens of a text, those of start and end included.
        most: tokens that are read.
    """

    count: Callable[[str], int]
    most: int

    def counts(self, captions: Sequence[str]) -> list[int]:
        """Tokens of each caption; equal captions are counted once."""
        known = {caption: self.count(caption) for caption in set(captions)}
        return [known[caption] for caption in captions]

    def warning(self, files: Sequence[str], counts: Sequence[int]) -> str:
        """What is too long, by name; empty where nothing is."""
        long = [(n, file) for n, file in zip(counts, files, strict=True) if n > self.most]
        if not long:
            return ""
        long.sort(key=lambda pair: (-pair[0], pair[1]))
        names = ", ".join(f"{file} ({n})" for n, file in long[:NAMED])
        more = f" and {len(long) - NAMED} more" if len(long) > NAMED else ""
        return (
            f"{len(long)} captions have more tokens than the {self.most} that the text encoder "
            f"reads, and their ends are not learnt: {names}{more}; shorten them"
        )
