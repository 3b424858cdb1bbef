"""Block-wise LoRA: train adapters on chosen blocks of a U-Net, stack them, compare."""

__version__ = "0.1.0"
