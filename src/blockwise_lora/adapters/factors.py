"""The two factors of one layer's update, and sizes computed from them."""

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Factors:
    """An update scale * up @ down of one layer.

    Attributes:
        down: A, of shape (rank, in) or (rank, in, k, k).
        up: B, of shape (out, rank) or (out, rank, 1, 1).
        scale: alpha / rank.
    """

    down: torch.Tensor
    up: torch.Tensor
    scale: float

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    def delta(self) -> torch.Tensor:
        """The update of the layer's weight, in the shape of that weight: (out, in[, k, k])."""
        product = self.scale * (self.up.flatten(1) @ self.down.flatten(1))
        return product.reshape(self.up.shape[0], *self.down.shape[1:])

    def norm(self) -> float:
        """Frobenius norm of the update, without forming it.

        ||B A||^2 = trace(A^T B^T B A) = sum((B^T B) * (A A^T)), two rank x rank matrices.
        """
        down, up = self.down.flatten(1).double(), self.up.flatten(1).double()
        square = ((up.T @ up) * (down @ down.T)).sum().item()
        return abs(self.scale) * math.sqrt(max(square, 0.0))
