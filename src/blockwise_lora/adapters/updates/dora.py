"""DoRA: direction and magnitude of a weight's rows, learned apart."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from blockwise_lora.adapters.updates.low_rank import LowRank
from blockwise_lora.adapters.updates.protocol import required


@dataclass(frozen=True)
class Dora:
    """W becomes m * (W + BA) / ||W + BA||, one norm for each output (arXiv 2402.09353, eq. 5).

    Attributes:
        low_rank: the change of direction, scale * B A.
        magnitude: m, of shape (out,) for a linear layer or (1, out, 1, 1) for a convolution.
    """

    low_rank: LowRank
    magnitude: Tensor
    needs_base: ClassVar[bool] = True

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], scale: float) -> "Dora":
        """Read LoRA's two and `lora_magnitude_vector`.

        Raises:
            KeyError: one is missing.
            ValueError: they do not fit each other.
        """
        low_rank, magnitude = LowRank.from_tensors(tensors, scale), tensors["lora_magnitude_vector"]
        if magnitude.numel() != low_rank.shape[0]:
            raise ValueError(f"{magnitude.numel()} magnitudes for {low_rank.shape[0]} outputs")
        return cls(low_rank, magnitude)

    @classmethod
    def empty(cls, shape: tuple[int, ...], rank: int, scale: float) -> "Dora":
        """Tensors of the right shapes and any values."""
        magnitude = torch.empty(shape[0]) if len(shape) == 2 else torch.empty(1, shape[0], 1, 1)
        return cls(LowRank.empty(shape, rank, scale), magnitude)

    @property
    def rank(self) -> int:
        return self.low_rank.rank

    @property
    def scale(self) -> float:
        return self.low_rank.scale

    @property
    def shape(self) -> tuple[int, ...]:
        return self.low_rank.shape

    def delta(self, weight: Tensor | None = None) -> Tensor:
        weight = required(weight, "DoRA")
        turned = weight + self.low_rank.delta()
        norms = turned.flatten(1).norm(dim=1)
        factors = (self.magnitude.flatten() / norms).reshape(-1, *(1 for _ in self.shape[1:]))
        return factors * turned - weight

    def norm(self, weight: Tensor | None = None) -> float:
        return self.delta(weight).double().norm().item()

    def tensors(self) -> dict[str, Tensor]:
        return self.low_rank.tensors() | {"lora_magnitude_vector": self.magnitude}
