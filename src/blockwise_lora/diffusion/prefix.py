"""What adapters in one pass share: the U-Net up to the first block that each of them trains.

Adapters that see the same pictures, noise, timesteps and text differ only from the first block on
that one of them trains. The pass begins with each distinct input once: the base's own streams. On
the way into its first block an adapter gets a slice of its own, a copy of its stream. So a batch

    IN01 ...      [ streams ]
    OUT00 ...     [ a | streams ]
    OUT06 ...     [ a | b | c ]

grows from block to block, and no gradient flows below the first block of an adapter: streams are
copied without history. Skip connections, the time embedding and the text grow where they are used.
Adapters that change the text share nothing: it is read from the first block with attention on.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from blockwise_lora.blocks.structure import BlockMap

Layout = tuple[str | None, ...]
"""The adapter of each slice of a batch; None: a stream of the base."""

TEXT = -1
"""Place in forward order of the text encoders."""


class SharedPrefix:
    """Grows the batch on its way through the blocks.

    Args:
        unet: a U-Net of the diffusers kind.
        layers: the module names of each adapter's layers; those that are not the U-Net's come
            before it.
        text: adapters that change the text by other means.
    """

    def __init__(
        self, unet: nn.Module, layers: Mapping[str, Sequence[str]], text: Collection[str] = ()
    ) -> None:
        self._unet = unet
        blocks = [b for b in BlockMap.of(unet).sub_blocks if b.layers and b.prefixes]
        place = {layer.name: i for i, block in enumerate(blocks) for layer in block.layers}
        self._first = {
            name: min(place.get(key, TEXT) for key in keys) for name, keys in layers.items()
        }
        self._first |= dict.fromkeys(text, TEXT)
        self._entries = {
            module: i for i, block in enumerate(blocks) for module in _called(unet, block.prefixes)
        }
        self._layouts: dict[int, Layout] = {}
        self._starts: list[tuple[int, int]] = []
        self._sources: tuple[int, ...] = ()
        self._rows = 1
        self._grown: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    def order(self, name: str) -> int:
        """Place in forward order of the first block that an adapter trains."""
        return self._first[name]

    def layout(self, batch: int) -> Layout:
        """What the slices of a batch of this many rows are, inside `sharing`."""
        return self._layouts[batch // self._rows]

    @property
    def layouts(self) -> Collection[Layout]:
        """What all batches on the way through the blocks hold, inside `sharing`."""
        return self._layouts.values()

    @contextmanager
    def sharing(self, members: Sequence[str], sources: Sequence[int], rows: int) -> Iterator[None]:
        """Forward passes in here, and what is computed again on the way back, grow the batch.

        Args:
            members: adapters by `order`, one for each slice of the answer.
            sources: for each, the stream that it starts from.
            rows: pictures in one slice.
        """
        streams = max(sources) + 1
        self._sources, self._rows = tuple(sources), rows
        self._starts = _starts([self._first[name] for name in members], streams)
        self._layouts = {streams: (None,) * streams}
        for _, count in self._starts:
            layout = tuple(members[:count])
            rest = (None,) * streams if count < len(members) else ()
            self._layouts[len(layout + rest)] = layout + rest
        if streams == len(members):  # every adapter has a stream to itself: nothing is shared
            self._layouts, self._starts = {streams: tuple(members)}, []
        hooks = [
            module.register_forward_pre_hook(self._enter, with_kwargs=True)
            for module, i in self._entries.items()
            if self._starts and i >= self._starts[0][0]
        ]
        hooks += [
            block.register_forward_pre_hook(self._enter_up_block, with_kwargs=True)
            for block in (self._unet.up_blocks if self._starts else ())
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
            self._grown.clear()

    def _enter(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict]:
        slices = self._slices_at(self._entries[module])
        args = tuple(self._grow(value, slices) for value in args)
        return args, {name: self._grow(value, slices) for name, value in kwargs.items()}

    def _enter_up_block(
        self, block: nn.Module, args: tuple, kwargs: dict[str, Any]
    ) -> tuple[tuple, dict]:
        """Grow each skip connection to the batch that it meets inside its block."""
        skips = list(kwargs["res_hidden_states_tuple"])
        slices = kwargs["hidden_states"].shape[0] // self._rows
        for j, resnet in enumerate(block.resnets):  # the j-th takes the j-th from the end
            skips[-1 - j] = self._grow(skips[-1 - j], slices)
            slices = self._slices_at(self._entries[resnet])
        return args, kwargs | {"res_hidden_states_tuple": tuple(skips)}

    def _slices_at(self, place: int) -> int:
        """Slices in the batch inside a block."""
        count = max((count for start, count in self._starts if start <= place), default=0)
        streams = max(self._sources) + 1
        return count if count == len(self._sources) else count + streams

    def _grow(self, value: Any, slices: int) -> Any:
        if not isinstance(value, Tensor) or not value.dim() or value.shape[0] % self._rows:
            return value
        before, after = value.shape[0] // self._rows, slices
        if before >= after or before not in self._layouts:
            return value
        # The time embedding and the text come to every block: they grow once a pass.
        known = self._grown.get((id(value), after))
        if known is None:
            known = value, self._grown_from(value, self._layouts[before], self._layouts[after])
            if value.dim() < 4:
                self._grown[id(value), after] = known
        return known[1]

    def _grown_from(self, value: Tensor, before: Layout, after: Layout) -> Tensor:
        slices = value.unflatten(0, (len(before), self._rows))
        own = [name for name in before if name is not None]
        there = [name for name in after if name is not None]
        # No adapter acts in a stream: a gradient has nothing to reach there. (The text may have
        # one, where its encoder learns: there everything has a stream of its own.)
        streams = slices[len(own) :].detach()
        # One by one: a list of places would have to be sent to the device first.
        new = [streams[i : i + 1] for i in self._sources[len(own) : len(there)]]
        parts = [slices[: len(own)], *new, streams[: len(after) - len(there)]]
        return torch.cat([part for part in parts if len(part)]).flatten(0, 1)


def _starts(firsts: Sequence[int], streams: int) -> list[tuple[int, int]]:
    """Where the batch grows, and how many adapters have slices from there on.

    The last ones to start take the streams' place. If they are no more than the streams, they
    start with those before them, which costs the same and keeps all sizes different.

    Args:
        firsts: each adapter's first block, ascending.
        streams: number of distinct inputs.
    """
    starts = [(first, sum(f <= first for f in firsts)) for first in sorted(set(firsts))]
    while len(starts) > 1 and starts[-1][1] - starts[-2][1] <= streams:
        starts[-2:] = [(starts[-2][0], starts[-1][1])]
    return starts


def _called(unet: nn.Module, prefixes: Sequence[str]) -> Iterator[nn.Module]:
    """The modules that are called: a list of downsamplers is not, its members are."""
    for prefix in prefixes:
        module = unet.get_submodule(prefix)
        yield from module if isinstance(module, nn.ModuleList) else (module,)
