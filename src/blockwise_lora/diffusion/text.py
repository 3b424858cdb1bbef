"""What the U-Net is told of prompts, and what the text encoders are told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)  # tensors have no truth value to compare by
class Text:
    """Prompts as the text encoders see them.

    Attributes:
        tokens: embeddings, (n, tokens, width).
        pooled: one vector for each whole prompt, (n, width); None for models that take none.
    """

    tokens: Tensor
    pooled: Tensor | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        return self.tokens.device

    def tensors(self) -> list[Tensor]:
        """Both, or the one that there is."""
        return [self.tokens] if self.pooled is None else [self.tokens, self.pooled]

    def __getitem__(self, rows: Tensor | slice | Sequence[int]) -> Text:
        return Text(self.tokens[rows], None if self.pooled is None else self.pooled[rows])

    def expand(self, n: int) -> Text:
        """The one prompt, n times."""
        pooled = None if self.pooled is None else self.pooled.expand(n, -1)
        return Text(self.tokens.expand(n, -1, -1), pooled)

    @staticmethod
    def cat(parts: Sequence[Text]) -> Text:
        """Several, one below the other."""
        if len(parts) == 1:
            return parts[0]
        pooled = None if parts[0].pooled is None else torch.cat([p.pooled for p in parts])
        return Text(torch.cat([p.tokens for p in parts]), pooled)


@dataclass(frozen=True, eq=False)
class TokenIds:
    """Prompts before the text encoders see them, for trainings that change these.

    Attributes:
        ids: for each text encoder, (n, tokens) int64.
    """

    ids: tuple[Tensor, ...]

    def __len__(self) -> int:
        return len(self.ids[0])

    def tensors(self) -> list[Tensor]:
        """Those of all text encoders."""
        return list(self.ids)

    def __getitem__(self, rows: Tensor | slice | Sequence[int]) -> TokenIds:
        return TokenIds(tuple(some[rows] for some in self.ids))

    @property
    def device(self) -> torch.device:
        """Where they lie."""
        return self.ids[0].device

    @staticmethod
    def cat(parts: Sequence[TokenIds]) -> TokenIds:
        """Several, one below the other."""
        return TokenIds(tuple(map(torch.cat, zip(*(part.ids for part in parts), strict=True))))


Prompts = Text | TokenIds


def cat(parts: Sequence[Prompts]) -> Prompts:
    """Several of one kind, one below the other."""
    return type(parts[0]).cat(parts)
