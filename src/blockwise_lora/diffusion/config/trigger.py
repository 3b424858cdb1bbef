"""A trigger that is learned itself, beside the adapter."""

from dataclasses import dataclass

from blockwise_lora.diffusion.config.checks import check


@dataclass(frozen=True)
class TriggerEmbeddingConfig:
    """The parameter group `training.trigger_embedding`.

    Gal et al., An Image is Worth One Word (2022): the trigger gets token vectors of its own, which
    are learned; here together with the adapter.

    Raises:
        ValueError: listing every value out of range.
    """

    train: bool = False
    """Whether to. The text is then encoded anew in each step."""
    tokens: int = 1
    """Vectors of the trigger: more hold more, and take more of a prompt's places."""
    learning_rate: float = 1e-3
    """Peak, on the adapter's schedule. Textual inversion alone takes 5e-3, beside an adapter 5e-4
    is usual."""
    initial: str = ""
    """Words whose vectors it starts from; the pipeline takes the class word. Empty: the tokens
    that the trigger has so far."""

    def __post_init__(self) -> None:
        check(self, at_least={"tokens": 1}, positive=("learning_rate",))
