"""Which drawings a training step sees."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from blockwise_lora.emoji.corpus import Emoji
from blockwise_lora.emoji.splits import without_skin_tone

SMILEYS, PEOPLE, SYMBOLS = 0, 1, 8


class ConceptSampler:
    """Draws rows of a corpus so that frequent concepts do not crowd out the others.

    Two thirds of the corpus are skin-tone variants: all tones of a concept share one concept's
    weight. Smileys count double, since expressions are what characters are asked for; symbols half.

    Attributes:
        concepts: (n,) int64, an index per code point without skin tone.
    """

    def __init__(self, emojis: Sequence[Emoji]) -> None:
        index: dict[str, int] = {}
        plain = [without_skin_tone(e.code) for e in emojis]
        self.concepts = torch.tensor([index.setdefault(code, len(index)) for code in plain])
        groups: dict[tuple[str, str], list[int]] = {}
        for i, emoji in enumerate(emojis):
            groups.setdefault((emoji.set_name, plain[i]), []).append(i)
        self.weights = torch.zeros(len(emojis))
        for rows in groups.values():
            toned = [i for i in rows if emojis[i].skin_toned]
            bare = [i for i in rows if not emojis[i].skin_toned]
            weight = {SMILEYS: 2.0, SYMBOLS: 0.5}.get(emojis[rows[0]].group, 1.0)
            share = 0.3 if bare else 1.0
            for i in toned:
                self.weights[i] = weight * share / len(toned)
            for i in bare:
                self.weights[i] = weight * (1.0 - share * bool(toned)) / len(bare)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """(count,) rows, with replacement."""
        return torch.multinomial(self.weights, count, replacement=True, generator=generator)
