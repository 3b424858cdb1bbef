"""The block BASE: the text encoders."""

from collections.abc import Iterator, Sequence

from torch import nn

from blockwise_lora.blocks.layers import Layer, SubBlock, found_in

BASE = "BASE"


def base_block(text_encoders: Sequence[nn.Module]) -> SubBlock:
    """The layers that text encoders repeat; projections and embeddings are left out, as in kohya's.

    Their names begin as diffusers calls them: `text_encoder.`, `text_encoder_2.`, ...
    """
    prefixes = tuple(
        "text_encoder" if i == 0 else f"text_encoder_{i + 1}" for i in range(len(text_encoders))
    )
    layers = tuple(
        Layer(name, "attention", shape)
        for prefix, encoder in zip(prefixes, text_encoders, strict=True)
        for name, shape in _within_lists(encoder, prefix)
    )
    return SubBlock(BASE, "base", prefixes, layers)


def _within_lists(module: nn.Module, name: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The layers inside module lists, which is where encoders keep what they repeat."""
    for child_name, child in module.named_children():
        search = found_in if isinstance(child, nn.ModuleList) else _within_lists
        yield from search(child, f"{name}.{child_name}")
