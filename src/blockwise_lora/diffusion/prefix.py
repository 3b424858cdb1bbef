"""The part of the U-Net before the first block that any adapter trains, run once for all of them.

Adapters that see the same pictures, noise, timesteps and text differ only from the first trained
block on. Up to there the batch holds each distinct input once; from there on it is repeated for
each adapter. Skip connections, the time embedding and the text are repeated where they are used.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from blockwise_lora.blocks.structure import BlockMap


class SharedPrefix:
    """Repeats the batch on its way into the blocks.

    Args:
        unet: a U-Net of the diffusers kind.
    """

    def __init__(self, unet: nn.Module) -> None:
        self._unet = unet
        blocks = [b for b in BlockMap.of(unet).sub_blocks if b.layers and b.prefixes]
        self._place = {layer.name: i for i, block in enumerate(blocks) for layer in block.layers}
        self._entries = [
            (i, module)
            for i, block in enumerate(blocks)
            for module in _called(unet, block.prefixes)
        ]
        self._first, self._sources, self._rows = 0, (), 0
        self._repeated: dict[int, tuple[Tensor, Tensor]] = {}

    def first(self, layers: Sequence[str]) -> int:
        """Place in forward order of the first block that one of these layers belongs to."""
        return min(self._place[layer] for layer in layers)

    @contextmanager
    def repeating(self, first: int, sources: Sequence[int], rows: int) -> Iterator[None]:
        """Forward passes in here, and what is computed again on the way back, repeat the batch.

        Args:
            first: place of the first block whose batch holds every adapter's own slice.
            sources: for each slice, which of the distinct inputs it starts from.
            rows: pictures in one slice.
        """
        if len(set(sources)) == len(sources):
            yield
            return
        self._first, self._sources, self._rows = first, tuple(sources), rows
        hooks = [
            module.register_forward_pre_hook(self._enter, with_kwargs=True)
            for i, module in self._entries
            if i >= first
        ]
        hooks += [
            block.register_forward_pre_hook(self._enter_up_block, with_kwargs=True)
            for block in self._unet.up_blocks
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            self._repeated.clear()

    def _enter(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict]:
        args = tuple(self._repeat(value) for value in args)
        return args, {name: self._repeat(value) for name, value in kwargs.items()}

    def _enter_up_block(
        self, block: nn.Module, args: tuple, kwargs: dict[str, Any]
    ) -> tuple[tuple, dict]:
        """Repeat the skip connections that meet a batch which is repeated already."""
        place = {id(module): i for i, module in self._entries}
        skips = list(kwargs["res_hidden_states_tuple"])
        entered = kwargs["hidden_states"].shape[0] == self._rows * len(self._sources)
        for j, resnet in enumerate(block.resnets):  # the j-th takes the j-th from the end
            if entered:
                skips[-1 - j] = self._repeat(skips[-1 - j])
            elif skips[-1 - j].shape[0] != kwargs["hidden_states"].shape[0]:
                raise AssertionError("a skip connection was repeated before its block")
            entered = entered or place[id(resnet)] >= self._first
        return args, kwargs | {"res_hidden_states_tuple": tuple(skips)}

    def _repeat(self, value: Any) -> Any:
        distinct = max(self._sources) + 1
        if not isinstance(value, Tensor) or value.shape[:1] != (self._rows * distinct,):
            return value
        # The time embedding and the text come to every block: they are repeated once a pass.
        known = self._repeated.get(id(value))
        if known is None:
            each = value.unflatten(0, (distinct, self._rows))
            known = value, each[list(self._sources)].flatten(0, 1)
            if value.dim() < 4:
                self._repeated[id(value)] = known
        return known[1]


def _called(unet: nn.Module, prefixes: Sequence[str]) -> Iterator[nn.Module]:
    """The modules that are called: a list of downsamplers is not, its members are."""
    for prefix in prefixes:
        module = unet.get_submodule(prefix)
        yield from module if isinstance(module, nn.ModuleList) else (module,)
