"""Lists of block weights, as other tools want them: what each position means, by the length.

    12  SDXL, blocks with attention     BASE IN04 IN05 IN07 IN08 MID OUT00 .. OUT05
    17  SD 1.x and 2.x, the same        BASE IN01 IN02 IN04 IN05 IN07 IN08 MID OUT03 .. OUT11
    20  SDXL, all blocks                BASE IN00 .. IN08 MID OUT00 .. OUT08
    23  SDXL, kohya's                   (embeddings) IN00 .. IN08 MID MID MID OUT00 .. OUT08 (out)
    25  SD 1.x and 2.x, kohya's         IN00 .. IN11 MID OUT00 .. OUT11
    26  SD 1.x and 2.x, all blocks      BASE IN00 .. IN11 MID OUT00 .. OUT11
    61  FLUX                            CLIP T5 (in) D00 .. D18 S00 .. S37 (out)

12, 17, 20, 26 and 61 are those of the LoRA-block-weight extension of the web UI, where the numbers
are strengths; 23 and 25 those of kohya's training scripts (`block_dims`: ranks, and factors of the
learning rate). CLIP and T5 are one block here, BASE. No adapter touches conv_in (IN00),
embeddings and the last layer: those positions are read over, and written as 0.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from blockwise_lora.blocks.layers import SubBlock
from blockwise_lora.blocks.structure import BlockMap
from blockwise_lora.blocks.terms import MODELS, MaskError


def _run(side: str, first: int, last: int) -> tuple[str, ...]:
    return tuple(f"{side}{i:02d}" for i in range(first, last + 1))


@dataclass(frozen=True)
class Layout:
    """What the positions of a list mean.

    Attributes:
        model: for which it is meant, in words.
        kind: of these models, as a mask names it.
        names: sub-block by position; "" where no adapter reaches.
    """

    model: str
    kind: str
    names: tuple[str, ...]

    @property
    def family(self) -> BlockMap:
        """The blocks of such a model, without their layers."""
        return FAMILIES[self.kind]


def _family(pairs: list[tuple[str, str]]) -> BlockMap:
    """A block map of names alone, from pairs of sub-block and coarse block."""
    return BlockMap(tuple(SubBlock(name, coarse, (), ()) for name, coarse in pairs), ())


def _unet(levels: int) -> BlockMap:
    """Stable Diffusion's U of so many resolutions: two layers each on the way in, three out."""
    ins = [(name, f"in{i // 3}") for i, name in enumerate(_run("IN", 1, 3 * levels - 1))]
    outs = [(name, f"out{i // 3}") for i, name in enumerate(_run("OUT", 0, 3 * levels - 1))]
    return _family([("BASE", "base"), *ins, ("MID", "mid"), *outs])


_FLUX = _family(
    [("BASE", "base")]
    + [(name, "double") for name in _run("D", 0, 18)]
    + [(name, "single") for name in _run("S", 0, 37)]
)
FAMILIES: Mapping[str, BlockMap] = MappingProxyType(
    dict(zip(MODELS, (_unet(4), _unet(3), _FLUX), strict=True))
)
"""Kind of model to its blocks, without their layers."""

_DEEP_IN = (*_run("IN", 4, 5), *_run("IN", 7, 8))
_SD_ATTENTION = (*_run("IN", 1, 2), *_DEEP_IN, "MID", *_run("OUT", 3, 11))
_XL_ATTENTION = (*_DEEP_IN, "MID", *_run("OUT", 0, 5))
_SD_ALL = ("", *_run("IN", 1, 11), "MID", *_run("OUT", 0, 11))
_XL_IN, _XL_OUT = ("", *_run("IN", 1, 8)), _run("OUT", 0, 8)

LAYOUTS: Mapping[int, Layout] = MappingProxyType(
    {
        12: Layout("SDXL, blocks with attention", "sdxl", ("BASE", *_XL_ATTENTION)),
        17: Layout("SD 1.x and 2.x, blocks with attention", "sd", ("BASE", *_SD_ATTENTION)),
        20: Layout("SDXL", "sdxl", ("BASE", *_XL_IN, "MID", *_XL_OUT)),
        23: Layout("SDXL, kohya's", "sdxl", ("", *_XL_IN, *("MID",) * 3, *_XL_OUT, "")),
        25: Layout("SD 1.x and 2.x, kohya's", "sd", _SD_ALL),
        26: Layout("SD 1.x and 2.x", "sd", ("BASE", *_SD_ALL)),
        61: Layout("FLUX", "flux", ("BASE", "BASE", "", *_FLUX.denoiser_names, "")),
    }
)

_NUMBER = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)"
_JOINT = r"\s*[,;\s]\s*"
_VECTOR = re.compile(rf"[\[(]?\s*{_NUMBER}(?:{_JOINT}{_NUMBER})*\s*[,;]?\s*[\])]?")


def is_vector(text: str) -> bool:
    """Whether a text is a list of numbers, of whatever length."""
    return bool(_VECTOR.fullmatch(text.strip()))


@dataclass(frozen=True)
class Vector:
    """A list of numbers by position.

    Attributes:
        values: of a length that `LAYOUTS` knows.
    """

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.values) not in LAYOUTS:
            known = "; ".join(f"{n} ({layout.model})" for n, layout in LAYOUTS.items())
            raise MaskError(
                f"a list of {len(self.values)} numbers is no list of blocks. Lengths in use: "
                f"{known}. Count again, or name the blocks, such as all+in0:0+mid:0"
            )

    @classmethod
    def parse(cls, text: str) -> "Vector":
        """Read numbers between commas, semicolons or spaces.

        Raises:
            MaskError: not such a list, or its length is not in use.
        """
        if not is_vector(text):
            raise MaskError(f"{text!r} is not a list of numbers")
        return cls(tuple(map(float, re.findall(_NUMBER, text))))

    @classmethod
    def of(cls, values: Mapping[str, float], length: int) -> "Vector":
        """The list of this length that says the most of numbers by sub-block (missing: 0)."""
        if length not in LAYOUTS:
            raise MaskError(f"no list has {length} numbers; in use: {', '.join(map(str, LAYOUTS))}")
        return cls(tuple(float(values.get(name, 0)) for name in LAYOUTS[length].names))

    def __str__(self) -> str:
        return ",".join(f"{value:g}" for value in self.values)

    @property
    def layout(self) -> Layout:
        """What the positions mean."""
        return LAYOUTS[len(self.values)]

    @property
    def by_block(self) -> dict[str, float]:
        """Sub-block to number, in the model's order, for the blocks that have a position.

        Raises:
            MaskError: two positions of one block differ.
        """
        found: dict[str, float] = {}
        for name, value in zip(self.layout.names, self.values, strict=True):
            if name and not math.isclose(found.setdefault(name, value), value):
                raise MaskError(
                    f"{name} has several positions in a list of {len(self.values)}, and is one "
                    f"block here: give them one number, not {found[name]:g} and {value:g}"
                )
        return {name: found[name] for name in self.layout.family.names if name in found}

    @property
    def ranks(self) -> dict[str, int]:
        """Sub-block to 1 (trained) or 0 (skipped), which is all that a mask understands.

        Raises:
            MaskError: another number, or as `by_block`.
        """
        for position, value in enumerate(self.values, start=1):
            if value not in (0, 1):
                raise MaskError(
                    f"number {position} of the list is {value:g}. In a mask a block is trained (1) "
                    "or not (0). A rank follows its block (all+out1:16); how strongly an adapter "
                    "acts is set when it is used (combination.strengths). "
                    "`kedro adapter vector` prints both for a list"
                )
        return {name: int(value) for name, value in self.by_block.items()}
