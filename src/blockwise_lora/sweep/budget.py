"""The price of a search. Apart from it, so that parameters are checked without its libraries."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """What a search may cost.

    Attributes:
        trainings: in times of one single training of a full adapter, the two full ones that the
            search starts from included.
        screening: share of what is left after those two that goes into quick guesses without
            training.
        finalists: candidates that are trained at most, the full pair included; fewer where the
            price allows no more.

    Raises:
        ValueError: listing what is out of range.
    """

    trainings: float = 4.0
    screening: float = 0.3
    finalists: int = 8

    def __post_init__(self) -> None:
        mistakes = []
        if not self.trainings > 2:
            mistakes.append(
                f"trainings is above 2, not {self.trainings}: two full adapters are trained first"
            )
        if not 0 <= self.screening < 1:
            mistakes.append(f"screening is in [0, 1), not {self.screening}")
        if self.finalists < 1:
            mistakes.append(f"finalists is at least 1, not {self.finalists}")
        if mistakes:
            raise ValueError("\n".join(mistakes))
