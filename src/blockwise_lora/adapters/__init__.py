"""Adapters: what one is, attaching it to a U-Net, its strength, its files."""

from blockwise_lora.adapters.adapter import Adapter
from blockwise_lora.adapters.attach import (
    Attached,
    attach,
    detach,
    parameter_rates,
    trainable_parameters,
)
from blockwise_lora.adapters.errors import AdapterError
from blockwise_lora.adapters.files import extract, load_adapter, save_adapter
from blockwise_lora.adapters.formats import read as read_adapter
from blockwise_lora.adapters.layers import attached_names
from blockwise_lora.adapters.norms import block_norms
from blockwise_lora.adapters.parts import Parts
from blockwise_lora.adapters.plan import Plan
from blockwise_lora.adapters.schedule import Schedule, scheduled
from blockwise_lora.adapters.spec import AdapterSpec
from blockwise_lora.adapters.strength import set_strengths
from blockwise_lora.adapters.updates import (
    Dora,
    Hadamard,
    Kronecker,
    LowRank,
    Orthogonal,
    Update,
)

__all__ = [
    "Adapter",
    "AdapterError",
    "AdapterSpec",
    "Attached",
    "Dora",
    "Hadamard",
    "Kronecker",
    "LowRank",
    "Orthogonal",
    "Parts",
    "Plan",
    "Schedule",
    "Update",
    "attach",
    "attached_names",
    "block_norms",
    "detach",
    "extract",
    "load_adapter",
    "parameter_rates",
    "read_adapter",
    "save_adapter",
    "scheduled",
    "set_strengths",
    "trainable_parameters",
]
