"""How large what a file's tensors make can be. A few bytes can ask for a product of any size."""

import math

_MOST = 1 << 29
"""Values of a weight: half as many again as in FLUX.2's largest layer."""


def check_size(*sides: int) -> None:
    """Refuse what no layer is as large as, before it is worked out.

    Raises:
        ValueError: a product of these sides has more values.
    """
    if math.prod(sides) > _MOST:
        size = " x ".join(map(str, sides))
        raise ValueError(f"its tensors make a product of {size}, and no layer is as large")
