"""What is made of pictures and captions on their way to the U-Net."""

from dataclasses import dataclass

from blockwise_lora.diffusion.config.checks import check


@dataclass(frozen=True)
class CaptionConfig:
    """The parameter group `training.captions`.

    Embeddings are cached, one for each wording, so chance strikes before the cache: `wordings`
    says how many a caption has, and each step takes one of them.

    Raises:
        ValueError: listing every value out of range.
    """

    dropout: float = 0.0
    """Share of pictures trained without their caption, which strengthens guidance."""
    shuffle: bool = False
    """Whether a caption's tags, those between commas, change places."""
    keep: int = 1
    """Leading tags that keep their places and are never left out; 1: the one with the trigger."""
    tag_dropout: float = 0.0
    """Share of the other tags that is left out."""
    wordings: int = 8
    """Wordings of a caption that are drawn, where tags are shuffled or left out, or where it stands
    in `prior.contexts`. Each takes 0.1 MB on the card with SD 1.5 in bf16, 0.3 MB with SDXL."""

    def __post_init__(self) -> None:
        check(self, at_least={"keep": 0, "wordings": 1}, share=("dropout", "tag_dropout"))


@dataclass(frozen=True)
class AugmentConfig:
    """The parameter group `training.augment`.

    Latents are cached, so each changed picture is an entry of the cache of its own.

    Raises:
        ValueError: listing every value out of range.
    """

    flip: bool = False
    """Whether the mirror image is learned, too; wrong for faces with a parting, or writing."""
    variants: int = 0
    """Changed copies of each picture in the cache, each cropped and coloured at random."""
    crop: float = 1.0
    """variants: smallest share of the sides that a crop leaves; 1: no crops."""
    colour: float = 0.0
    """variants: greatest change of brightness, contrast and saturation, as a share."""

    def __post_init__(self) -> None:
        more = []
        if self.variants == 0 and (self.crop < 1 or self.colour > 0):
            more.append(
                "crop and colour need variants: the latents are cached, so chance can only choose "
                "among copies that are made beforehand; set variants to 4, say"
            )
        if self.variants and self.crop == 1 and self.colour == 0:
            more.append("variants: say how they differ, by crop or colour")
        if not 0.1 <= self.crop <= 1:
            more.append(f"crop is in [0.1, 1], not {self.crop}")
        check(self, at_least={"variants": 0}, share=("colour",), more=more)
