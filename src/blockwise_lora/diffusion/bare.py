"""The base model itself, whatever adapters are attached to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from peft.tuners.tuners_utils import BaseTunerLayer

from blockwise_lora.diffusion.base import BaseModel


@contextmanager
def bare(base: BaseModel) -> Iterator[None]:
    """In here no adapter acts, in U-Net and text encoders; what is trainable stays so."""
    parts = [part for _, part in base.parts.named()]
    layers = [m for part in parts for m in part.modules() if isinstance(m, BaseTunerLayer)]
    before = [layer._disable_adapters for layer in layers]
    for layer in layers:
        layer._disable_adapters = True  # PEFT's own switch would freeze the adapters, too
    try:
        yield
    finally:
        for layer, disabled in zip(layers, before, strict=True):
            layer._disable_adapters = disabled
