"""LoHa and LoKr without their decomposition along a convolution's kernel, equal in effect.

A factor `core` of shape (rank, rank, k, k) between a (rank, out) and b (rank, in) makes the weight
sum_rs a[r, o] core[r, s, k, l] b[s, i]. Multiplying core and b, once, leaves a plain product of a
(out, rank) and a (rank, in * k * k) matrix.
"""

from dataclasses import replace

import torch
from torch import Tensor

from blockwise_lora.adapters.updates import Hadamard, Kronecker


def unfolded(update: Hadamard | Kronecker) -> Hadamard | Kronecker:
    """The update with plain products, in float32 where something is multiplied."""
    if isinstance(update, Kronecker):
        if update.t2 is None:
            return update
        a, b = _plain(update.w2_a, update.t2, update.w2_b)
        return replace(update, w2_a=a, w2_b=b, t2=None)
    if update.t1 is None:
        return update
    a1, b1 = _plain(update.w1_a, update.t1, update.w1_b)
    a2, b2 = _plain(update.w2_a, update.t2, update.w2_b)
    return replace(update, w1_a=a1, w1_b=b1, w2_a=a2, w2_b=b2, t1=None, t2=None)


def _plain(a: Tensor, core: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    a, core, b = (
        tensor.to(torch.promote_types(tensor.dtype, torch.float32)) for tensor in (a, core, b)
    )
    return a.T.contiguous(), torch.einsum("rskl,si->rikl", core, b).flatten(1)
