"""Where an adapter does its work."""

import math
from collections import defaultdict

from blockwise_lora.adapters.files import Adapter


def block_norms(adapter: Adapter) -> dict[str, float]:
    """Frobenius norm of the change of all weights in each sub-block that the adapter touches.

    It is computed through the factors; no full-size matrix is formed.
    """
    squares: defaultdict[str, float] = defaultdict(float)
    for module, update in adapter.updates.items():
        squares[adapter.sub_blocks[module]] += update.norm() ** 2
    order = ("IN", "MID", "OUT")
    names = sorted(squares, key=lambda name: (order.index(name.rstrip("0123456789")), name))
    return {name: math.sqrt(squares[name]) for name in names}
