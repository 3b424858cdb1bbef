"""Low-rank updates of one layer, each on its own slice of the batch. Pure functions of tensors.

A slice k of x becomes W x + s_k B_k A_k x. The product with the frozen W is one for the whole
batch; those with A_k and B_k are batched over the slices (`bmm`, and convolutions in groups). For
a single slice, W + s B A is formed first where that is less work: one product instead of three.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Merging computes the weight's gradient as a whole, and reads and writes the weight once more.
# Up to these numbers of multiplications and of weights that costs less than starting more
# kernels. Measured on one core of a CPU: docs/performance.md.
_MERGED_PRODUCTS = 4_000_000
_MERGED_WEIGHTS = 100_000


def apply(
    layer: nn.Linear | nn.Conv2d,
    x: Tensor,
    down: Tensor,
    up: Tensor,
    scale: float | Tensor,
    slices: int,
    chosen: Tensor | None = None,
) -> Tensor:
    """The layer's answer with updates.

    Args:
        layer: the frozen layer.
        x: its input; the first axis holds the slices one below the other.
        down: A, (m, rank, in), or (m, rank, in * k * k) for a convolution.
        up: B transposed, (m, rank, out).
        scale: s, one for all or (m, 1, 1).
        slices: number of slices in x.
        chosen: which m of them have an update, int64; None: all, in order.
    """
    if slices == 1 and isinstance(scale, float) and _merging_pays(layer, x):
        return _merged(layer, x, down[0], up[0], scale)
    answer = layer(x)
    if isinstance(layer, nn.Linear):
        inputs = _pick(x.reshape(slices, -1, x.shape[-1]), chosen)
        update = torch.bmm(inputs, down.transpose(1, 2)), up
        return _added(answer.reshape(slices, -1, answer.shape[-1]), *update, scale, chosen).view(
            answer.shape
        )
    # From here on each picture is a slice: the channels stand before the pixels.
    rows = x.shape[0] // slices
    inputs = _pick(x.unflatten(0, (slices, rows)), chosen)
    inner = _convolved(layer, inputs, down)
    if rows > 1:
        up = up.repeat_interleave(rows, 0)
        chosen = None if chosen is None else _pictures(chosen, rows)
        scale = scale.repeat_interleave(rows, 0) if isinstance(scale, Tensor) else scale
    update = up.transpose(1, 2), inner
    return _added(answer.flatten(2), *update, scale, chosen).view(answer.shape)


def _merging_pays(layer: nn.Linear | nn.Conv2d, x: Tensor) -> bool:
    # In half precision the small update would drown in the rounding of W.
    if layer.weight.dtype != torch.float32:
        return False
    positions = x.numel() // x.shape[-1 if isinstance(layer, nn.Linear) else 1]
    weights = layer.weight.numel()
    return weights <= _MERGED_WEIGHTS and positions * weights <= _MERGED_PRODUCTS


def _merged(
    layer: nn.Linear | nn.Conv2d, x: Tensor, down: Tensor, up: Tensor, scale: float
) -> Tensor:
    weight = torch.addmm(layer.weight.flatten(1), up.t(), down, alpha=scale)
    if isinstance(layer, nn.Linear):
        return F.linear(x, weight, layer.bias)
    weight = weight.view(layer.weight.shape)
    return F.conv2d(x, weight, layer.bias, layer.stride, layer.padding)


def _convolved(layer: nn.Conv2d, inputs: Tensor, down: Tensor) -> Tensor:
    """A's convolution of each slice, (m, rows, in, h, w) -> (m * rows, rank, pixels)."""
    m, rows = inputs.shape[:2]
    rank = down.shape[1]
    if layer.kernel_size == (1, 1) and layer.stride == (1, 1):
        down = down.repeat_interleave(rows, 0) if rows > 1 else down
        return torch.bmm(down, inputs.flatten(0, 1).flatten(2))
    weight = down.reshape(m * rank, -1, *layer.kernel_size)
    side_by_side = inputs.transpose(0, 1).flatten(1, 2)
    inner = F.conv2d(side_by_side, weight, None, layer.stride, layer.padding, groups=m)
    return inner.unflatten(1, (m, rank)).transpose(0, 1).flatten(0, 1).flatten(2)


def _added(
    answer: Tensor, left: Tensor, right: Tensor, scale: float | Tensor, chosen: Tensor | None
) -> Tensor:
    """Answer + scale * left @ right, for the chosen ones of its first axis."""
    if isinstance(scale, Tensor):
        left, scale = left * scale.to(left.dtype), 1.0
    if chosen is None:
        return torch.baddbmm(answer, left, right, alpha=scale)
    update = torch.bmm(left, right)
    return answer.index_add(0, chosen, update.to(answer.dtype), alpha=scale)


def _pick(slices: Tensor, chosen: Tensor | None) -> Tensor:
    return slices if chosen is None else slices.index_select(0, chosen)


def _pictures(chosen: Tensor, rows: int) -> Tensor:
    """Slices to their pictures: (m,) -> (m * rows,)."""
    return (chosen[:, None] * rows + torch.arange(rows, device=chosen.device)).flatten()
