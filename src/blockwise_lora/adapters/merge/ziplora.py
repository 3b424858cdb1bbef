"""ZipLoRA: each adapter's change with one learned factor for each input column.

Shah et al., ZipLoRA: Any Subject in Any Style by Effectively Merging LoRAs (arXiv 2311.13600),
equation 2: column j of each change is multiplied by element j of a vector m. The factors stay
outside the rank, (B A) diag(m) = B (A diag(m)), so the merge is an adapter. They are learned by
`blockwise_lora.diffusion.ziplora`; this is the rule that applies them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from blockwise_lora.adapters.merge.errors import MergeError
from blockwise_lora.adapters.merge.parts import Part
from blockwise_lora.adapters.merge.summed import add
from blockwise_lora.adapters.updates import LowRank, Update


@dataclass(frozen=True)
class ZipLora:
    """The rule.

    Attributes:
        columns: for each adapter, layer name to its factors, one for each input channel: (in,).
            A layer without factors is added as it is.
        learned: how the factors were learned, for the record.
    """

    columns: tuple[Mapping[str, Tensor], ...]
    learned: Mapping[str, object]
    name: ClassVar[str] = "ziplora"

    def combine(self, module: str, parts: Sequence[Part]) -> Update | Tensor:
        """Merge the changes of one layer.

        Raises:
            MergeError: factors were learned for a change that is not low-rank.
        """
        zipped = []
        for part in parts:
            factors = self.columns[part.index].get(module)
            if factors is None:
                zipped.append(part)
                continue
            if not isinstance(part.update, LowRank):
                raise MergeError(f"rule ziplora scales the factor A, which {module} has not")
            zipped.append(replace(part, update=scale_columns(part.update, factors)))
        return add(zipped)


def scale_columns(update: LowRank, factors: Tensor) -> LowRank:
    """B (A diag(m)): input channels times factors.

    Args:
        update: of a linear layer or a convolution.
        factors: (in,).
    """
    ones = (1 for _ in update.down.shape[2:])
    return replace(update, down=update.down.float() * factors.float().reshape(1, -1, *ones))
