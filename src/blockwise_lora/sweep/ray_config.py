"""Where a sweep's passes run as Ray tasks, and what a task needs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RayConfig:
    """The group `sweep.ray`.

    Raises:
        ValueError: listing what is out of range.
    """

    address: str | None = None
    """Of a running cluster (`auto`, `ray://host:10001`); null starts Ray on this machine."""
    num_cpus: float = 1.0
    """Cores of a task, which is one pass."""
    num_gpus: float = 0.0
    """Cards of a task; 0.5 lets two passes share one."""
    retries: int = 3
    """Times that a pass is given to another worker when its own is lost."""

    def __post_init__(self) -> None:
        mistakes = [
            f"{name} is not below 0: {getattr(self, name)}"
            for name in ("num_cpus", "num_gpus", "retries")
            if getattr(self, name) < 0
        ]
        if mistakes:
            raise ValueError("\n".join(mistakes))
