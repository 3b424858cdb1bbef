"""LoKr: the Kronecker product of a small matrix and another, itself low-rank where large."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from peft.tuners.lokr.layer import factorization
from torch import Tensor

from blockwise_lora.adapters.updates.protocol import weightless


@dataclass(frozen=True)
class Kronecker:
    """scale * kron(w1, w2), as in LyCORIS (arXiv 2309.14859, section 3.1.2).

    Either factor is whole or a product: w1, or w1_a @ w1_b; w2, or w2_a @ w2_b, or along a
    kernel t2 with w2_a of shape (rank, out2) and w2_b (rank, in2).

    Attributes:
        w1: of shape (out1, in1).
        w2: of shape (out2, in2) or (out2, in2, k, k), where out = out1 * out2, in = in1 * in2.
        t2: of shape (rank, rank, k, k).
        shape: of the weight.
        scale: alpha / rank.
        dim: the rank that a factor has where it is a product, and would have where it is whole.
    """

    shape: tuple[int, ...]
    scale: float
    dim: int
    w1: Tensor | None = None
    w1_a: Tensor | None = None
    w1_b: Tensor | None = None
    w2: Tensor | None = None
    w2_a: Tensor | None = None
    w2_b: Tensor | None = None
    t2: Tensor | None = None
    needs_base: ClassVar[bool] = False

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, Tensor], scale: float, shape: tuple[int, ...], dim: int
    ) -> "Kronecker":
        """Read `lokr_w1`, ... as far as they are there.

        Raises:
            ValueError: some are missing, or they do not fit each other or the shape.
        """
        given = {name: tensors.get(f"lokr_{name}") for name in _NAMES}
        made = cls(tuple(shape), scale, dim, **given)
        try:
            factors = weightless(made)
            first, second = factors.first.shape, factors.second.shape
            sizes = [a * b for a, b in zip(first, second, strict=False)]
        except (RuntimeError, TypeError) as error:
            raise ValueError(f"the tensors of a LoKr layer do not fit: {error}") from None
        if tuple(sizes) != made.shape[:2]:
            raise ValueError(f"a LoKr layer's factors make {sizes}, not {made.shape[:2]}")
        return made

    @classmethod
    def empty(cls, shape: tuple[int, ...], rank: int, scale: float) -> "Kronecker":
        """Tensors of the right shapes and any values.

        Sizes as in LyCORIS and PEFT: w1 as square as the divisors allow and whole, w2 a product
        where that is smaller than the whole.
        """
        (out1, out2), (in1, in2) = (factorization(size) for size in shape[:2])
        first = torch.empty(out1, in1)
        if rank >= max(out2, in2) / 2:
            whole = torch.empty(out2, in2, *shape[2:])
            return cls(tuple(shape), scale, rank, w1=first, w2=whole)
        a, b = torch.empty(out2, rank), torch.empty(rank, in2 * math.prod(shape[2:]))
        return cls(tuple(shape), scale, rank, w1=first, w2_a=a, w2_b=b)

    @property
    def rank(self) -> int:
        return self.dim

    @property
    def first(self) -> Tensor:
        """The left factor, (out1, in1)."""
        return self.w1_a @ self.w1_b if self.w1 is None else self.w1

    @property
    def second(self) -> Tensor:
        """The right factor, (out2, in2) or (out2, in2, k, k)."""
        if self.w2 is not None:
            return self.w2
        if self.t2 is not None:
            return torch.einsum("ro,rskl,si->oikl", self.w2_a, self.t2, self.w2_b)
        product = self.w2_a @ self.w2_b
        return product.reshape(product.shape[0], -1, *self.shape[2:])

    def delta(self, weight: Tensor | None = None) -> Tensor:
        first, second = self.first, self.second
        first = first.reshape(*first.shape, *(1 for _ in second.shape[2:]))
        return (self.scale * torch.kron(first, second.contiguous())).reshape(self.shape)

    def norm(self, weight: Tensor | None = None) -> float:
        """||kron(a, b)|| = ||a|| ||b||."""
        product = self.first.double().norm() * self.second.double().norm()
        return abs(self.scale) * product.item()

    def tensors(self) -> dict[str, Tensor]:
        return {f"lokr_{n}": t for n in _NAMES if (t := getattr(self, n)) is not None}


_NAMES = ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")
