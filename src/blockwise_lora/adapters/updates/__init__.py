"""How one layer's weight is changed: one class a method, each with what defines it and no more."""

from blockwise_lora.adapters.updates.dora import Dora
from blockwise_lora.adapters.updates.hadamard import Hadamard
from blockwise_lora.adapters.updates.kronecker import Kronecker
from blockwise_lora.adapters.updates.low_rank import LowRank
from blockwise_lora.adapters.updates.orthogonal import Orthogonal
from blockwise_lora.adapters.updates.protocol import Update

__all__ = ["Dora", "Hadamard", "Kronecker", "LowRank", "Orthogonal", "Update"]
