"""What an adapter is to be, before any model is at hand."""

import json
import math
from dataclasses import dataclass
from typing import Literal

from blockwise_lora.blocks.mask import Mask
from blockwise_lora.parameters import asdict, typed


@dataclass(frozen=True)
class AdapterSpec:
    """Method, blocks and ranks of an adapter.

    Attributes:
        blocks: the mask, see `blockwise_lora.blocks.mask`; kept in its canonical form.
        method: `lora` adapts the attention layers: q, k, v, out, ff, proj_in and proj_out, which
            is kohya's default. `locon` adapts the convolutions, too: resnets, their shortcuts
            and time_emb_proj, downsamplers and upsamplers.
        rank: rank of a layer in blocks for which the mask names none.
        alpha: numerator of the scale alpha / rank by which a layer's update is multiplied; None
            means `rank`, scale 1. The scale is the adapter's, not the block's: where the mask
            gives a block its own rank, alpha follows, so that a mask changes how much a block
            can learn and not how strongly it acts.
        conv_rank: rank of 3x3 convolutions where the mask names none (`locon` only); None means
            `rank`. Linear layers and 1x1 convolutions take `rank` everywhere, as in kohya's
            scripts and LyCORIS.
        conv_alpha: as `alpha`, for 3x3 convolutions (`locon` only); None means that they share
            the scale of the other layers.

    Raises:
        ValueError: a value is out of its range or does not go with the method.
        MaskError: the mask is malformed (a `ValueError`, too).
    """

    blocks: str = "all"
    method: Literal["lora", "locon"] = "lora"
    rank: int = 8
    alpha: float | None = None
    conv_rank: int | None = None
    conv_alpha: float | None = None

    def __post_init__(self) -> None:
        mistakes = []
        if self.method not in ("lora", "locon"):
            mistakes.append(f"method is lora or locon, not {self.method!r}")
        for name in ("rank", "conv_rank"):
            value = getattr(self, name)
            if value is not None and value < 1:
                mistakes.append(f"{name} is at least 1, not {value}; to skip blocks, use the mask")
        for name in ("alpha", "conv_alpha"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                mistakes.append(f"{name} is a positive number, not {value}")
        if self.method == "lora" and (self.conv_rank, self.conv_alpha) != (None, None):
            mistakes.append("conv_rank and conv_alpha are for method locon: lora has no 3x3 layers")
        try:
            # Canonical, so that equal masks make equal specifications.
            object.__setattr__(self, "blocks", str(Mask.parse(self.blocks)))
        except ValueError as error:
            if not mistakes:
                raise
            mistakes.append(str(error))
        if mistakes:
            raise ValueError("\n".join(mistakes))

    @property
    def mask(self) -> Mask:
        """The parsed mask."""
        return Mask.parse(self.blocks)

    @property
    def scale(self) -> float:
        """Factor of the update B A of linear layers and 1x1 convolutions."""
        return 1.0 if self.alpha is None else self.alpha / self.rank

    @property
    def conv_scale(self) -> float:
        """Factor of the update of 3x3 convolutions."""
        if self.conv_alpha is None:
            return self.scale
        return self.conv_alpha / (self.conv_rank or self.rank)

    def to_json(self) -> str:
        """One line of JSON that `from_json` reads back to an equal specification."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str, where: str = "adapter specification") -> "AdapterSpec":
        """Read what `to_json` wrote.

        Raises:
            ParameterError: the values do not fit.
            json.JSONDecodeError: not JSON (a `ValueError`).
        """
        return typed(cls, json.loads(text), where)
