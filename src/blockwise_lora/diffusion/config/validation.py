"""Looking at an adapter while it trains."""

from dataclasses import dataclass
from typing import Literal

from blockwise_lora.diffusion.config.checks import check


@dataclass(frozen=True)
class ValidationConfig:
    """The parameter group `training.validation`. All of it is off unless `every` is set.

    Raises:
        ValueError: listing every value out of range.
    """

    every: int = 0
    """Steps between two looks; the last step is always looked at. 0: none."""
    held_out: int = 0
    """Pictures that are kept from the training, for a loss at fixed noise and noise levels. It
    rises when the adapter begins to learn by heart; of few pictures none can be spared."""
    prompts: tuple[str, ...] = ()
    """Prompts of the sample pictures, the trigger included."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of each prompt's pictures."""
    sampling_steps: int = 20
    """Network evaluations for each sample picture, twice as many with guidance."""
    guidance_scale: float = 4.0
    """Of the sample pictures."""
    judge: bool = False
    """Whether the judges score the sample pictures, against the pictures that are trained on."""
    best_by: Literal["loss", "score"] | None = None
    """Keep the adapter of the look with the lowest held-out loss or the highest score of the
    judges; null: that of the last step."""
    patience: int = 0
    """best_by: looks in a row without a new best after which the training ends; 0: never."""

    def __post_init__(self) -> None:
        more = []
        if self.best_by == "loss" and not self.held_out:
            more.append("best_by: loss needs held_out pictures")
        if self.best_by == "score" and not self.judge:
            more.append("best_by: score needs judge: true")
        if self.judge and not self.prompts:
            more.append("judge needs prompts, whose pictures it scores")
        if self.patience and self.best_by is None:
            more.append("patience needs best_by, which says what is to get better")
        if not self.every and (self.held_out or self.prompts):
            more.append("held_out and prompts need every, the steps between two looks")
        least = {"every": 0, "held_out": 0, "patience": 0, "sampling_steps": 1, "guidance_scale": 1}
        check(self, at_least=least, more=more)
