"""What an adapter's file says about it, beside the weights.

lora_adapter_metadata    PEFT's configuration as diffusers writes and reads it
blockwise_lora.peft      the same for methods of which diffusers knows nothing
blockwise_lora.spec      the specification
blockwise_lora.mask      the mask in canonical form
blockwise_lora.blocks    sub-block -> its ranks as resolved, and the modules it consists of,
so that reports need no model, and later presets change nothing
blockwise_lora.shapes    module -> its weight's shape, where the tensors leave it open
blockwise_lora.family    sd1, sd2 or sdxl: the structure of the base model, which decides how other
                         tools name its layers
"""

import json
from collections.abc import Iterable, Mapping

from blockwise_lora.adapters.spec import AdapterSpec
from blockwise_lora.adapters.updates import Update
from blockwise_lora.blocks.structure import BlockMap

DIFFUSERS_CONFIG = "lora_adapter_metadata"
SPEC, MASK, BLOCKS, PEFT_CONFIG, SHAPES, FAMILY = (
    f"blockwise_lora.{key}" for key in ("spec", "mask", "blocks", "peft", "shapes", "family")
)

_OURS = ("format", DIFFUSERS_CONFIG, SPEC, MASK, BLOCKS, PEFT_CONFIG, SHAPES, FAMILY)


def is_reserved(key: str) -> bool:
    """Whether the key means something to this project or to kohya's tools."""
    return key in _OURS or key.startswith("ss_")


def describe(spec: AdapterSpec, updates: Mapping[str, Update], blocks: BlockMap) -> dict[str, str]:
    """The metadata that all of an adapter's files carry."""
    ranks: dict[str, set[int]] = {}
    for module, update in updates.items():
        ranks.setdefault(blocks.layers[module][0].name, set()).add(update.rank)
    table = {
        block.name: {"ranks": sorted(ranks[block.name]), "modules": block.prefixes}
        for block in blocks.sub_blocks
        if block.name in ranks
    }
    return {"format": "pt", SPEC: spec.to_json(), MASK: str(spec.mask), BLOCKS: _json(table)}


def read_spec(metadata: Mapping[str, str]) -> AdapterSpec:
    """The specification.

    Raises:
        ValueError, KeyError, UserError: it is missing or damaged.
    """
    return AdapterSpec.from_json(metadata[SPEC])


def read_shapes(metadata: Mapping[str, str]) -> dict[str, tuple[int, ...]]:
    """Module to its weight's shape, as far as it is said.

    Raises:
        ValueError, TypeError, AttributeError, OverflowError: the table is damaged.
    """
    table = json.loads(metadata.get(SHAPES, "{}"))
    return {module: tuple(int(n) for n in shape) for module, shape in table.items()}


def read_sub_blocks(metadata: Mapping[str, str], modules: Iterable[str]) -> dict[str, str]:
    """Every module's sub-block.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: the table is missing or damaged.
    """
    table = json.loads(metadata[BLOCKS])
    homes = {prefix: block for block, entry in table.items() for prefix in entry["modules"]}
    found = {}
    for module in modules:
        home = next((p for p in homes if f"{module}.".startswith(f"{p}.")), None)
        if home is None:
            raise ValueError(f"no block is named for {module}")
        found[module] = homes[home]
    return found


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
