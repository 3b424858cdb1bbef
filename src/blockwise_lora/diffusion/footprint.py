"""What the training of an adapter takes of memory beside the frozen model, by counting.

Counting gives the same figure on every machine and in every pass; a measured peak would be that of
all adapters of a pass together, and of the allocator's habits.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from blockwise_lora.adapters import set_strengths, trainable_parameters
from blockwise_lora.diffusion.base import BaseModel
from blockwise_lora.diffusion.config import TrainingConfig
from blockwise_lora.diffusion.efficiency import efficient
from blockwise_lora.diffusion.text import cat

BYTES_PER_TRAINED = 5 * 4
"""Of each trained value, in float32: in the table and in PEFT's layer, its gradient, and the two
moments of AdamW. Other optimisers keep less or more."""


def training_bytes(base: BaseModel, name: str, config: TrainingConfig) -> int:
    """Bytes that training one attached adapter by itself needs beside the frozen model.

    Trained values with gradients and AdamW's state, and what autograd keeps of one batch for the
    backward pass. Blocks before the adapter's first layer keep nothing, so late masks take less;
    with the text encoders all blocks keep something.

    Args:
        base: the model, its denoiser at its own size; the adapter is the only one that acts
            afterwards.
        name: of the adapter.
        config: batch size, and what saves memory; pictures of a prior are not counted.
    """
    trained = trainable_parameters(base.parts, name)
    for parameter in trained:
        parameter.requires_grad_(True)
    set_strengths(base.parts, {name: 1.0})
    rows, side = config.batch_size, base.resolution // base.vae_factor
    noisy = torch.zeros(rows, base.unet.config.in_channels, side, side, device=base.device)
    frame = [float(base.resolution)] * 2 + [0.0] * 2 + [float(base.resolution)] * 2
    frames = noisy.new_tensor([frame]).expand(rows, -1)
    encoded = {id(p) for encoder in base.text_encoders for p in encoder.parameters()}
    if name in base.vocabulary or any(id(p) in encoded for p in trained):
        text = cat([base.vocabulary.ids([""])] * rows)
    else:
        text = base.encode_prompts([""]).expand(rows)
    timesteps = torch.zeros(rows, dtype=torch.int64, device=base.device)
    with efficient(base, [config.efficiency]), torch.enable_grad():
        parts = nn.ModuleList([base.unet, *base.text_encoders])
        activations = kept_bytes(parts, lambda: base.answer(noisy, timesteps, text, frames))
    return BYTES_PER_TRAINED * sum(p.numel() for p in trained) + activations


def kept_bytes(model: nn.Module, forward: Callable[[], Tensor]) -> int:
    """Bytes that autograd keeps of a forward pass, weights left out, equal storages once."""
    weights = {p.untyped_storage()._cdata for p in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage  # held, so that no other takes its address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    return sum(storage.nbytes() for key, storage in kept.items() if key not in weights)
