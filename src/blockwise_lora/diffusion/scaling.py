"""Loss scaling, without which small gradients become zero in float16.

The rule is that of `torch.amp.GradScaler` (Micikevicius et al., Mixed Precision Training, 2018,
section 3.2), once for each adapter of a pass and without its wait for the host.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

HALVINGS = 16
"""How often the first scale, 2 to this power, can be halved until it is 1."""
_GROW_EVERY = 2000  # steps without an overflow until the scale is doubled


class LossScale:
    """A factor of the loss that falls when a gradient overflows and rises when none does.

    Args:
        device: where it lives; the host never reads it.
    """

    def __init__(self, device: torch.device) -> None:
        self.value = torch.full((), 2.0**HALVINGS, device=device)
        self._fine = torch.zeros((), dtype=torch.int32, device=device)

    @torch.no_grad()
    def unscale_(self, gradients: Sequence[Tensor]) -> None:
        """Take the factor out of float32 gradients; what is not finite stays so."""
        torch._foreach_mul_(gradients, self.value.reciprocal())

    def update(self, finite: Tensor) -> None:
        """Halve the scale after a step with an overflow; double it after 2000 without one.

        Args:
            finite: a boolean scalar on the device.
        """
        overflow = (~finite).float()
        torch._amp_update_scale_(self.value, self._fine, overflow, 2.0, 0.5, _GROW_EVERY)

    def state(self) -> dict[str, Tensor]:
        """All that `restore` needs."""
        return {"scale/value": self.value, "scale/fine": self._fine}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go back to a saved state.

        Raises:
            KeyError: the state is of a training without a scale.
        """
        self.value.copy_(tensors["scale/value"])
        self._fine.copy_(tensors["scale/fine"])
