"""The trainable values of several low-rank adapters, laid out for one pass.

All values of an adapter lie in one row of a table, layer below layer, so that clipping and the
optimiser handle a few long vectors instead of hundreds of small ones; a layer's columns, seen
through all rows, are the stack of factors that the pass multiplies with. Gradients have a table of
the same layout, into which the backward pass adds.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Literal

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from blockwise_lora.diffusion.lowrank import apply
from blockwise_lora.diffusion.prefix import Layout

Part = Literal["down", "up"]
PARTS: tuple[Part, Part] = ("down", "up")
"""The factors of a layer, A and B, in the order in which the table has them."""


def stackable(layer: nn.Module, names: Sequence[str]) -> bool:
    """Whether all of these adapters that touch the layer are plain low-rank ones."""
    if not isinstance(layer, LoraLayer):
        return False
    base = layer.get_base_layer()
    if layer.base_layer is not base:  # adapters of another kind act in it, too
        return False
    plain = isinstance(base, nn.Linear) or (
        isinstance(base, nn.Conv2d)
        and (base.groups, base.dilation, base.padding_mode) == (1, (1, 1), "zeros")
        and not isinstance(base.padding, str)
    )
    return plain and all(
        name not in layer.lora_variant
        and not layer.lora_bias.get(name)
        and isinstance(layer.lora_dropout[name], nn.Identity)
        for name in names
        if name in layer.lora_A
    )


@dataclass(frozen=True)
class _Choice:
    """What a layer does for one line-up of slices: see `lowrank.apply`."""

    rows: Tensor | None
    chosen: Tensor | None
    scale: float | Tensor


class Stack:
    """One layer's factors of all adapters.

    Args:
        layer: PEFT's layer.
        names: all adapters, in the order of the table's rows.
    """

    def __init__(self, layer: LoraLayer, names: Sequence[str]) -> None:
        self.layer, self.names = layer, tuple(names)
        self.base: nn.Linear | nn.Conv2d = layer.get_base_layer()
        self.ranks = {name: layer.r[name] for name in names if name in layer.lora_A}
        weight = self.base.weight
        self.rank, self.width = max(self.ranks.values()), prod(weight.shape[1:])
        self.size = self.rank * (self.width + weight.shape[0])
        self.down = self.up = torch.empty(0)
        self._choices: dict[Layout, _Choice] = {}

    def place(self, values: Tensor, gradients: Tensor) -> None:
        """Take this layer's columns of the table, (adapters, size), and of the gradients'."""
        cut = self.rank * self.width
        for attribute, part, width in (
            ("down", slice(cut), self.width),
            ("up", slice(cut, None), self.base.weight.shape[0]),
        ):
            leaf = values[:, part].unflatten(1, (self.rank, width)).detach().requires_grad_()
            leaf.grad = gradients[:, part].unflatten(1, (self.rank, width))
            setattr(self, attribute, leaf)

    def spans(self, name: str) -> list[tuple[int, int]]:
        """The columns that hold an adapter's values; lower ranks leave gaps, which stay zero."""
        rank, cut = self.ranks[name], self.rank * self.width
        out = self.base.weight.shape[0]
        return [(0, rank * self.width), (cut, cut + rank * out)]

    @torch.no_grad()
    def exchange(self, name: str, to_peft: bool) -> None:
        """Copy an adapter's values from PEFT's weights, or to them."""
        row, rank = self.names.index(name), self.ranks[name]
        down, up = self.layer.lora_A[name].weight, self.layer.lora_B[name].weight
        pairs = [(self.down[row, :rank], down.flatten(1)), (self.up[row, :rank], up.flatten(1).t())]
        for ours, theirs in pairs:
            theirs.copy_(ours) if to_peft else ours.copy_(theirs)

    def prepare(self, layout: Layout) -> None:
        """Choose what `forward` does for a line-up of slices; there it would be compiled, too."""
        self._choices[layout] = self._choose(layout)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """The layer's answer, with each slice's own update.

        Args:
            x: the slices, one below the other.
            layout: the adapter of each slice, known from `prepare`.
        """
        choice = self._choices[layout]
        down, up = self.down, self.up
        if choice.rows is not None:
            if not len(choice.rows):
                return self.base(x)
            down, up = down.index_select(0, choice.rows), up.index_select(0, choice.rows)
        return apply(self.base, x, down, up, choice.scale, len(layout), choice.chosen)

    def _choose(self, layout: Layout) -> _Choice:
        acting = [i for i, name in enumerate(layout) if name in self.ranks]
        rows = [self.names.index(layout[i]) for i in acting]
        scales = [float(self.layer.scaling[layout[i]]) for i in acting]
        tensor = partial(torch.tensor, device=self.base.weight.device)
        whole = rows == list(range(len(self.names)))
        equal = len(set(scales)) <= 1
        return _Choice(
            rows=None if whole else tensor(rows, dtype=torch.int64),
            chosen=None if len(acting) == len(layout) else tensor(acting, dtype=torch.int64),
            scale=(scales or [1.0])[0] if equal else tensor(scales)[:, None, None],
        )


class StackTable:
    """The table.

    Args:
        layers: PEFT's stackable layers by module name, in the model's order.
        names: the adapters.
    """

    def __init__(self, layers: Mapping[str, LoraLayer], names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.stacks = {key: Stack(layer, names) for key, layer in layers.items()}
        device = next((s.base.weight.device for s in self.stacks.values()), None)
        width = sum(stack.size for stack in self.stacks.values())
        # Zeros that are never written take no memory on a CPU: blocks outside an adapter's mask.
        self._values, self._gradients = (
            torch.zeros(len(names), width, device=device) for _ in range(2)
        )
        self._starts, start = {}, 0
        for key, stack in self.stacks.items():
            columns = slice(start, start + stack.size)
            stack.place(self._values[:, columns], self._gradients[:, columns])
            self._starts[key], start = start, start + stack.size
        self._prepared: set[Layout] = set()
        self.exchange(to_peft=False)

    def prepare(self, layouts: Iterable[Layout]) -> None:
        """Make all layers ready for these line-ups of slices."""
        for layout in set(layouts) - self._prepared:
            for stack in self.stacks.values():
                stack.prepare(layout)
            self._prepared.add(layout)

    def exchange(self, to_peft: bool) -> None:
        """Copy all values from PEFT's weights, or to them."""
        for stack in self.stacks.values():
            for name in stack.ranks:
                stack.exchange(name, to_peft)

    def parameters(
        self, name: str, factors: Collection[tuple[str, Part]] | None = None, *, joined: bool = True
    ) -> list[nn.Parameter]:
        """An adapter's values, each tensor with its gradient.

        Args:
            name: the adapter.
            factors: only these, by layer; None: all.
            joined: as few long vectors; else each factor as a matrix, transposed where it is "up".
        """
        cuts: list[tuple[int, int, int | None]] = []
        for key, stack in self.stacks.items():
            if name not in stack.ranks:
                continue
            for part, (low, high) in zip(PARTS, stack.spans(name), strict=True):
                if factors is not None and (key, part) not in factors:
                    continue
                low, high = low + self._starts[key], high + self._starts[key]
                if joined and cuts and cuts[-1][1] == low:
                    cuts[-1] = (cuts[-1][0], high, None)
                else:
                    cuts.append((low, high, None if joined else stack.ranks[name]))
        row, tensors = self.names.index(name), []
        for low, high, rows in cuts:
            shape = (-1,) if rows is None else (rows, -1)
            tensors.append(nn.Parameter(self._values[row, low:high].view(shape)))
            tensors[-1].grad = self._gradients[row, low:high].view(shape)
        return tensors
