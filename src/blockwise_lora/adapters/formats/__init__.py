"""Adapter files of all tools: diffusers, PEFT, kohya (A1111, ComfyUI), LyCORIS."""

from blockwise_lora.adapters.formats.names import Names
from blockwise_lora.adapters.formats.reading import Format, Source, read, read_source
from blockwise_lora.adapters.formats.summary import Summary, bars, summarise
from blockwise_lora.adapters.formats.writing import write

__all__ = [
    "Format",
    "Names",
    "Source",
    "Summary",
    "bars",
    "read",
    "read_source",
    "summarise",
    "write",
]
