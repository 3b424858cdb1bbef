"""Adapters of a whole base model: of its U-Net, its text encoders and its vocabulary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from peft.tuners.tuners_utils import BaseTunerLayer

from blockwise_lora.adapters import Adapter, Attached, detach, load_adapter
from blockwise_lora.adapters.words import LearnedWord
from blockwise_lora.diffusion.base import BaseModel


def load(base: BaseModel, adapter: Adapter, name: str) -> Attached:
    """Attach a saved adapter and the word that it brings; it becomes the only active one.

    Raises:
        AdapterError: as `load_adapter`, or its word is for another model; the model is as before.
    """
    attached = load_adapter(base.parts, adapter, name)
    try:
        if adapter.word is not None:
            base.vocabulary.add(name, adapter.word)
        base.vocabulary.act([name])
    except BaseException:
        unload(base, name)
        raise
    return attached


def unload(base: BaseModel, name: str) -> None:
    """Take an adapter off, and its word with it.

    Raises:
        AdapterError: there is no such adapter.
    """
    base.vocabulary.remove(name)
    detach(base.parts, name)


@contextmanager
def lending(base: BaseModel, words: Mapping[str, LearnedWord | None]) -> Iterator[None]:
    """In here the model knows words of adapters that are not attached, such as merged ones.

    Args:
        base: the model.
        words: of each adapter, by the name under which it would be attached.
    """
    try:
        for name, word in words.items():
            if word is not None:
                base.vocabulary.add(name, word)
        yield
    finally:
        for name in words:
            base.vocabulary.remove(name)


@contextmanager
def bare(base: BaseModel) -> Iterator[None]:
    """In here no adapter acts, and no word of one; what is trainable stays so."""
    parts = [part for _, part in base.parts.named()]
    layers = [m for part in parts for m in part.modules() if isinstance(m, BaseTunerLayer)]
    before = [layer._disable_adapters for layer in layers]
    for layer in layers:
        layer._disable_adapters = True  # PEFT's own switch would freeze the adapters, too
    try:
        with base.vocabulary.only(()):
            yield
    finally:
        for layer, disabled in zip(layers, before, strict=True):
            layer._disable_adapters = disabled
