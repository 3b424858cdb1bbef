"""Strengths that change over the denoising steps.

Early steps decide what is where, late ones how it is drawn; so a style that starts late, or a
character that stops early, leaves the other room.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from blockwise_lora.adapters.layers import require_attached
from blockwise_lora.adapters.parts import Model
from blockwise_lora.adapters.strength import Strength, set_strengths


@dataclass(frozen=True)
class Schedule:
    """Factors of an adapter's strength over the steps.

    Attributes:
        start: share of the steps that is over when the adapter sets in; 0: from the beginning.
        stop: share of the steps that is over when it falls silent; 1: never.
        factors: of its strength over all steps, the first for the noisiest. As many as there are
            steps give one to each; fewer are spread evenly. Empty: 1 throughout.

    Raises:
        ValueError: a value is out of its range.
    """

    start: float = 0.0
    stop: float = 1.0
    factors: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop <= 1:
            raise ValueError(
                f"start and stop are shares of the steps, 0 <= start < stop <= 1, not "
                f"{self.start} and {self.stop}"
            )
        if not all(math.isfinite(factor) for factor in self.factors):
            raise ValueError(f"factors are finite numbers, not {self.factors}")

    def check(self, steps: int, where: str = "schedule") -> None:
        """Make sure that it suits a number of steps.

        Raises:
            ValueError: there are more factors than steps.
        """
        if len(self.factors) > steps:
            raise ValueError(
                f"{where} has {len(self.factors)} factors for {steps} steps, so some would never "
                "act: give one for each step, or fewer"
            )

    def factor(self, step: int, steps: int) -> float:
        """The factor of one step.

        Args:
            step: from 0.
            steps: how many there are.

        Raises:
            ValueError: as `check`.
        """
        self.check(steps)
        # At a step's beginning: of 10 steps, stop 0.3 leaves steps 0, 1 and 2.
        if not self.start <= step / steps < self.stop:
            return 0.0
        return self.factors[step * len(self.factors) // steps] if self.factors else 1.0


def scheduled(
    model: Model, strengths: Mapping[str, Strength], schedules: Mapping[str, Schedule]
) -> Callable[[int, int], None]:
    """A hook for `blockwise_lora.diffusion.sampling` that sets every step's strengths.

    Args:
        model: with the adapters attached.
        strengths: as for `set_strengths`; whatever is not named is off.
        schedules: adapter name to its schedule; others keep their strength.

    Raises:
        AdapterError: no such adapter.
    """
    for name in (*strengths, *schedules):
        require_attached(model, name)
    plain, last = Schedule(), None

    def before_step(step: int, steps: int) -> None:
        nonlocal last
        factors = {n: schedules.get(n, plain).factor(step, steps) for n in strengths}
        if step == 0 or factors != last:
            set_strengths(model, strengths, factors)
            last = factors

    return before_step
