"""Adapter files of all tools: diffusers, PEFT, kohya (A1111, ComfyUI), LyCORIS."""

from blockwise_lora.adapters.formats.names import Names
from blockwise_lora.adapters.formats.reading import Format, detect, read
from blockwise_lora.adapters.formats.writing import write

__all__ = ["Format", "Names", "detect", "read", "write"]
