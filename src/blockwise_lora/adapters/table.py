"""A model's blocks in a table: their names, and what an adapter of a method and rank has there."""

from collections import Counter
from dataclasses import dataclass

from blockwise_lora.adapters.parts import Parts
from blockwise_lora.adapters.plan import Plan
from blockwise_lora.adapters.spec import AdapterSpec
from blockwise_lora.blocks.dialects import kohya_prefixes, original_name


@dataclass(frozen=True)
class Row:
    """One sub-block.

    Attributes:
        block: its name, which is the community's: IN04, MID, BASE.
        coarse: the coarse block that it is part of.
        diffusers: the modules that it consists of.
        original: its name in the model's original code, "" if not known.
        kohya: how keys begin in kohya's files.
        trained: whether the mask names it.
        layers: number of layers that the adapter changes.
        values: number of values that are trained.
    """

    block: str
    coarse: str
    diffusers: tuple[str, ...]
    original: str
    kohya: tuple[str, ...]
    trained: bool
    layers: int
    values: int

    @property
    def empty(self) -> bool:
        """Whether the mask names it, and the method finds nothing there."""
        return self.trained and not self.layers


def block_table(parts: Parts, spec: AdapterSpec) -> list[Row]:
    """One row for each sub-block, in the model's order; needs no weights.

    Raises:
        MaskError: the mask does not fit the model.
    """
    blocks = parts.blocks
    plan = Plan.of(blocks, spec)
    layers = Counter(layer.sub_block for layer in plan.layers)
    values = plan.parameters
    return [
        Row(
            block=block.name,
            coarse=block.coarse,
            diffusers=block.prefixes,
            original=original_name(block, parts.denoiser),
            kohya=kohya_prefixes(block, parts.denoiser),
            trained=block.name in layers or block.name in plan.empty_blocks,
            layers=layers[block.name],
            values=values.get(block.name, 0),
        )
        for block in blocks.sub_blocks
    ]
