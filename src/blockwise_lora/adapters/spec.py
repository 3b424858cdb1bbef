"""What an adapter is to be, before any model is at hand."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from blockwise_lora.blocks.mask import Mask
from blockwise_lora.blocks.settings import checked
from blockwise_lora.parameters import asdict, typed

Method = Literal["lora", "locon", "rslora", "dora", "loha", "lokr", "oft", "full"]

_LOW_RANK = ("lora", "locon", "rslora", "dora")


@dataclass(frozen=True)
class AdapterSpec:
    """Method, blocks and ranks of an adapter; docs/methods.md has a table of the methods.

    Attributes:
        blocks: the mask, see `blockwise_lora.blocks.mask`; kept in its canonical form.
        method: how a layer is changed. All adapt the attention layers: q, k, v, out, ff, proj_in
            and proj_out, which is kohya's default. `locon` is `lora` on the convolutions as well.
            `full` trains those layers' weights themselves, as DreamBooth does (Ruiz et al. 2022):
            a low-rank update of full rank, one of whose factors is the identity and stays so. It
            has no ranks; the mask still chooses blocks.
        rank: rank of a layer in blocks for which the mask names none. For `oft` the side of the
            blocks that are rotated: as large as divides the layer's inputs.
        alpha: numerator of the scale alpha / rank by which a layer's update is multiplied; None
            means `rank`, scale 1. The scale is the adapter's, not the block's: where the mask
            gives a block its own rank, alpha follows, so that a mask changes how much a block
            can learn and not how strongly it acts. `rslora` alone divides alpha by the root of
            each layer's own rank (arXiv 2312.03732, eq. 4), for which alpha stays what it is.
        conv: adapt the convolutions, too: resnets, their shortcuts and time_emb_proj,
            downsamplers and upsamplers. `locon` and `full` always do, `lora` never, `oft` cannot.
        conv_rank: rank of 3x3 convolutions where the mask names none; None means `rank`. Linear
            layers and 1x1 convolutions take `rank` everywhere, as in kohya's scripts and LyCORIS.
        conv_alpha: as `alpha`, for 3x3 convolutions; None means that they share the scale of the
            other layers (for `rslora`, the alpha).
        init: `default` starts as PEFT does; `orthogonal` starts low-rank methods from two
            orthogonal factors whose product is zero, so that both learn from the first step.
        alphas: block to the alpha of all its layers, in place of `alpha` and `conv_alpha`. Blocks
            are named as in a mask; later entries win.
        rates: block to the factor of the learning rate there, 0 to keep it as it starts; 1 where
            none is named.

    Raises:
        ValueError: a value is out of its range or does not go with the method.
        MaskError: the mask is malformed (a `ValueError`, too).
    """

    blocks: str = "all"
    method: Method = "lora"
    rank: int = 8
    alpha: float | None = None
    conv_rank: int | None = None
    conv_alpha: float | None = None
    conv: bool = False
    init: str = "default"
    alphas: Mapping[str, float] = field(default_factory=dict, hash=False)
    rates: Mapping[str, float] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        mistakes = [*self._values(), *self._fit()]
        try:
            # Canonical, so that equal masks make equal specifications.
            object.__setattr__(self, "blocks", str(Mask.parse(self.blocks)))
        except ValueError as error:
            if not mistakes:
                raise
            mistakes.append(str(error))
        if mistakes:
            raise ValueError("\n".join(mistakes))

    def _values(self) -> list[str]:
        """What is out of range by itself."""
        mistakes = []
        if self.method not in get_args(Method):
            mistakes.append(f"method is one of {', '.join(get_args(Method))}, not {self.method!r}")
        for name in ("rank", "conv_rank"):
            value = getattr(self, name)
            if value is not None and value < 1:
                mistakes.append(f"{name} is at least 1, not {value}; to skip blocks, use the mask")
        for name in ("alpha", "conv_alpha"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                mistakes.append(f"{name} is a positive number, not {value}")
        for name, sign in (("alphas", "positive"), ("rates", "not negative")):
            try:
                object.__setattr__(self, name, checked(getattr(self, name), sign))
            except ValueError as error:
                mistakes += [f"{name}: {line}" for line in str(error).splitlines()]
        if self.init in ("pissa", "olora"):
            mistakes.append(
                f"init {self.init} changes the base model's weights, so that a second adapter "
                "would start from another model than it is used with; take orthogonal"
            )
        elif self.init not in ("default", "orthogonal"):
            mistakes.append(f"init is default or orthogonal, not {self.init!r}")
        return mistakes

    def _fit(self) -> list[str]:
        """What does not go with the method."""
        mistakes = []
        if self.method == "lora" and self.conv:
            mistakes.append("conv: lora on the convolutions as well is method locon")
        if self.method == "oft" and self.conv:
            mistakes.append(
                "conv: oft rotates the channels of linear layers and 1x1 convolutions; on 3x3 "
                "convolutions PEFT's is not the identity at its start, and merging it gives "
                "another model. Leave conv out, or take method loha or lokr"
            )
        if not self.convolutions and (self.conv_rank, self.conv_alpha) != (None, None):
            mistakes.append(
                "conv_rank and conv_alpha are for 3x3 layers, of which this adapter has none: take "
                "method locon, or conv: true"
            )
        if self.method == "oft" and (self.alpha is not None or self.alphas):
            mistakes.append("alpha and alphas: a rotation (oft) has no scale; use rank and rates")
        if self.method == "full" and (self.alpha, self.conv_rank, self.conv_alpha) != (None,) * 3:
            mistakes.append("alpha, conv_rank and conv_alpha: full trains the weights themselves")
        if self.init == "orthogonal":
            if self.method not in _LOW_RANK:
                mistakes.append(f"init orthogonal is for {', '.join(_LOW_RANK)}")
            mistakes += [
                f"init orthogonal shares a rank out between two factors: {name} is even, not {rank}"
                for name, rank in (("rank", self.rank), ("conv_rank", self.conv_rank))
                if rank is not None and rank % 2
            ]
        return mistakes

    @property
    def mask(self) -> Mask:
        """The parsed mask."""
        return Mask.parse(self.blocks)

    @property
    def convolutions(self) -> bool:
        """Whether convolutions are adapted, too."""
        return self.method in ("locon", "full") or self.conv

    def scale(self, rank: int, *, spatial: bool = False, alpha: float | None = None) -> float:
        """Factor of a layer's update.

        Args:
            rank: the layer's.
            spatial: whether it is a 3x3 convolution.
            alpha: the layer's block's own, if it has one.
        """
        if self.method in ("oft", "full"):
            return 1.0
        if self.method == "rslora":
            common = self.rank if self.alpha is None else self.alpha
            own = self.conv_alpha if spatial and self.conv_alpha is not None else common
            return (own if alpha is None else alpha) / math.sqrt(rank)
        if alpha is not None:
            return alpha / rank
        if spatial and self.conv_alpha is not None:
            return self.conv_alpha / (self.conv_rank or self.rank)
        return 1.0 if self.alpha is None else self.alpha / self.rank

    def to_json(self) -> str:
        """One line of JSON that `from_json` reads back to an equal specification.

        What is not set is left out, so that specifications outlive new options.
        """
        plain, default = asdict(self), asdict(type(self)())
        always = ("blocks", "method", "rank", "alpha", "conv_rank", "conv_alpha")
        said = {k: v for k, v in plain.items() if k in always or v != default[k]}
        # Sorted at this level only: of the entries of `alphas` and `rates`, later ones win.
        return json.dumps(dict(sorted(said.items())))

    @classmethod
    def from_json(cls, text: str, where: str = "adapter specification") -> "AdapterSpec":
        """Read what `to_json` wrote.

        Raises:
            ParameterError: the values do not fit.
            json.JSONDecodeError: not JSON (a `ValueError`).
        """
        return typed(cls, json.loads(text), where)
