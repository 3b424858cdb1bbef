"""Speed and memory during a training; everything is put back afterwards."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from blockwise_lora.diffusion.base import BaseModel
from blockwise_lora.diffusion.compiling import compiled
from blockwise_lora.diffusion.config import EfficiencyConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@contextmanager
def efficient(base: BaseModel, configs: Sequence[EfficiencyConfig]) -> Iterator[None]:
    """Train in here; what any of the adapters of a pass asks for holds for all of them.

    Args:
        base: the model.
        configs: of the adapters.
    """

    def asked(name: str) -> bool:
        return any(getattr(config, name) for config in configs)

    with ExitStack() as stack:
        if asked("gradient_checkpointing"):
            base.unet.enable_gradient_checkpointing(_computed_again)
            stack.callback(base.unet.disable_gradient_checkpointing)
            for encoder in base.text_encoders:
                stack.enter_context(_checkpointed(encoder))
        if asked("channels_last"):
            base.unet.to(memory_format=torch.channels_last)
            stack.callback(base.unet.to, memory_format=torch.contiguous_format)
        stack.enter_context(_tf32(asked("tf32")))
        if asked("deterministic"):
            stack.enter_context(_deterministic())
        if asked("compile"):
            stack.enter_context(compiled(base.unet))
        yield


@contextmanager
def offloaded(base: BaseModel, wanted: bool, text: bool = True) -> Iterator[None]:
    """In here text encoders and VAE lie in the host's memory, if that is wanted.

    Args:
        base: the model; everything in it is encoded already.
        wanted: else nothing is moved.
        text: false where the text encoders are still needed, since they learn: they stay.
    """
    with _moved(base, ("cpu", base.device), wanted, text):
        yield


@contextmanager
def onloaded(base: BaseModel, wanted: bool, text: bool = True) -> Iterator[None]:
    """In here they are back on the model's device, to sample: undoes `offloaded`."""
    with _moved(base, (base.device, "cpu"), wanted, text):
        yield


@contextmanager
def _moved(
    base: BaseModel, there_and_back: tuple[torch.device | str, ...], wanted: bool, text: bool
) -> Iterator[None]:
    parts = (*(base.text_encoders if text else ()), base.vae) if wanted else ()
    place, back = there_and_back
    for part in parts:
        part.to(place)
    try:
        yield
    finally:
        for part in parts:
            part.to(back)


def _computed_again(block: nn.Module, *args: Any) -> Any:
    # Nothing in a block is random: a generator's state, which is kept by default, cannot be read
    # while a CUDA graph is captured.
    return checkpoint(block.__call__, *args, use_reentrant=False, preserve_rng_state=False)


@contextmanager
def _checkpointed(encoder: PreTrainedModel) -> Iterator[None]:
    """Compute a text encoder's layers again on the way back, where they learn."""
    encoder.activation_checkpointing_enable()
    layers = [module for module in encoder.modules() if hasattr(module, "gradient_checkpointing")]
    for layer in layers:
        layer.training = True  # they ask for it; what is inside them stays as it is
    try:
        yield
    finally:
        for layer in layers:
            layer.training = False
        encoder.activation_checkpointing_disable()


@contextmanager
def _tf32(wanted: bool) -> Iterator[None]:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = wanted  # cuDNN's convolutions would round by default
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


@contextmanager
def _deterministic() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    # cuBLAS reads it when it starts; with another workspace its sums vary.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]
