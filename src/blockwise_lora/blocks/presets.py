"""Named block selections, each with its reason.

A preset is a group of blocks with a name, written as a mask without ranks of its own, so that
`style:16`, `all+style:0` and `character+OUT06:0` work like any other group. Its name holds no
`-` (which makes ranges) and does not look like a block. None was chosen by looking at true
pictures: each follows from published claims alone.

Sources: [BW] block-wise LoRA, arXiv 2403.07500; [B] B-LoRA, arXiv 2403.14572; [LBW] the block
presets of the LoRA-block-weight extension, the community's experience with SD 1.x.

[B] adapts the attention of its two blocks, which is what `method: lora` does with `content` and
`style` on SDXL. [LBW]'s own lists begin with BASE at 1; here the text encoder is a choice of its
own, `ins+base`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Preset:
    """A named selection of blocks.

    Attributes:
        name: as written in a mask.
        masks: number of in-blocks of a model (4: SD 1.x and 2.x, 3: SDXL) to the mask there; a
            claim about one depth of U-Net says nothing about another.
        reason: why these blocks.
    """

    name: str
    masks: Mapping[int, str]
    reason: str


_TABLE = (
    Preset(
        "character",
        {4: "in0-out1", 3: "OUT00"},
        "What is drawn, for stacking with a style. All in-blocks, the middle and the deep half of "
        "the decoder. [BW] wants shallow blocks for identity (the bottom alone loses it): the "
        "shallow in-blocks give them. [LBW] puts faces and shapes in OUT03 to OUT05 and surface "
        "in the out-blocks after them, and those stay free for the style, so that the two "
        "adapters share no layer. For a character alone, `all` is best [BW]. "
        "SDXL: the block that carries content in [B].",
    ),
    Preset(
        "style",
        {4: "out2-out3", 3: "OUT01"},
        "How it is drawn, for stacking with a character: the two shallow out-blocks, the last to "
        "touch the picture and at its two finest resolutions, where line, texture and palette "
        "are decided ([LBW]'s OUTS; upper blocks carry style most [BW]). The rest of the U-Net "
        "is the character's: with `character` this divides the layers without remainder. "
        "SDXL: the block that carries style in [B].",
    ),
    Preset(
        "content",
        {3: "OUT00"},
        "What is shown, on SDXL: [B]'s block of content, the counterpart of its `style`.",
    ),
    Preset(
        "upper",
        {4: "in0-in2+out1-out3", 3: "in0-in1+out1-out2"},
        "Ablation: all but the bottom. [BW]: these carry identity and style most. On SD 1.x they "
        "are the blocks that have attention, less the middle.",
    ),
    Preset(
        "bottom",
        {4: "in3-out0", 3: "in2-out0"},
        "Ablation: the bottom of the U alone. [BW]: the character is lost.",
    ),
    Preset(
        "shallow",
        {4: "in0-in1+out2-out3", 3: "in0+out2"},
        "Ablation: the finest resolutions, on both sides of the U.",
    ),
    Preset(
        "deep",
        {4: "in2-out1", 3: "in1-out1"},
        "Ablation: all but `shallow`: the coarse resolutions, where layout and shape are decided.",
    ),
    Preset("ins", {4: "IN01-IN02+IN04"}, "[LBW]: the shallow in-blocks that have attention."),
    Preset("ind", {4: "IN05+IN07-IN08"}, "[LBW]: the deep in-blocks that have attention."),
    Preset(
        "inall",
        {4: "IN01-IN02+IN04-IN05+IN07-IN08"},
        "[LBW]: the in-blocks that have attention, `ins` and `ind`.",
    ),
    Preset(
        "midd",
        {4: "IN05+IN07-IN08+mid+OUT03-OUT06"},
        "[LBW]: the deep half on both sides, and the middle: `ind`, `mid` and `outd`.",
    ),
    Preset("outd", {4: "OUT03-OUT06"}, "[LBW]: the deep out-blocks that have attention."),
    Preset("outs", {4: "OUT07-OUT11"}, "[LBW]: the shallow out-blocks that have attention."),
    Preset(
        "outall",
        {4: "OUT03-OUT11"},
        "[LBW]: the out-blocks that have attention, `outd` and `outs`.",
    ),
)

PRESETS: Mapping[str, Preset] = MappingProxyType({preset.name: preset for preset in _TABLE})
