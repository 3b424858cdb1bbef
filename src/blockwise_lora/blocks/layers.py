"""The layers that adapters can change, found in a module tree, and the sub-blocks they make up."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from torch import nn

Kind = Literal["attention", "conv"]
"""`attention`: the layers of transformer blocks with their proj_in and proj_out (which SD 1.x
makes 1x1 convolutions), and of text encoders. `conv`: resnets, downsamplers, upsamplers, and what
takes in the time step: the resnets' time_emb_proj, the adaptive norms of transformers.
"""


@dataclass(frozen=True)
class Layer:
    """A linear or convolution layer; `shape` is its weight's, (out, in) or (out, in, k, k)."""

    name: str
    kind: Kind
    shape: tuple[int, ...]


@dataclass(frozen=True)
class SubBlock:
    """The finest named part of a model.

    Attributes:
        name: such as IN04, MID, OUT11, D03, BASE.
        coarse: the coarse block that it is part of, such as in1.
        prefixes: the module names that it consists of.
        layers: every linear and convolution layer in it, in the order of the model.
    """

    name: str
    coarse: str
    prefixes: tuple[str, ...]
    layers: tuple[Layer, ...]


def found_in(module: nn.Module, name: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Full name and weight's shape of the linear and convolution layers in `module`.

    A wrapped layer (one with a `base_layer`) counts as the layer that it wraps, however often;
    what an adapter put beside it is not looked into.
    """
    core = module
    while hasattr(core, "base_layer"):  # adapters of several kinds wrap each other
        core = core.base_layer
    if isinstance(core, nn.Linear | nn.Conv2d):
        yield name, tuple(core.weight.shape)
        return
    for child_name, child in module.named_children():
        yield from found_in(child, f"{name}.{child_name}")
