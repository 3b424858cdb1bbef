"""The parameter group `evaluation`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from blockwise_lora.parameters import typed

if TYPE_CHECKING:
    from blockwise_lora.judges.panel import JudgeConfig
    from blockwise_lora.judges.protocol import BootstrapConfig


@dataclass(frozen=True)
class EvaluationConfig:
    """How variants are compared and shown.

    Attributes:
        judges: see `JudgeConfig`.
        bootstrap: see `BootstrapConfig`.
        names: how variants are called in grid and report; their own names where missing.
        tile: edge of a picture in the grid, in pixels.
        environment: of Kedro, as the report's commands are to name it; empty for the default.
    """

    judges: Mapping[str, Any]
    bootstrap: Mapping[str, Any] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    tile: int = 128
    environment: str = ""

    def __post_init__(self) -> None:
        if self.tile < 16:
            raise ValueError(f"tile: at least 16 pixels, not {self.tile}")

    @classmethod
    def of(cls, parameters: Mapping[str, Any]) -> EvaluationConfig:
        """From the parameter group.

        Raises:
            ParameterError: listing what does not fit.
        """
        return typed(cls, parameters, "evaluation")

    def judge_config(self) -> JudgeConfig:
        """Typed `judges`; apart, because its type's module loads the judges' libraries."""
        from blockwise_lora.judges.panel import JudgeConfig

        return typed(JudgeConfig, self.judges, "evaluation.judges")

    def bootstrap_config(self) -> BootstrapConfig:
        """Typed `bootstrap`; apart for the same reason."""
        from blockwise_lora.judges.protocol import BootstrapConfig

        return typed(BootstrapConfig, self.bootstrap, "evaluation.bootstrap")
