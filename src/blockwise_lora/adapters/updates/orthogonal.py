"""OFT: the layer's input is rotated, block by block of its channels."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from blockwise_lora.adapters.updates.protocol import required


@dataclass(frozen=True)
class Orthogonal:
    """W becomes W R^T, with R block-diagonal and orthogonal (OFT, arXiv 2306.07280).

    Each block is the Cayley transform (I - Q)(I + Q)^-1 of a skew-symmetric Q.

    Attributes:
        blocks: the entries of each Q above its diagonal, row by row, of shape
            (in / size, size * (size - 1) / 2).
        shape: of the weight, (out, in) or (out, in, 1, 1).
        terms: of the Neumann series by which PEFT can approximate the inverse; None: exact.
    """

    blocks: Tensor
    shape: tuple[int, ...]
    terms: int | None = None
    needs_base: ClassVar[bool] = True
    scale: ClassVar[float] = 1.0

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, Tensor], shape: tuple[int, ...], terms: int | None = None
    ) -> "Orthogonal":
        """Read `oft_R.weight`.

        Raises:
            KeyError: it is missing.
            ValueError: it does not fit the shape, or the shape is that of a 3x3 convolution.
        """
        made = cls(tensors["oft_R.weight"], tuple(shape), terms)
        size = made.rank
        if math.prod(made.shape[2:]) != 1:
            raise ValueError("OFT is for linear layers and 1x1 convolutions")
        fits = made.blocks.dim() == 2 and size * (size - 1) // 2 == made.blocks.shape[1]
        if not fits or size * made.blocks.shape[0] != made.shape[1]:
            raise ValueError(
                f"rotations {tuple(made.blocks.shape)} do not fit {made.shape[1]} inputs"
            )
        return made

    @classmethod
    def empty(cls, shape: tuple[int, ...], rank: int, scale: float = 1.0) -> "Orthogonal":
        """Tensors of the right shape and any values.

        Args:
            shape: of the weight.
            rank: side of a block. The largest divisor of the inputs up to it is taken.
            scale: 1; a rotation has none.

        Raises:
            ValueError: the inputs have no such divisor from 2 on.
        """
        inputs = shape[1]
        size = next((n for n in range(min(rank, inputs), 1, -1) if inputs % n == 0), None)
        if size is None:
            raise ValueError(f"{inputs} inputs divide into no blocks of 2 to {rank}")
        return cls(torch.empty(inputs // size, size * (size - 1) // 2), tuple(shape))

    @property
    def rank(self) -> int:
        """The side of a block."""
        return (1 + math.isqrt(1 + 8 * self.blocks.shape[-1])) // 2

    def rotations(self) -> Tensor:
        """The blocks of R, of shape (in / size, size, size)."""
        size = self.rank
        rows, columns = torch.triu_indices(size, size, 1, device=self.blocks.device)
        skew = self.blocks.new_zeros(len(self.blocks), size, size)
        skew[:, rows, columns] = self.blocks
        skew = skew - skew.mT
        one = torch.eye(size, dtype=skew.dtype, device=skew.device)
        if self.terms is None:
            return torch.linalg.solve(one + skew, one - skew, left=False)
        # PEFT's series is that of (I + Q)(I - Q)^-1, so its Q has the other sign, and the last
        # power enters once instead of twice.
        last = self.terms - 1 if self.terms < 3 else max(self.terms - 1, 3)
        total, power = one.expand_as(skew).clone(), one
        for n in range(1, last + 1):
            power = power @ skew
            total += power if n == last > 1 else 2 * power
        return total

    def delta(self, weight: Tensor | None = None) -> Tensor:
        weight = required(weight, "OFT")
        size, flat = self.rank, weight.flatten(1)
        parts = flat.reshape(flat.shape[0], -1, size)
        turned = torch.einsum("onc,nkc->onk", parts, self.rotations().to(weight.dtype))
        return turned.reshape(weight.shape) - weight

    def norm(self, weight: Tensor | None = None) -> float:
        return self.delta(weight).double().norm().item()

    def tensors(self) -> dict[str, Tensor]:
        return {"oft_R.weight": self.blocks}
