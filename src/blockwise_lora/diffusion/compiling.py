"""`torch.compile` of the U-Net, one resnet or transformer block at a time.

These are the parts that the model is made of in many copies, and in which nothing is decided from
step to step: between them the batch of several adapters grows (`SharedPrefix`), and around them
activations are thrown away (gradient checkpointing), so that both work as without compiling.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from blockwise_lora.errors import UserError

# Each part sees few kinds of batches: one for every number of slices, with and without a gradient
# from below. Beyond this many PyTorch gives up and says so.
_KINDS = 64
BACKEND: str | Callable = "inductor"
"""Of `torch.compile`."""


class CompileError(UserError):
    """The model cannot be compiled on this machine."""


@contextmanager
def compiled(unet: nn.Module) -> Iterator[None]:
    """Where gradients are wanted, the parts of the U-Net run compiled in here.

    Sampling and the base model's own answers do not: their batches have other sizes, each of which
    would be compiled for a few calls.

    Args:
        unet: a U-Net of the diffusers kind; adapters may come and go.

    Raises:
        CompileError: there is no compiler, or it fails.
    """
    from torch._dynamo.exc import TorchDynamoException

    parts = _parts(unet)
    for part in parts:
        part.forward = _where_gradients_are(part.forward)
    try:
        yield
    except TorchDynamoException as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CompileError(
            f"training.efficiency.compile: PyTorch cannot compile the U-Net here ({first}). It "
            f"needs a C++ compiler (g++ or clang), and on CUDA the package triton. Install what is "
            f"missing, or set compile: false."
        ) from error
    finally:
        for part in parts:
            del part.forward


def _parts(unet: nn.Module) -> list[nn.Module]:
    from diffusers.models.attention import BasicTransformerBlock
    from diffusers.models.resnet import ResnetBlock2D

    kinds = (ResnetBlock2D, BasicTransformerBlock)
    return [module for module in unet.modules() if isinstance(module, kinds)]


def _where_gradients_are(eager: Callable) -> Callable:
    # Sizes are taken as they are, since there are few. The copies do not share their kinds: each
    # has adapters of its own, and one copy would have to look through those of all.
    fast = torch.compile(
        eager, dynamic=False, backend=BACKEND, recompile_limit=_KINDS, isolate_recompiles=True
    )

    def forward(*args: Any, **kwargs: Any) -> Any:
        return (fast if torch.is_grad_enabled() else eager)(*args, **kwargs)

    return forward
