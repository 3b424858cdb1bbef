"""A plan in PEFT's words.

PEFT is asked in the one way that is right for masks: full module names as targets, and each
deviating rank and alpha under the anchored, escaped module name. An unanchored key also matches
longer names, and a bare block prefix matches nothing.
"""

import re
from collections import Counter
from collections.abc import Sequence

from peft import LoraConfig

from blockwise_lora.adapters.plan import LayerPlan


def lora_config(layers: Sequence[LayerPlan]) -> LoraConfig:
    """PEFT's configuration for these layers; what most of them share is its default.

    It is made anew on each call, since PEFT rewrites the configurations that it is given.
    """
    rank = Counter(layer.rank for layer in layers).most_common(1)[0][0]
    alpha = Counter(layer.alpha for layer in layers).most_common(1)[0][0]
    return LoraConfig(
        r=rank,
        lora_alpha=_number(alpha),
        target_modules=[layer.name for layer in layers],
        rank_pattern={anchored(x.name): x.rank for x in layers if x.rank != rank},
        # Without this a layer of another rank would keep the common alpha, and change its scale.
        alpha_pattern={anchored(x.name): _number(x.alpha) for x in layers if x.alpha != alpha},
    )


def anchored(module_name: str) -> str:
    """The pattern by which PEFT finds this module and no other."""
    return "^" + re.escape(module_name)


def _number(value: float) -> float | int:
    """Whole numbers as int, which is how other tools write alpha."""
    return int(value) if value == int(value) else value
