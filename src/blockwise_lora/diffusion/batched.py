"""Several adapters of one U-Net in one pass, each acting on its own slice of the batch.

The frozen layers see the whole batch at once; only the adapters' own share of the work is done
slice by slice. No slice takes part in another's arithmetic, so a value that is not finite in one
adapter stays there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from blockwise_lora.adapters.attach import trainable_parameters
from blockwise_lora.adapters.layers import adapted_layers, lora_layers
from blockwise_lora.diffusion.prefix import SharedPrefix


class BatchedAdapters:
    """Adapters that are attached to a U-Net, ready to be trained in one pass.

    Args:
        unet: the U-Net.
        names: of the attached adapters.
    """

    def __init__(self, unet: nn.Module, names: Sequence[str]) -> None:
        self.unet, self.names = unet, tuple(names)
        self._prefix = SharedPrefix(unet)
        self._first = {
            name: self._prefix.first([key for key, _ in adapted_layers(unet, name)])
            for name in names
        }
        self._members: tuple[str, ...] = ()
        for name in names:
            for parameter in self.parameters(name):
                parameter.requires_grad_(True)  # PEFT trains the newest adapter only

    def parameters(self, name: str) -> list[nn.Parameter]:
        """What there is to be trained of one adapter."""
        return trainable_parameters(self.unet, name)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """In here the U-Net's layers can act by slices; without `acting` they are PEFT's own."""
        layers = [layer for _, layer in lora_layers(self.unet)]
        for layer in layers:
            layer.forward = partial(self._forward, layer)
        try:
            yield
        finally:
            for layer in layers:
                del layer.forward

    @contextmanager
    def acting(self, members: Sequence[str], sources: Sequence[int], rows: int) -> Iterator[None]:
        """Calls of the U-Net in here apply adapters by slices; the backward pass belongs in, too.

        Args:
            members: adapters, one for each slice.
            sources: for each slice, which of the distinct inputs is its own: the batch that the
                U-Net is given holds each once, its answer holds a slice for each adapter.
            rows: pictures in one slice.
        """
        self._members = tuple(members)
        first = min(self._first[name] for name in members)
        try:
            with self._prefix.repeating(first, sources, rows):
                yield
        finally:
            self._members = ()

    def _forward(self, layer: nn.Module, x: Tensor, *args, **kwargs) -> Tensor:
        """PEFT's own forward pass, once for each adapter."""
        if not self._members:
            return type(layer).forward(layer, x, *args, **kwargs)
        if not any(name in layer.lora_A for name in self._members):
            return layer.base_layer(x, *args, **kwargs)
        before, answers = layer._active_adapter, []
        for name, part in zip(self._members, x.chunk(len(self._members)), strict=True):
            layer._active_adapter = [name] if name in layer.lora_A else []
            answers.append(type(layer).forward(layer, part, *args, **kwargs))
        layer._active_adapter = before
        return torch.cat(answers)
