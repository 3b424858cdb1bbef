"""What a merge can be: an adapter, a changed base model, or a choice made at each step."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from blockwise_lora.adapters import Adapter
from blockwise_lora.adapters.merge.errors import MergeError
from blockwise_lora.adapters.merge.klora import KLora
from blockwise_lora.adapters.merge.parts import Base, Weighted


@dataclass(frozen=True)
class MergedAdapter:
    """A merge that is an adapter.

    Attributes:
        adapter: the merge; its metadata says of what and how.
        errors: layer name to the relative error (Frobenius norm) of what was asked for, in layers
            where it did not fit the rank. Empty: the merge is exact.
    """

    adapter: Adapter
    errors: Mapping[str, float]


@dataclass(frozen=True)
class BakedModel:
    """A merge that is put into the weights of the base model.

    Attributes:
        weights: layer name to the layer's new weight, float32 whatever the base is: a change is
            often smaller than half precision can add to a weight.
        errors: as in `MergedAdapter`.
        metadata: of what and how.
    """

    weights: Mapping[str, Tensor]
    errors: Mapping[str, float]
    metadata: Mapping[str, str]

    @contextmanager
    def applied(self, denoiser: nn.Module, *text_encoders: nn.Module) -> Iterator[None]:
        """`apply` for a while: at the end the model has its own weights again, to the bit."""
        base = Base.of(denoiser, *text_encoders)
        own = {module: base.weight(module).clone() for module in self.weights}
        self._put(base)
        try:
            yield
        finally:
            for module, weight in own.items():
                base.weight(module).copy_(weight)

    def apply(self, denoiser: nn.Module, *text_encoders: nn.Module) -> None:
        """Change a model's weights. Adapters attached to it stay, and act on top.

        Raises:
            MergeError: the model is of another structure, or in half precision.
        """
        self._put(Base.of(denoiser, *text_encoders))

    @torch.no_grad()
    def _put(self, base: Base) -> None:
        for module, weight in self.weights.items():
            target = base.weight(module)
            if target.shape != weight.shape:
                raise MergeError(f"the weight of {module} is of another size in this model")
            if target.dtype != torch.float32:
                raise MergeError(
                    f"{module} is {str(target.dtype)[6:]}, which would round the merge away: load "
                    "the model in float32 to bake"
                )
        for module, weight in self.weights.items():
            base.weight(module).copy_(weight)


@dataclass(frozen=True)
class Stepwise:
    """A merge that depends on the denoising step: `choose_adapter` applies it before each.

    Attributes:
        adapters: the content's and the style's.
        rule: which of the two acts when.
        advantages: layer that both touch to how much larger the content's largest values are.
        metadata: of what and how.
    """

    adapters: tuple[Weighted, Weighted]
    rule: KLora
    advantages: Mapping[str, float]
    metadata: Mapping[str, str]

    def chosen(self, step: int, steps: int) -> dict[str, int]:
        """For each layer that both adapters touch, which one acts: 0 the first, 1 the second.

        Args:
            step: from 0.
            steps: how many there are.
        """
        bound = self.rule.scale(step, steps)
        return {module: int(value < bound) for module, value in self.advantages.items()}


Merged = MergedAdapter | BakedModel | Stepwise
