"""LoHa: the elementwise product of two low-rank matrices."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from blockwise_lora.adapters.updates.protocol import weightless


@dataclass(frozen=True)
class Hadamard:
    """scale * (w1_a @ w1_b) * (w2_a @ w2_b), of a rank up to rank^2 (FedPara, arXiv 2108.06098).

    Attributes:
        w1_a, w2_a: of shape (out, rank).
        w1_b, w2_b: of shape (rank, in * k * k).
        shape: of the weight, (out, in) or (out, in, k, k), which the product is reshaped to.
        scale: alpha / rank.
        t1, t2: of shape (rank, rank, k, k) where a convolution is decomposed along its kernel, too
            (FedPara, proposition 3); then `w?_a` is (rank, out) and `w?_b` (rank, in).
    """

    w1_a: Tensor
    w1_b: Tensor
    w2_a: Tensor
    w2_b: Tensor
    shape: tuple[int, ...]
    scale: float
    t1: Tensor | None = None
    t2: Tensor | None = None
    needs_base: ClassVar[bool] = False

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, Tensor], scale: float, shape: tuple[int, ...]
    ) -> "Hadamard":
        """Read `hada_w1_a`, ..., and `hada_t1`, `hada_t2` where they are.

        Raises:
            KeyError: one is missing.
            ValueError: they do not fit each other or the shape.
        """
        four = (tensors[f"hada_{name}"] for name in ("w1_a", "w1_b", "w2_a", "w2_b"))
        t1, t2 = tensors.get("hada_t1"), tensors.get("hada_t2")
        made = cls(*four, tuple(shape), scale, t1, t2)
        try:
            weightless(made).delta()
        except (RuntimeError, ValueError, IndexError) as error:
            raise ValueError(
                f"the tensors of a LoHa layer do not fit each other: {error}"
            ) from None
        return made

    @classmethod
    def empty(cls, shape: tuple[int, ...], rank: int, scale: float) -> "Hadamard":
        """Tensors of the right shapes and any values; a kernel is not decomposed."""
        width = math.prod(shape[1:])
        one, two = ((torch.empty(shape[0], rank), torch.empty(rank, width)) for _ in range(2))
        return cls(*one, *two, tuple(shape), scale)

    @property
    def rank(self) -> int:
        return self.w1_b.shape[0]

    def delta(self, weight: Tensor | None = None) -> Tensor:
        one = _product(self.w1_a, self.w1_b, self.t1)
        two = _product(self.w2_a, self.w2_b, self.t2)
        return (self.scale * (one * two)).reshape(self.shape)

    def norm(self, weight: Tensor | None = None) -> float:
        return self.delta().double().norm().item()

    def tensors(self) -> dict[str, Tensor]:
        names = ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")
        return {f"hada_{n}": t for n in names if (t := getattr(self, n)) is not None}


def _product(a: Tensor, b: Tensor, core: Tensor | None) -> Tensor:
    """One of the two low-rank factors, (out, in * k * k) or (out, in, k, k)."""
    return a @ b if core is None else torch.einsum("ro,rskl,si->oikl", a, core, b)
