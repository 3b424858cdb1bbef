"""The values that an adapter starts from."""

import hashlib
import math
from dataclasses import replace

import torch
from torch import Tensor

from blockwise_lora.adapters.plan import LayerPlan
from blockwise_lora.adapters.updates import (
    Dora,
    Hadamard,
    Kronecker,
    LowRank,
    Orthogonal,
    Update,
)


def initial_update(step: LayerPlan, init: str, weight: Tensor, seed: int) -> Update:
    """An update that changes nothing yet; the values are distributed as PEFT's.

    They depend on the seed and the layer's name alone, so that a layer starts alike in every mask.

    Args:
        step: the layer, and how it is to be changed.
        init: `default`, or `orthogonal` for low-rank factors.
        weight: the layer's own.
        seed: of the adapter.
    """
    digest = hashlib.sha256(f"{seed}:{step.name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    update = step.empty()
    if step.method == "full":
        return _full(update)
    if isinstance(update, LowRank):
        return _low_rank(update, init, generator)
    if isinstance(update, Dora):
        low_rank = _low_rank(update.low_rank, init, generator)
        if weight.is_meta:  # has no norms, and torch takes long to say so
            return replace(update, low_rank=low_rank)
        norms = weight.detach().float().flatten(1).norm(dim=1)
        return Dora(low_rank, norms.reshape(update.magnitude.shape))
    if isinstance(update, Hadamard):
        names = ("w1_a", "w1_b", "w2_a")
        drawn = {name: _uniform(getattr(update, name), generator) for name in names}
        return replace(update, w2_b=torch.zeros_like(update.w2_b), **drawn)
    if isinstance(update, Kronecker):
        names = [name for name in ("w2", "w2_a", "w2_b") if getattr(update, name) is not None]
        drawn = {name: _uniform(getattr(update, name), generator) for name in names}
        return replace(update, w1=torch.zeros_like(update.w1), **drawn)
    assert isinstance(update, Orthogonal)
    return replace(update, blocks=torch.zeros_like(update.blocks))


def _uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    """Kaiming-uniform values with a = sqrt(5), as nn.Linear's: within 1 / sqrt(fan-in)."""
    bound = 1 / math.sqrt(math.prod(like.shape[1:]))
    return torch.empty(like.shape).uniform_(-bound, bound, generator=generator)


def _full(update: LowRank) -> LowRank:
    """The change itself, zero so far, beside the identity: I D or D I, by the smaller side."""
    identity = torch.eye(update.rank)
    if update.rank == update.up.shape[0]:
        return replace(
            update, down=torch.zeros_like(update.down), up=identity.reshape(update.up.shape)
        )
    return replace(update, down=identity.reshape(update.down.shape), up=torch.zeros_like(update.up))


def _low_rank(update: LowRank, init: str, generator: torch.Generator) -> LowRank:
    if init == "default":
        down = _uniform(update.down, generator)
        return replace(update, down=down, up=torch.zeros_like(update.up))
    # The rows of one orthogonal matrix, shared out between A and B: A = G1^T Q_odd transposed,
    # B = G2^T Q_even, hence B A = G2^T Q_even Q_odd^T G1 = 0 (PEFT's `orthogonal`).
    rank, inputs, outputs = update.rank, update.down[0].numel(), update.up.shape[0]
    square, _ = torch.linalg.qr(torch.randn(rank, rank, generator=generator))
    ins = torch.randn(inputs, rank // 2, generator=generator)
    outs = torch.randn(outputs, rank // 2, generator=generator)
    down, up = (ins @ square[0::2]).T / 10, outs @ square[1::2] / 10
    return replace(
        update,
        down=down.contiguous().reshape(update.down.shape),
        up=up.contiguous().reshape(update.up.shape),
    )
