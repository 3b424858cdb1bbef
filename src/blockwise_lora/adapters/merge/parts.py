"""What goes into a merge: adapters with weights, the base model, and one layer's share of both."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace

from torch import Tensor, nn

from blockwise_lora.adapters import Adapter
from blockwise_lora.adapters.merge.errors import MergeError
from blockwise_lora.adapters.parts import Parts
from blockwise_lora.adapters.updates import Update
from blockwise_lora.blocks.structure import BlockMap


@dataclass(frozen=True)
class Weighted:
    """An adapter and how much of it is wanted.

    Attributes:
        adapter: any adapter.
        weight: factor of its change of every weight; or by sub-block, where a sub-block that is
            not named counts 1. A layer at 0 is as if the adapter did not touch it.
        name: what the merge's record calls it; "" where it has none.
    """

    adapter: Adapter
    weight: float | Mapping[str, float] = 1.0
    name: str = ""

    def __post_init__(self) -> None:
        weights = self.weight.values() if isinstance(self.weight, Mapping) else (self.weight,)
        if not all(math.isfinite(weight) for weight in weights):
            raise MergeError(f"a weight is not finite: {self.weight}")

    def weight_of(self, module: str) -> float:
        """The weight in one of the adapter's layers."""
        if isinstance(self.weight, Mapping):
            return self.weight.get(self.adapter.sub_blocks[module], 1.0)
        return self.weight


@dataclass(frozen=True)
class Base:
    """The model that adapters are merged for.

    Attributes:
        blocks: its blocks.
        modules: layer name to the layer itself, without the adapters attached to it.
    """

    blocks: BlockMap
    modules: Mapping[str, nn.Module]

    @classmethod
    def of(cls, denoiser: nn.Module, *text_encoders: nn.Module) -> "Base":
        """Look at a model; no weight is copied. On the meta device it serves for its blocks."""
        parts = Parts(denoiser, text_encoders)
        blocks, modules = parts.blocks, {}
        for name in blocks.layers:
            module = parts.get(name)
            while hasattr(module, "base_layer"):  # adapters of several kinds wrap each other
                module = module.base_layer
            modules[name] = module
        return cls(blocks, modules)

    def weight(self, module: str) -> Tensor:
        """A layer's weight, (out, in) or (out, in, k, k).

        Raises:
            MergeError: the model has no such layer.
        """
        if module not in self.modules:
            raise MergeError(
                f"the base model has no layer {module}: merge into the model that the adapters "
                "were trained on"
            )
        return self.modules[module].weight.detach()


@dataclass(frozen=True)
class Part:
    """One adapter's change of one layer.

    Attributes:
        index: the adapter's place among those that are merged.
        update: the change.
        weight: how much of it is wanted, never 0.
        base: the layer's weight, where the change depends on it and a base is at hand.
    """

    index: int
    update: Update
    weight: float
    base: Tensor | None = None

    def delta(self) -> Tensor:
        """The change as it is, float32, in the weight's shape.

        Raises:
            MergeError: it depends on the base's weight, and there is none.
        """
        if self.update.needs_base and self.base is None:
            raise MergeError(
                f"adapter {self.index + 1} is {type(self.update).__name__}, whose change depends "
                "on the base's weights: name the base model, too"
            )
        # Adapters are read to the CPU.
        weight = None if self.base is None else self.base.float().cpu()
        return in_float32(self.update).delta(weight)

    def weighted(self) -> Update | Tensor:
        """The change times its weight; the same kind of update wherever its scale can hold it."""
        if self.weight == 1:
            return self.update
        if self.update.needs_base:  # not linear in its scale
            return self.weight * self.delta()
        return replace(self.update, scale=self.update.scale * self.weight)


def in_float32(update: Update) -> Update:
    """The same change with tensors of float32, so that products are not rounded to less."""
    values = {field.name: getattr(update, field.name) for field in fields(update)}
    for name, value in values.items():
        if isinstance(value, Tensor):
            values[name] = value.float()
        elif is_dataclass(value):
            values[name] = in_float32(value)
    return replace(update, **values)


def parts_of(module: str, adapters: Sequence[Weighted], base: Base | None) -> list[Part]:
    """The changes that act in one layer.

    Raises:
        MergeError: they are of different shapes.
    """
    parts = []
    for index, weighted in enumerate(adapters):
        update = weighted.adapter.updates.get(module)
        weight = 0.0 if update is None else weighted.weight_of(module)
        if not weight:
            continue
        needed = base.weight(module) if update.needs_base and base is not None else None
        parts.append(Part(index, update, weight, needed))
    shapes = {tuple(part.update.shape) for part in parts}
    if len(shapes) > 1:
        raise MergeError(
            f"the adapters are for different models: the weight of {module} is "
            f"{' and '.join(map(str, sorted(shapes)))}"
        )
    return parts
