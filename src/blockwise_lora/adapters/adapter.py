"""What an adapter is once it has been read, whichever format it came in."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from blockwise_lora.adapters.spec import AdapterSpec
from blockwise_lora.adapters.updates import Update
from blockwise_lora.adapters.words import LearnedWord


@dataclass(frozen=True)
class Adapter:
    """An adapter that was read from a file.

    Attributes:
        updates: full module name to the change of the layer's weight.
        sub_blocks: full module name to the sub-block that it lies in.
        spec: what it was trained as; None for an adapter that another tool made.
        metadata: everything that its file says about it.
        sha256: of the file's bytes.
        word: what was learned beside it, if anything; other files than the folder of a training
            have none.
    """

    updates: Mapping[str, Update]
    sub_blocks: Mapping[str, str]
    spec: AdapterSpec | None
    metadata: Mapping[str, str]
    sha256: str
    word: LearnedWord | None = None

    @property
    def state(self) -> dict[str, torch.Tensor]:
        """The weights under PEFT's names: `<module>.lora_A.weight`, ..."""
        return state(self.updates)


def state(updates: Mapping[str, Update]) -> dict[str, torch.Tensor]:
    """All tensors of some updates under PEFT's names."""
    return {
        f"{module}.{key}": tensor
        for module, update in updates.items()
        for key, tensor in update.tensors().items()
    }
