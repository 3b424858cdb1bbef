"""From a specification and a model's blocks to the rank and alpha of every layer."""

import math
from collections import Counter
from dataclasses import dataclass

from blockwise_lora.adapters.spec import AdapterSpec
from blockwise_lora.blocks.mask import MaskError
from blockwise_lora.blocks.structure import BlockMap, Kind, Layer

_KINDS: dict[str, tuple[Kind, ...]] = {"lora": ("attention",), "locon": ("attention", "conv")}


@dataclass(frozen=True)
class LayerPlan:
    """One adapted layer: W becomes W + alpha / rank * B A."""

    layer: Layer
    sub_block: str
    rank: int
    alpha: float

    @property
    def name(self) -> str:
        """The layer's full module name."""
        return self.layer.name

    @property
    def a_shape(self) -> tuple[int, ...]:
        """Shape of A: (rank, in), or (rank, in, k, k) for a convolution."""
        return (self.rank, *self.layer.shape[1:])

    @property
    def b_shape(self) -> tuple[int, ...]:
        """Shape of B: (out, rank), or (out, rank, 1, 1) for a convolution."""
        return (self.layer.shape[0], self.rank, *(1 for _ in self.layer.shape[2:]))

    @property
    def parameters(self) -> int:
        """Number of values in A and B."""
        return math.prod(self.a_shape) + math.prod(self.b_shape)


@dataclass(frozen=True)
class Plan:
    """The layers that an adapter touches in one model.

    Attributes:
        layers: in the model's order.
        empty_blocks: sub-blocks that the mask trains but that hold no layer of the method's
            kind, such as attention LoRA in blocks without attention.
    """

    layers: tuple[LayerPlan, ...]
    empty_blocks: tuple[str, ...] = ()

    @classmethod
    def of(cls, blocks: BlockMap, spec: AdapterSpec) -> "Plan":
        """Work out the layers; needs no weights.

        Raises:
            MaskError: the mask does not fit the model, trains nothing, or names only blocks
                without a layer of the method's kind.
        """
        ranks = spec.mask.ranks(blocks, spec.rank)
        conv_ranks = spec.mask.ranks(blocks, spec.conv_rank or spec.rank)
        layers, empty = [], []
        for block in blocks.sub_blocks:
            if not ranks[block.name]:
                continue
            chosen = [layer for layer in block.layers if layer.kind in _KINDS[spec.method]]
            if not chosen:
                empty.append(block.name)
            for layer in chosen:
                spatial = math.prod(layer.shape[2:]) > 1
                rank = (conv_ranks if spatial else ranks)[block.name]
                scale = spec.conv_scale if spatial else spec.scale
                layers.append(LayerPlan(layer, block.name, rank, scale * rank))
        if not layers:
            raise MaskError(
                f"mask '{spec.mask}' names only blocks without attention ({', '.join(empty)}), "
                f"where method {spec.method} has nothing to adapt: choose other blocks, or method "
                "locon, which adapts the convolutions there"
            )
        return cls(tuple(layers), tuple(empty))

    @property
    def ranks(self) -> dict[str, int]:
        """Full module name to rank."""
        return {layer.name: layer.rank for layer in self.layers}

    @property
    def parameters(self) -> dict[str, int]:
        """Sub-block to the number of values trained there, in the model's order."""
        counts: Counter[str] = Counter()
        for layer in self.layers:
            counts[layer.sub_block] += layer.parameters
        return dict(counts)
