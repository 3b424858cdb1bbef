"""From a specification and a model's blocks to the rank and scale of every layer."""

import math
from collections import Counter
from dataclasses import dataclass

import torch

from blockwise_lora.adapters.spec import AdapterSpec, Method
from blockwise_lora.adapters.updates import (
    Dora,
    Hadamard,
    Kronecker,
    LowRank,
    Orthogonal,
    Update,
)
from blockwise_lora.blocks.mask import MaskError
from blockwise_lora.blocks.settings import per_block
from blockwise_lora.blocks.structure import BlockMap, Layer

UPDATES: dict[Method, type[Update]] = {
    "lora": LowRank,
    "locon": LowRank,
    "rslora": LowRank,
    "dora": Dora,
    "loha": Hadamard,
    "lokr": Kronecker,
    "oft": Orthogonal,
    "full": LowRank,
}


@dataclass(frozen=True)
class LayerPlan:
    """One layer that is to be adapted.

    Attributes:
        layer: the layer.
        sub_block: where it lies.
        method: how it is changed.
        rank: the layer's own.
        scale: factor of what is learned.
        rate: factor of the learning rate.
    """

    layer: Layer
    sub_block: str
    method: Method
    rank: int
    scale: float
    rate: float = 1.0

    @property
    def name(self) -> str:
        """The layer's full module name."""
        return self.layer.name

    def empty(self) -> Update:
        """The update, with tensors of the right shapes and any values."""
        return UPDATES[self.method].empty(self.layer.shape, self.rank, self.scale)

    @property
    def parameters(self) -> int:
        """Number of values that are trained."""
        if self.method == "full":
            return math.prod(self.layer.shape)
        with torch.device("meta"):
            return sum(tensor.numel() for tensor in self.empty().tensors().values())


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
                without a layer of the method's kind; or a rank suits the method in no way.
        """
        ranks = spec.mask.ranks(blocks, spec.rank)
        conv_ranks = spec.mask.ranks(blocks, spec.conv_rank or spec.rank)
        alphas, rates = per_block(spec.alphas, blocks), per_block(spec.rates, blocks)
        kinds = ("attention", "conv") if spec.convolutions else ("attention",)
        layers, empty = [], []
        for block in blocks.sub_blocks:
            if not ranks[block.name]:
                continue
            chosen = [layer for layer in block.layers if layer.kind in kinds]
            if not chosen:
                empty.append(block.name)
            for layer in chosen:
                spatial = math.prod(layer.shape[2:]) > 1
                rank = (conv_ranks if spatial else ranks)[block.name]
                if spec.method == "full":
                    rank = min(layer.shape[0], math.prod(layer.shape[1:]))
                scale = spec.scale(rank, spatial=spatial, alpha=alphas.get(block.name))
                rate = rates.get(block.name, 1.0)
                layers.append(LayerPlan(layer, block.name, spec.method, rank, scale, rate))
        if not layers:
            raise MaskError(
                f"mask '{spec.mask}' names only blocks without attention ({', '.join(empty)}), "
                f"where method {spec.method} has nothing to adapt: choose other blocks, or method "
                "locon, which adapts the convolutions there"
            )
        _check_ranks(spec, layers)
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


def _check_ranks(spec: AdapterSpec, layers: list[LayerPlan]) -> None:
    """Ranks that a mask names have to suit the method, as the specification's own do."""
    for step in layers:
        if spec.init == "orthogonal" and step.rank % 2:
            raise MaskError(
                f"mask '{spec.mask}' gives {step.sub_block} rank {step.rank}, but init orthogonal "
                "needs even ranks"
            )
        try:
            with torch.device("meta"):
                step.empty()
        except ValueError as error:
            raise MaskError(
                f"mask '{spec.mask}' gives {step.sub_block} rank {step.rank}, which does not suit "
                f"{spec.method} in {step.name}: {error}"
            ) from None
