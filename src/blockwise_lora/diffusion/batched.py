"""Several adapters of one model in one pass, each acting on its own slice of the batch.

The frozen layers see the whole batch at once; only the adapters' own share of the work is done
slice by slice. No slice takes part in another's arithmetic, so a value that is not finite in one
adapter stays there.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from blockwise_lora.adapters.attach import trainable_parameters
from blockwise_lora.adapters.layers import activate, adapted_layers, holds, tuner_layers
from blockwise_lora.adapters.parts import Model, Parts
from blockwise_lora.diffusion.optimizers import Group
from blockwise_lora.diffusion.prefix import SharedPrefix
from blockwise_lora.diffusion.stacks import PARTS, Part, Stack, StackTable, stackable


class BatchedAdapters:
    """Adapters that are attached to a model, ready to be trained in one pass.

    Low-rank adapters of linear layers and convolutions are trained in a table of their own
    (`StackTable`), and PEFT's weights follow on `write_back`. Layers with other methods call
    PEFT's forward pass once for each slice and train PEFT's weights themselves.

    Args:
        model: the U-Net, or `Parts` with its text encoders.
        names: of the attached adapters.
        words: those of them that learn a word of the text encoders, too.
    """

    def __init__(self, model: Model, names: Sequence[str], words: Collection[str] = ()) -> None:
        self.parts, self.names = Parts.of(model), tuple(names)
        self._layers = dict(tuner_layers(model))
        touched = {key: _touching(layer, names) for key, layer in self._layers.items()}
        self._prefix = SharedPrefix(
            self.parts.denoiser,
            {name: [key for key, here in touched.items() if name in here] for name in names},
            words,
        )
        stacked = {
            key: layer
            for key, layer in self._layers.items()
            if touched[key] and stackable(layer, touched[key])
        }
        self._table = StackTable(stacked, names)
        self._others = {name: self._outside_the_table(name) for name in names}
        self._acting = False

    def order(self, name: str) -> int:
        """A number by which `acting` wants its members sorted: where an adapter begins."""
        return self._prefix.order(name)

    def parameters(self, name: str) -> list[nn.Parameter]:
        """What there is to be trained of one adapter; the order is that of the model."""
        return [*self._table.parameters(name), *self._others[name]]

    def groups(
        self,
        name: str,
        rates: Mapping[str, float],
        *,
        up: float = 1.0,
        full: bool = False,
        joined: bool = True,
    ) -> list[Group]:
        """The same, parted by their rate.

        Args:
            name: the adapter.
            rates: full module name to the factor of the learning rate, where it is not 1.
            up: a further factor for the up factors (B) of low-rank adapters.
            full: whether one factor of each layer, the identity, stays as it is.
            joined: long vectors of many factors, which the optimisers handle fastest; else each
                factor by itself, for those that look at rows and columns.
        """
        shares: dict[float, list[tuple[str, Part]]] = {}
        for module, layer in adapted_layers(self.parts, name):
            for part in PARTS:
                if full and part == _identity(layer, name):
                    continue
                rate = rates.get(module, 1.0) * (up if part == "up" else 1.0)
                shares.setdefault(rate, []).append((module, part))
        others = {id(parameter) for parameter in self._others[name]}
        return [
            Group(
                (
                    *self._table.parameters(name, set(factors), joined=joined),
                    *self._peft(factors, others),
                ),
                rate,
            )
            for rate, factors in shares.items()
        ]

    def _peft(
        self, factors: Sequence[tuple[str, Part]], wanted: set[int]
    ) -> Iterator[nn.Parameter]:
        """PEFT's weights in some layers; only those called lora_B are up factors."""
        for module, part in factors:
            for key, parameter in self.parts.get(module).named_parameters():
                if id(parameter) in wanted and (part == "up") == key.startswith("lora_B"):
                    yield parameter

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """In here this adapter alone acts, as it is now, outside of any pass."""
        self.write_back()
        before = {key: layer.active_adapters for key, layer in self._layers.items()}
        for layer in self._layers.values():
            activate(layer, [name] if holds(layer, name) else [])
        try:
            yield
        finally:
            for key, layer in self._layers.items():
                activate(layer, before[key])

    def write_back(self) -> None:
        """Bring the weights that PEFT holds up to date."""
        self._table.exchange(to_peft=True)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """In here the model's layers can act by slices; without `acting` they are PEFT's own."""
        for key, layer in self._layers.items():
            stack = self._table.stacks.get(key)
            layer.forward = partial(self._stacked, stack) if stack else partial(self._sliced, layer)
        try:
            with warnings.catch_warnings():
                # Gradients lie in the table's rows, with gaps: meant, and no slower.
                warnings.filterwarnings("ignore", "grad and param do not obey")
                yield
        finally:
            for layer in self._layers.values():
                del layer.forward

    @contextmanager
    def acting(self, members: Sequence[str], sources: Sequence[int], rows: int) -> Iterator[None]:
        """Calls of the model in here apply adapters by slices; the backward pass belongs in, too.

        Args:
            members: adapters, one for each slice, ascending by `order`.
            sources: for each slice, which of the distinct inputs is its own: the batch that the
                U-Net is given holds each once, its answer holds a slice for each adapter.
            rows: pictures in one slice.
        """
        self._acting = True
        try:
            with self._prefix.sharing(members, sources, rows):
                self._table.prepare(self._prefix.layouts)
                yield
        finally:
            self._acting = False

    def _stacked(self, stack: Stack, x: Tensor, *args, **kwargs) -> Tensor:
        if not self._acting:
            return type(stack.layer).forward(stack.layer, x, *args, **kwargs)
        return stack.forward(x, self._prefix.layout(len(x)))

    def _sliced(self, layer: nn.Module, x: Tensor, *args, **kwargs) -> Tensor:
        """PEFT's own forward pass, once for each adapter."""
        if not self._acting:
            return type(layer).forward(layer, x, *args, **kwargs)
        layout = self._prefix.layout(len(x))
        here = _touching(layer, layout)
        if not here:
            return layer.get_base_layer()(x)
        before, answers = layer.active_adapters, []
        try:
            for name, part in zip(layout, x.chunk(len(layout)), strict=True):
                activate(layer, [name] if name in here else [])
                answers.append(type(layer).forward(layer, part, *args, **kwargs))
        finally:
            activate(layer, before)
        return torch.cat(answers)

    def _outside_the_table(self, name: str) -> list[nn.Parameter]:
        """PEFT's weights of the layers that are not stacked."""
        stacked = {
            id(parameter)
            for stack in self._table.stacks.values()
            for parameter in stack.layer.parameters()
        }
        others = [p for p in trainable_parameters(self.parts, name) if id(p) not in stacked]
        for parameter in others:
            parameter.requires_grad_(True)  # PEFT trains the newest adapter only
        return others


def _touching(layer: BaseTunerLayer, names: Sequence[str | None]) -> tuple[str, ...]:
    """Which of the adapters have weights in this layer."""
    return tuple(name for name in names if name is not None and holds(layer, name))


def _identity(layer: BaseTunerLayer, name: str) -> Part:
    """Which factor of a full-rank update is the identity."""
    return "up" if layer.r[name] == layer.get_base_layer().weight.shape[0] else "down"
