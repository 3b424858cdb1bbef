"""A pass through the U-Net, forward and back, as one CUDA graph.

A step of SD 1.5 is thousands of small kernels, and a host cannot launch them as fast as a large
card runs them. A pass is therefore recorded when a batch of its kind is first seen, and launched
as a whole from then on: the same kernels on the same places in memory, so the same numbers.
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
"""Runs a pass over batches: adds to the gradients and returns the losses."""

_WARM_UP = 2  # what is chosen or compiled on the first calls must be there before recording


class RecordingError(UserError):
    """A pass that cannot become a CUDA graph."""


def recordable(device: torch.device) -> bool:
    """Whether a device has graphs; elsewhere passes run as they are."""
    return device.type == "cuda"


@dataclass(frozen=True)
class _Recording:
    batches: Sequence[Batch]
    losses: list[Tensor]
    replay: Callable[[], None]

    def play(self, batches: Sequence[Batch]) -> list[Tensor]:
        for mine, given in zip(self.batches, batches, strict=True):
            for here, there in zip(mine.tensors(), given.tensors(), strict=True):
                if here is not there:
                    here.copy_(there)
        self.replay()
        return [loss.clone() for loss in self.losses]  # the next replay writes over them


class Recordings:
    """The passes of one training. They share the memory of their activations."""

    def __init__(self) -> None:
        self._known: dict[Hashable, _Recording] = {}
        self._pool = pool()

    def run(
        self,
        key: Hashable,
        batches: Sequence[Batch],
        gradients: Sequence[Tensor],
        compute: Compute,
    ) -> list[Tensor]:
        """What `compute(batches)` does, recorded if it is the first of its kind.

        Args:
            key: tells apart whatever but the batches decides what is computed.
            batches: of encoded prompts; those of a recording are kept, to be written over.
            gradients: all tensors that `compute` adds to.
            compute: does nothing but work on the device, the same for all batches of one kind.

        Returns:
            The losses.

        Raises:
            RecordingError: `compute` does something that cannot be recorded.
        """
        kind = key, *(batch.kind for batch in batches)
        if kind not in self._known:
            self._known[kind] = self._record(batches, gradients, compute)
        return self._known[kind].play(batches)

    def _record(
        self, batches: Sequence[Batch], gradients: Sequence[Tensor], compute: Compute
    ) -> _Recording:
        before = [gradient.clone() for gradient in gradients]
        try:
            losses, replay = record(lambda: compute(batches), self._pool)
        except RuntimeError as error:
            if any(map(out_of_memory, (error, error.__context__))):
                raise torch.OutOfMemoryError(str(error)) from error
            raise RecordingError(
                f"training.efficiency.cuda_graphs: a step cannot be recorded here "
                f"({str(error).splitlines()[0]}). Set it to false."
            ) from error
        torch._foreach_copy_(list(gradients), before)
        return _Recording(batches, losses, replay)


def pool() -> Hashable:
    """Memory that graphs can share, as they never run at once."""
    return torch.cuda.graph_pool_handle()


def record(
    compute: Callable[[], list[Tensor]], pool: Hashable
) -> tuple[list[Tensor], Callable[[], None]]:
    """Record what the device is told to do.

    Args:
        compute: is run some times first.
        pool: where its memory comes from.

    Returns:
        The tensors that it returns, which each replay writes anew, and the replay.
    """
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(_WARM_UP):
            compute()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        results = [tensor.detach() for tensor in compute()]
    return results, graph.replay
