"""Updates in the form that PEFT can load, and the configuration that goes with them.

PEFT makes layers from its configuration and then fills in the tensors, so a directory can hold
only what one configuration describes: layers of one method, and for LoKr factors of the sizes and
kinds that PEFT itself would choose. What is of another kind is multiplied out, which changes
nothing in effect.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

from peft import LoHaConfig, LoKrConfig, PeftConfig
from peft.tuners.lokr.layer import factorization

from blockwise_lora.adapters.config import peft_config
from blockwise_lora.adapters.errors import AdapterError
from blockwise_lora.adapters.formats.unfold import unfolded
from blockwise_lora.adapters.metadata import SHAPES
from blockwise_lora.adapters.updates import Hadamard, Kronecker, Orthogonal, Update

Factored = TypeVar("Factored", Hadamard, Kronecker)


def peft_form(updates: Mapping[str, Update]) -> tuple[Mapping[str, Update], PeftConfig]:
    """One part's updates as PEFT loads them, and PEFT's configuration of them.

    Raises:
        AdapterError: there is no such configuration.
    """
    kinds = sorted({type(update).__name__ for update in updates.values()})
    if len(kinds) > 1:
        raise AdapterError(
            f"the adapter's layers are of several methods ({', '.join(kinds)}), and PEFT's "
            "configuration, which diffusers uses, too, is for one: write format lycoris instead"
        )
    if kinds == [Orthogonal.__name__]:
        _check_terms(updates)
    if kinds == [Hadamard.__name__]:
        return _hadamards(updates)
    if kinds == [Kronecker.__name__]:
        return _kroneckers(updates)
    return updates, peft_config(updates)


def plain_config(config: PeftConfig) -> dict[str, object]:
    """PEFT's configuration for JSON, in a fixed order."""
    return {
        key: sorted(value) if isinstance(value, set) else value
        for key, value in config.to_dict().items()
    }


def shapes(updates: Mapping[str, Update]) -> dict[str, str]:
    """Metadata that say what the tensors of some methods leave open: the weights' shapes."""
    table = {
        layer: update.shape
        for layer, update in updates.items()
        if isinstance(update, Hadamard | Kronecker | Orthogonal)
    }
    return {SHAPES: json.dumps(table, sort_keys=True)} if table else {}


def check_rotations(updates: Mapping[str, Update]) -> None:
    """Refuse rotations of which PEFT, unlike this project, could not load all.

    Raises:
        AdapterError: their blocks differ in size, which PEFT takes from its configuration and not
            from each layer's tensor.
    """
    sizes = {update.rank for update in updates.values() if isinstance(update, Orthogonal)}
    if len(sizes) > 1:
        raise AdapterError(
            f"the adapter's rotations are of several block sizes "
            f"({', '.join(map(str, sorted(sizes)))}), and PEFT's configuration of OFT knows one "
            "for all layers: keep it in this project's own file, or train it with one rank that "
            "divides the inputs of all its layers"
        )


def _check_terms(updates: Mapping[str, Orthogonal]) -> None:
    if len({update.terms for update in updates.values()}) > 1:
        raise AdapterError(
            "the adapter's rotations are worked out in several ways (exactly, and by series of "
            "several lengths), and PEFT's configuration of OFT knows one for all layers"
        )


def _hadamards(updates: Mapping[str, Hadamard]) -> tuple[Mapping[str, Update], LoHaConfig]:
    updates, deep = _alike(updates)
    config = peft_config(updates)
    config.use_effective_conv2d = deep
    return updates, config


def _kroneckers(updates: Mapping[str, Kronecker]) -> tuple[Mapping[str, Update], LoKrConfig]:
    updates, deep = _alike({layer: _with_second(update) for layer, update in updates.items()})
    both = all((update.w1 is None) == _is_product(update, 0) for update in updates.values())
    if not both:
        updates = {layer: _with_first(update) for layer, update in updates.items()}
    config = peft_config(updates)
    config.use_effective_conv2d, config.decompose_both = deep, both
    config.decompose_factor = _decompose_factor(updates)
    return updates, config


def _alike(updates: Mapping[str, Factored]) -> tuple[dict[str, Factored], bool]:
    """All convolutions decomposed along their kernels, or none; and which of the two."""
    deep = [_is_deep(update) for update in updates.values() if _could_be_deep(update)]
    if deep and all(deep):
        return dict(updates), True
    return {layer: unfolded(update) for layer, update in updates.items()}, False


def _is_deep(update: Hadamard | Kronecker) -> bool:
    return update.t2 is not None


def _could_be_deep(update: Hadamard | Kronecker) -> bool:
    whole = isinstance(update, Kronecker) and update.w2 is not None
    return math.prod(update.shape[2:]) > 1 and not whole


def _with_second(update: Kronecker) -> Kronecker:
    """With its second factor whole or a product as PEFT would have it at the update's rank."""
    if update.w2 is None:
        if _is_product(update, 1):
            return update
        return replace(update, w2=update.second, w2_a=None, w2_b=None, t2=None)
    least = math.ceil(max(_sizes(update)[1]) / 2)
    return replace(update, dim=max(update.dim, least))


def _with_first(update: Kronecker) -> Kronecker:
    return replace(update, w1=update.first, w1_a=None, w1_b=None)


def _is_product(update: Kronecker, factor: int) -> bool:
    """PEFT's rule for factor 0 (where both are to be decomposed) and 1."""
    return update.dim < max(_sizes(update)[factor]) / 2


def _sizes(update: Kronecker) -> tuple[tuple[int, int], tuple[int, int]]:
    """(outputs, inputs) of either factor."""
    first = update.w1
    out1, in1 = first.shape if first is not None else (len(update.w1_a), update.w1_b.shape[1])
    return (out1, in1), (update.shape[0] // out1, update.shape[1] // in1)


def _decompose_factor(updates: Mapping[str, Kronecker]) -> int:
    """The number from which PEFT finds the sizes of all factors.

    Raises:
        AdapterError: there is none.
    """
    sizes = {_sizes(update) for update in updates.values()}
    for number in (-1, *sorted({n for first, _ in sizes for n in first}, reverse=True)):
        if all(
            factorization(out1 * out2, number) == (out1, out2)
            and factorization(in1 * in2, number) == (in1, in2)
            for (out1, in1), (out2, in2) in sizes
        ):
            return number
    raise AdapterError(
        "the adapter's LoKr factors are of sizes that PEFT never makes, so PEFT and diffusers "
        "cannot load them: write format lycoris instead"
    )
