"""How rows and scores are called in front of people."""

from blockwise_lora.judges import samples
from blockwise_lora.judges.samples import Row

ANCHOR_NAMES = {
    samples.REAL: "true pictures",
    samples.WRONG_EXPRESSION: "true, wrong expression",
    samples.REAL_CHARACTER: "character's own pictures",
    samples.REAL_STYLE: "style's own pictures",
    samples.BASE: "base model",
    samples.COPY: "copying",
    samples.STYLE_PICTURE: "same expression, style's own",
}
ANCHOR_NOTES = {
    samples.REAL: "right character, style and expression",
    samples.WRONG_EXPRESSION: "each true picture under the other prompts",
    samples.REAL_CHARACTER: "what the character adapter learned from, each against the others",
    samples.REAL_STYLE: "what the style adapter learned from, each against the others",
    samples.BASE: "no adapter, plain words",
    samples.COPY: "for each prompt the character's training picture nearest to the answer",
    samples.STYLE_PICTURE: "on another face, out of the style's pictures",
}
CONDITION_NAMES = {"character": "character only", "style": "style only", "both": "both"}
SCORE_NOTES = {
    "combined": "identity and style in one picture: 0 like base, 1 like what was learned",
    "identity": "cosine to the character's training pictures (DINO)",
    "style": "cosine of style vectors to the style's pictures",
    "prompt": "cosine to the prompt's words (CLIP-T)",
    "truth": "cosine to the true picture (DINO)",
}


def row_name(row: Row, names: dict[str, str]) -> str:
    """A row's name: `names` says how variants are called."""
    if row.anchor:
        return ANCHOR_NAMES.get(row.variant, row.variant)
    name = names.get(row.variant, row.variant)
    return name if row.condition == "both" else f"{name}, {CONDITION_NAMES[row.condition]}"
