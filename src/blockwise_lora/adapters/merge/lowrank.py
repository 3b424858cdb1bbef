"""Low-rank arithmetic on the changes of one layer's weight. Pure functions of tensors.

A convolution's weight (out, in, k, k) is treated as the matrix (out, in k k), as its LoRA is.
What is computed anew is computed in float64 and given in float32; float16 and bfloat16 factors
are only ever passed on as they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from blockwise_lora.adapters.updates import LowRank

EXACT = 3e-7
"""Relative error up to which a factorisation counts as exact: some roundings of float32."""


@dataclass(frozen=True)
class Truncated:
    """A low-rank change in place of another one.

    Attributes:
        update: the change; its scale is 1, which tools that know no alpha assume.
        error: of the change relative to the other one, in the Frobenius norm.
    """

    update: LowRank
    error: float


def concatenate(updates: Sequence[LowRank], weights: Sequence[float]) -> LowRank:
    """The weighted sum of changes, exactly: sum of w s B A = [w1 s1 B1, w2 s2 B2] [A1; A2].

    The ranks add up. Where all products of weight and scale are equal, the sum has that scale and
    the very factors; else they go into `up`, in float32.
    """
    scales = [u.scale * w for u, w in zip(updates, weights, strict=True)]
    if len(set(scales)) == 1:
        down, up, scale = [u.down for u in updates], [u.up for u in updates], scales[0]
    else:
        down, scale = [_at_least_float(u.down) for u in updates], 1.0
        up = [_at_least_float(u.up) * s for u, s in zip(updates, scales, strict=True)]
    return LowRank(torch.cat(down), torch.cat(up, dim=1), scale)


def truncate(update: LowRank, rank: int) -> Truncated:
    """The nearest change of a rank (Eckart, Young and Mirsky), through the factors.

    B A = Q_b (R_b R_a^T) Q_a^T by QR of B and of A^T, so that only a matrix of the size of the
    old rank is decomposed. The singular values are shared out evenly between the new factors. A
    change that fits the rank is left as it is.
    """
    if update.rank <= rank:
        return Truncated(update, 0.0)
    up, down = update.up.flatten(1).double(), update.down.flatten(1).double()
    (q_up, r_up), (q_down, r_down) = torch.linalg.qr(up), torch.linalg.qr(down.T)
    u, s, vh = torch.linalg.svd(update.scale * (r_up @ r_down.T))
    root = s[:rank].sqrt()
    new_up = q_up @ (u[:, :rank] * root)
    new_down = (root[:, None] * vh[:rank]) @ q_down.T
    error = _ratio(torch.linalg.vector_norm(s[rank:]), torch.linalg.vector_norm(s))
    return Truncated(_shaped(new_down, new_up, update.down.shape[1:]), error)


def factorise(delta: Tensor, rank: int | None = None) -> Truncated:
    """The nearest change of a rank to a change of any kind.

    Through the eigenvectors of D D^T or D^T D, whichever is smaller.

    Args:
        delta: (out, in) or (out, in, k, k).
        rank: None takes the smallest rank at which the error is at most `EXACT`.
    """
    matrix = delta.flatten(1).double()
    wide = matrix.shape[0] <= matrix.shape[1]
    short = matrix if wide else matrix.T
    energy, basis = torch.linalg.eigh(short @ short.T)
    energy, basis = energy.flip(0).clamp(min=0), basis.flip(1)
    if rank is None:
        # What is left over when the first 1, 2, ... eigenvalues are taken.
        left = energy.sum() - energy.cumsum(0)
        rank = int((left > EXACT**2 * energy.sum()).sum()) + 1
    basis = basis[:, : min(rank, len(energy))]
    root = energy[: basis.shape[1]].sqrt().sqrt()
    inverse = torch.where(root > 0, 1 / root, 0.0)
    first, second = basis * root, inverse[:, None] * (basis.T @ short)
    up, down = (first, second) if wide else (second.T, first.T)
    error = _ratio(torch.linalg.matrix_norm(matrix - up @ down), torch.linalg.matrix_norm(matrix))
    return Truncated(_shaped(down, up, delta.shape[1:]), error)


def distance(update: LowRank, wanted: LowRank) -> float:
    """Relative Frobenius distance of two changes, through the factors."""
    both = concatenate([_double(update), _double(wanted)], [1.0, -1.0])
    size = _double(wanted).norm()
    return both.norm() / size if size else 0.0


def _double(update: LowRank) -> LowRank:
    return LowRank(update.down.double(), update.up.double() * update.scale, 1.0)


def _at_least_float(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _shaped(down: Tensor, up: Tensor, inputs: Sequence[int]) -> LowRank:
    """Factors as a layer has them: (r, in[, k, k]) and (out, r[, 1, 1])."""
    down, up = down.float(), up.float()
    ones = [1] * (len(inputs) - 1)
    down = down.reshape(len(down), *inputs).contiguous()
    return LowRank(down, up.reshape(*up.shape, *ones).contiguous(), 1.0)


def _ratio(part: Tensor, whole: Tensor) -> float:
    return (part / whole).item() if whole > 0 else 0.0
