"""What an adapter's file says about it, beside the weights.

lora_adapter_metadata    PEFT's configuration as diffusers writes and reads it
blockwise_lora.peft      the same for methods of which diffusers knows nothing
blockwise_lora.spec      the specification
blockwise_lora.mask      the mask in canonical form
blockwise_lora.blocks    sub-block -> its ranks as resolved, and the modules it consists of,
so that reports need no model, and later presets change nothing
blockwise_lora.shapes    module -> its weight's shape, where the tensors leave it open
"""

import json
import math
from collections.abc import Iterable, Mapping

from blockwise_lora.adapters.config import anchored, peft_config
from blockwise_lora.adapters.parts import part_of
from blockwise_lora.adapters.spec import AdapterSpec
from blockwise_lora.adapters.updates import Hadamard, Kronecker, Orthogonal, Update
from blockwise_lora.blocks.structure import BlockMap

DIFFUSERS_CONFIG = "lora_adapter_metadata"
SPEC, MASK, BLOCKS, PEFT_CONFIG, SHAPES = (
    f"blockwise_lora.{key}" for key in ("spec", "mask", "blocks", "peft", "shapes")
)

_OURS = ("format", DIFFUSERS_CONFIG, SPEC, MASK, BLOCKS, PEFT_CONFIG, SHAPES)


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


def for_peft(updates: Mapping[str, Update]) -> dict[str, str]:
    """PEFT's configuration of each part, with full module names in a fixed order.

    It is not taken from the model, where PEFT may have shortened the names to what is unambiguous
    there.
    """
    parts: dict[str, dict[str, Update]] = {}
    for module, update in updates.items():
        part = part_of(module)
        parts.setdefault(part, {})[module.removeprefix(f"{part}.")] = update
    config = {
        f"{part}.{key}": sorted(value) if isinstance(value, set) else value
        for part, own in parts.items()
        for key, value in peft_config(own).to_dict().items()
    }
    kind = next(iter(updates.values()))
    known = not isinstance(kind, Hadamard | Orthogonal)
    metadata = {DIFFUSERS_CONFIG if known else PEFT_CONFIG: _json(config)}
    if isinstance(kind, Hadamard | Kronecker | Orthogonal):
        metadata[SHAPES] = _json({module: update.shape for module, update in updates.items()})
    return metadata


def read_spec(metadata: Mapping[str, str]) -> AdapterSpec:
    """The specification.

    Raises:
        ValueError, KeyError, UserError: it is missing or damaged.
    """
    return AdapterSpec.from_json(metadata[SPEC])


def read_config(metadata: Mapping[str, str]) -> dict:
    """PEFT's configuration, of all parts.

    Raises:
        ValueError, KeyError: it is missing or damaged.
    """
    key = PEFT_CONFIG if PEFT_CONFIG in metadata else DIFFUSERS_CONFIG
    return json.loads(metadata[key])


def rank_and_alpha(config: Mapping, module: str) -> tuple[int, float]:
    """A module's rank and alpha.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: the configuration is damaged.
    """
    part = part_of(module)
    key = anchored(module.removeprefix(f"{part}."))
    name = "lora_alpha" if f"{part}.lora_alpha" in config else "alpha"
    alpha = float(config[f"{part}.alpha_pattern"].get(key, config[f"{part}.{name}"]))
    rank = int(config[f"{part}.rank_pattern"].get(key, config[f"{part}.r"]))
    if not math.isfinite(alpha) or rank < 1:
        raise ValueError(f"alpha {alpha} or rank {rank} of {module} is not usable")
    return rank, alpha


def rotation_terms(config: Mapping, module: str) -> int | None:
    """How PEFT computes a module's rotations: terms of a series, or None for exactly.

    Raises:
        KeyError, TypeError: the configuration is damaged.
    """
    part = part_of(module)
    series = config[f"{part}.use_cayley_neumann"]
    return int(config[f"{part}.num_cayley_neumann_terms"]) if series else None


def read_shapes(metadata: Mapping[str, str]) -> dict[str, tuple[int, ...]]:
    """Module to its weight's shape, as far as it is said.

    Raises:
        ValueError, TypeError, AttributeError: the table is damaged.
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
