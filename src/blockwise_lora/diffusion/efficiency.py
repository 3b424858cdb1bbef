"""Speed and memory during a training; everything is put back afterwards."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch

from blockwise_lora.diffusion.base import BaseModel
from blockwise_lora.diffusion.config import EfficiencyConfig


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
            base.unet.enable_gradient_checkpointing()
            stack.callback(base.unet.disable_gradient_checkpointing)
        if asked("channels_last"):
            base.unet.to(memory_format=torch.channels_last)
            stack.callback(base.unet.to, memory_format=torch.contiguous_format)
        if asked("tf32"):
            stack.enter_context(_tf32())
        if asked("deterministic"):
            stack.enter_context(_deterministic())
        yield


@contextmanager
def offloaded(base: BaseModel, wanted: bool) -> Iterator[None]:
    """In here text encoders and VAE lie in the host's memory, if that is wanted.

    Args:
        base: the model; everything in it is encoded already.
        wanted: else nothing is moved.
    """
    with _moved(base, "cpu", base.device, wanted):
        yield


@contextmanager
def onloaded(base: BaseModel, wanted: bool) -> Iterator[None]:
    """In here they are back on the model's device, to sample: undoes `offloaded`."""
    with _moved(base, base.device, "cpu", wanted):
        yield


@contextmanager
def _moved(
    base: BaseModel, place: torch.device | str, back: torch.device | str, wanted: bool
) -> Iterator[None]:
    parts = (*base.text_encoders, base.vae) if wanted else ()
    for part in parts:
        part.to(place)
    try:
        yield
    finally:
        for part in parts:
            part.to(back)


@contextmanager
def _tf32() -> Iterator[None]:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = True
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
