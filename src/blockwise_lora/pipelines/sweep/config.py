"""The parameter group `sweep`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from blockwise_lora.parameters import typed
from blockwise_lora.sweep.budget import Budget
from blockwise_lora.sweep.ray_config import RayConfig


@dataclass(frozen=True)
class PairConfig:
    """Two masks of a study of one's own."""

    character: str = "all"
    style: str = "all"


@dataclass(frozen=True)
class SearchConfig:
    """The group `sweep.search`.

    Raises:
        ValueError: listing what is out of range.
    """

    trainings: float = 4.0
    """What it may cost, in times of one single training; the two full adapters count."""
    screening: float = 0.3
    """Share of what is left after those two for quick guesses without training."""
    finalists: int = 8
    """Trained pairs at most, the full one included; fewer where the price allows no more."""
    ranks: tuple[int, ...] = ()
    """Ranks to try for a block beside none and the full one."""
    storage: str | None = None
    """URL of the database that workers share; null: in memory."""
    first_seed: int = 20_000
    """Of the search's noise; confirmation uses the seeds of `kedro run`."""

    def __post_init__(self) -> None:
        _ = self.budget  # which refuses what is out of range

    @property
    def budget(self) -> Budget:
        """The price."""
        return Budget(self.trainings, self.screening, self.finalists)


@dataclass(frozen=True)
class SweepConfig:
    """What is tried, and how.

    Raises:
        ValueError: listing what is out of range.
    """

    prompts: tuple[str, ...]
    """Of study and search, see `prompts` in parameters_data.yml; confirmation uses those."""
    study: str | tuple[PairConfig, ...] = "paper"
    """`paper`, `coarse`, `fine`, or a list of pairs of masks."""
    variant: str = "locon"
    """Whose method and ranks all masks have."""
    at_once: int = 8
    """Adapters in one training pass; a matter of memory and speed."""
    pictures_per_prompt: int = 2
    first_seed: int = 10_000
    """Of the study's noise."""
    smallest_effect: float = 0.02
    """Of a mask that matters: what is smaller is not called a contradiction, and no sentence of the
    page names it, even outside chance."""
    search: SearchConfig = field(default_factory=SearchConfig)
    shared_bank: str | None = None
    """fsspec address of a folder where several machines keep their adapters; null: none."""
    ray: RayConfig | None = None
    """Where passes are trained as Ray tasks; null: here, one after the other."""

    def __post_init__(self) -> None:
        mistakes = []
        if not self.prompts:
            mistakes.append("prompts: at least one is needed")
        mistakes += [
            f"{name} is at least 1, not {getattr(self, name)}"
            for name in ("at_once", "pictures_per_prompt")
            if getattr(self, name) < 1
        ]
        if not self.smallest_effect >= 0:
            mistakes.append(f"smallest_effect is at least 0, not {self.smallest_effect}")
        if mistakes:
            raise ValueError("\n".join(mistakes))

    @classmethod
    def of(cls, parameters: Mapping[str, Any]) -> SweepConfig:
        """From the parameter group.

        Raises:
            ParameterError: listing what does not fit.
        """
        return typed(cls, parameters, "sweep")
