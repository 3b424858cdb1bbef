"""A pass through the U-Net, forward and back, as one CUDA graph.

A step of SD 1.5 is thousands of small kernels, and a host cannot launch them as fast as a large
card runs them. So a pass is captured once, and launched as a whole from then on: the same kernels
in the same order, hence the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from blockwise_lora.diffusion.batches import Batch
from blockwise_lora.diffusion.sampling import out_of_memory
from blockwise_lora.errors import UserError

Compute = Callable[[Sequence[Batch]], list[Tensor]]
"""Runs a pass over batches: adds to the gradients and returns the losses, without history."""

_WARM_UP = 2  # what is chosen or compiled on the first calls must be there before the capture
_MOST = 32  # kinds of passes; each keeps its graph until the training ends


class GraphError(UserError):
    """A pass that cannot become a CUDA graph."""


def has_graphs(device: torch.device) -> bool:
    """Whether a device has them; elsewhere passes run as they are."""
    return device.type == "cuda"


@dataclass(frozen=True)
class _Captured:
    batches: Sequence[Batch]
    losses: list[Tensor]
    replay: Callable[[], None]

    def run(self, batches: Sequence[Batch]) -> list[Tensor]:
        for mine, given in zip(self.batches, batches, strict=True):
            for here, there in zip(mine.tensors(), given.tensors(), strict=True):
                if here is not there:
                    here.copy_(there)
        self.replay()
        return [loss.clone() for loss in self.losses]  # the next replay writes over them


class Graphs:
    """The passes of one training. They share the memory of their activations.

    Args:
        device: the model's.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._captured: dict[Hashable, _Captured] = {}
        self._seen: set[Hashable] = set()
        self._pool = pool()

    def run(
        self,
        key: Hashable,
        batches: Sequence[Batch],
        gradients: Sequence[Tensor],
        compute: Compute,
    ) -> list[Tensor]:
        """What `compute(batches)` does; captured when a pass of its kind comes a second time.

        Args:
            key: tells apart whatever but the batches decides what is computed.
            batches: of encoded prompts; those of a capture are kept, to be written over.
            gradients: all tensors that `compute` adds to.
            compute: does nothing but work on the device, the same for all batches of one kind.

        Returns:
            The losses.

        Raises:
            GraphError: `compute` does something that cannot be captured.
        """
        kind = key, *(batch.kind for batch in batches)
        if kind in self._captured:
            return self._captured[kind].run(batches)
        if kind not in self._seen or len(self._captured) >= _MOST:
            self._seen.add(kind)
            return compute(batches)
        self._captured[kind] = self._capture(batches, gradients, compute)
        return self._captured[kind].run(batches)

    def _capture(
        self, batches: Sequence[Batch], gradients: Sequence[Tensor], compute: Compute
    ) -> _Captured:
        # In the host's memory: those of a full fine-tuning would take gigabytes of the card's.
        before = [gradient.to("cpu", copy=True) for gradient in gradients]
        warm_up(lambda: compute(batches), self._device)
        try:
            losses, replay = capture(lambda: compute(batches), self._device, self._pool)
        except RuntimeError as error:
            # What ends a capture that went wrong fails itself, and says nothing of the cause.
            cause = error.__context__ or error
            if isinstance(cause, RuntimeError) and out_of_memory(cause):
                raise cause from None
            first = (str(cause) or type(cause).__name__).splitlines()[0]
            raise GraphError(
                f"training.efficiency.cuda_graphs: a step cannot be captured here ({first}). Set "
                f"it to false and run again."
            ) from error
        for gradient, old in zip(gradients, before, strict=True):
            gradient.copy_(old)
        return _Captured(batches, losses, replay)


def pool() -> Hashable:
    """Memory that graphs can share, as they never run at once."""
    return torch.cuda.graph_pool_handle()


def warm_up(compute: Callable[[], object], device: torch.device) -> None:
    """Run beside the usual stream, as PyTorch asks for before a capture."""
    with torch.cuda.device(device):
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UP):
                compute()
        torch.cuda.current_stream().wait_stream(aside)


def capture(
    compute: Callable[[], list[Tensor]], device: torch.device, pool: Hashable
) -> tuple[list[Tensor], Callable[[], None]]:
    """Note what a device is told to do, which does not happen yet.

    Returns:
        The tensors that `compute` returns, which each replay writes anew, and the replay.
    """
    graph = torch.cuda.CUDAGraph()
    # PyTorch's own stream for this is made once, on whichever device comes first.
    with (
        torch.cuda.device(device),
        torch.cuda.graph(graph, pool=pool, stream=torch.cuda.Stream()),
    ):
        results = compute()
    return results, graph.replay
