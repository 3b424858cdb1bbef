"""What every kind of update can tell and do."""

from dataclasses import fields, replace
from typing import ClassVar, Protocol, TypeVar

from torch import Tensor

Kind = TypeVar("Kind", bound="Update")


class Update(Protocol):
    """The change of one layer's weight.

    `from_tensors` of each class reads what `tensors` gives, together with the numbers that no
    tensor holds.
    """

    needs_base: ClassVar[bool]
    """Whether the change depends on the weight that is changed."""

    @property
    def rank(self) -> int:
        """The number by which the method's size is set: rank, or block size for rotations."""
        ...

    @property
    def scale(self) -> float:
        """Factor of the learned part; 1 where the method has none."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight that is changed: (out, in) or (out, in, k, k)."""
        ...

    def delta(self, weight: Tensor | None = None) -> Tensor:
        """The change, in the shape of the weight.

        Args:
            weight: the layer's own weight, where `needs_base`.

        Raises:
            ValueError: the weight is needed and was not given.
        """
        ...

    def norm(self, weight: Tensor | None = None) -> float:
        """Frobenius norm of `delta(weight)`, without forming it where there is a shorter way.

        Raises:
            ValueError: the weight is needed and was not given.
        """
        ...

    def tensors(self) -> dict[str, Tensor]:
        """What is stored, under PEFT's names: `lora_A.weight`, `hada_w1_a`, ..."""
        ...


def weightless(update: Kind) -> Kind:
    """The same without its values, on which sizes are worked out at no cost."""
    values = {field.name: getattr(update, field.name) for field in fields(update)}
    return replace(update, **{k: v.to("meta") for k, v in values.items() if isinstance(v, Tensor)})


def required(weight: Tensor | None, method: str) -> Tensor:
    """The weight, or an error that says what it is for."""
    if weight is None:
        raise ValueError(
            f"the change that {method} makes depends on the layer's own weight: give the weight "
            "of the base model that the adapter was trained on"
        )
    return weight
