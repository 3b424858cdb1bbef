"""Where an adapter does its work."""

import math
from collections import defaultdict

from blockwise_lora.adapters.adapter import Adapter
from blockwise_lora.adapters.formats.names import ordered


def block_norms(adapter: Adapter) -> dict[str, float]:
    """Frobenius norm of the change of all weights in each sub-block that the adapter touches.

    Low-rank changes are measured through their factors, without a full-size matrix.

    Raises:
        ValueError: the method's change depends on the base's weights (DoRA, OFT).
    """
    squares: defaultdict[str, float] = defaultdict(float)
    for module, update in adapter.updates.items():
        squares[adapter.sub_blocks[module]] += update.norm() ** 2
    return {name: math.sqrt(squares[name]) for name in ordered(squares)}
