"""LoRA's two factors, and sizes computed from them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor


@dataclass(frozen=True)
class LowRank:
    """scale * up @ down: LoRA (arXiv 2106.09685), LoCon, rsLoRA, whatever their start.

    Attributes:
        down: A, of shape (rank, in) or (rank, in, k, k).
        up: B, of shape (out, rank) or (out, rank, 1, 1).
        scale: alpha / rank, or alpha / sqrt(rank) for rsLoRA.
    """

    down: Tensor
    up: Tensor
    scale: float
    needs_base: ClassVar[bool] = False

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], scale: float) -> "LowRank":
        """Read `lora_A.weight` and `lora_B.weight`.

        Raises:
            KeyError: one is missing.
            ValueError: they do not fit each other.
        """
        down, up = tensors["lora_A.weight"], tensors["lora_B.weight"]
        if down.dim() < 2 or down.dim() != up.dim() or not 0 < down.shape[0] == up.shape[1]:
            raise ValueError(f"A {tuple(down.shape)} and B {tuple(up.shape)} do not fit each other")
        if math.prod(up.shape[2:]) != 1:
            raise ValueError(f"B {tuple(up.shape)} has a kernel, which in LoRA only A may have")
        return cls(down, up, scale)

    @classmethod
    def empty(cls, shape: tuple[int, ...], rank: int, scale: float) -> "LowRank":
        """Tensors of the right shapes and any values."""
        down = torch.empty(rank, *shape[1:])
        return cls(down, torch.empty(shape[0], rank, *(1 for _ in shape[2:])), scale)

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.up.shape[0], *self.down.shape[1:])

    def delta(self, weight: Tensor | None = None) -> Tensor:
        product = self.scale * (self.up.flatten(1) @ self.down.flatten(1))
        return product.reshape(self.shape)

    def norm(self, weight: Tensor | None = None) -> float:
        """Through two rank x rank matrices.

        ||B A||^2 = trace(A^T B^T B A) = sum((B^T B) * (A A^T)).
        """
        down, up = self.down.flatten(1).double(), self.up.flatten(1).double()
        square = ((up.T @ up) * (down @ down.T)).sum().item()
        return abs(self.scale) * math.sqrt(max(square, 0.0))

    def tensors(self) -> dict[str, Tensor]:
        return {"lora_A.weight": self.down, "lora_B.weight": self.up}
