"""What an adapter's file says about it, beside the weights.

lora_adapter_metadata    PEFT's configuration as diffusers writes and reads it
blockwise_lora.spec      the specification
blockwise_lora.mask      the mask in canonical form
blockwise_lora.blocks    sub-block -> its ranks as resolved, and the modules it consists of,
so that reports need no model, and later presets change nothing
"""

import json
import math
from collections.abc import Mapping

from blockwise_lora.adapters.config import anchored, lora_config
from blockwise_lora.adapters.plan import Plan
from blockwise_lora.adapters.spec import AdapterSpec
from blockwise_lora.blocks.structure import BlockMap

PEFT_CONFIG = "lora_adapter_metadata"
SPEC, MASK, BLOCKS = (f"blockwise_lora.{key}" for key in ("spec", "mask", "blocks"))

_OURS = ("format", PEFT_CONFIG, SPEC, MASK, BLOCKS)


def is_reserved(key: str) -> bool:
    """Whether the key means something to this project or to kohya's tools."""
    return key in _OURS or key.startswith("ss_")


def describe(spec: AdapterSpec, plan: Plan, blocks: BlockMap) -> dict[str, str]:
    """The metadata that both files carry."""
    table = {
        block.name: {
            "ranks": sorted({x.rank for x in plan.layers if x.sub_block == block.name}),
            "modules": block.prefixes,
        }
        for block in blocks.sub_blocks
        if block.name in plan.parameters
    }
    return {"format": "pt", SPEC: spec.to_json(), MASK: str(spec.mask), BLOCKS: _json(table)}


def peft_config(plan: Plan) -> dict[str, str]:
    """PEFT's configuration for diffusers, with full module names in a fixed order.

    It is not taken from the U-Net, where PEFT has shortened the names to what is unambiguous in
    that one model.
    """
    config = {
        f"unet.{key}": sorted(value) if isinstance(value, set) else value
        for key, value in lora_config(plan.layers).to_dict().items()
    }
    return {PEFT_CONFIG: _json(config)}


def read_spec(metadata: Mapping[str, str]) -> AdapterSpec:
    """The specification.

    Raises:
        ValueError, KeyError, UserError: it is missing or damaged.
    """
    return AdapterSpec.from_json(metadata[SPEC])


def read_alphas(metadata: Mapping[str, str], modules: list[str]) -> dict[str, float]:
    """Every module's alpha.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: the configuration is missing or damaged.
    """
    config = json.loads(metadata[PEFT_CONFIG])
    common, deviating = config["unet.lora_alpha"], config["unet.alpha_pattern"]
    alphas = {module: float(deviating.get(anchored(module), common)) for module in modules}
    if not all(math.isfinite(alpha) for alpha in alphas.values()):
        raise ValueError("an alpha is not finite")
    return alphas


def read_sub_blocks(metadata: Mapping[str, str], modules: list[str]) -> dict[str, str]:
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
