"""Figures for the model card: can the judges tell what the base model draws, and what is true?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from blockwise_lora.emoji.corpus import Corpus
from blockwise_lora.emoji.figures import as_pictures
from blockwise_lora.emoji.sources import SETS
from blockwise_lora.emoji.splits import Family, Splits
from blockwise_lora.judges.panel import Panel
from blockwise_lora.judges.style import StyleSpace, style_statistics

CHARACTER_SET, OTHER_SET = "noto", "twemoji"
CAPTIONS = 100


def retrieval_corpus(corpus: Corpus, splits: Splits) -> Corpus:
    """The 100 concepts of `splits.yml`, as Noto draws them."""
    rows = {e.code: i for i, e in enumerate(corpus.emojis) if e.set_name == CHARACTER_SET}
    chosen = [rows[code] for code in splits.retrieval_set]
    return Corpus(tuple(corpus.emojis[i] for i in chosen), corpus.pixels[chosen])


def retrieval_prompts(chosen: Corpus) -> list[str]:
    """One prompt per concept: Noto's style and the label."""
    return [f"{SETS[e.set_name].style_words} style, {e.label}" for e in chosen.emojis]


def retrieval_figures(
    panel: Panel, chosen: Corpus, generated: Sequence[Image.Image]
) -> dict[str, float]:
    """R@1 in per cent among the 100: of captions for pictures, and of generated for real pictures.

    Args:
        panel: the judges.
        chosen: the real pictures.
        generated: the base model's answer to `retrieval_prompts`, in the same order.
    """
    real = as_pictures(chosen.pixels)
    texts = panel.clip.texts(retrieval_prompts(chosen))
    names = {"real": real, "generated": list(generated)}
    figures = {
        f"caption of {kind} pictures (CLIP judge)": _recall(panel.clip.images(shown), texts)
        for kind, shown in names.items()
    }
    seen, drawn = panel.dino.images(real), panel.dino.images(list(generated))
    figures["real picture of generated ones (DINO judge)"] = _recall(drawn, seen)
    return figures


def _recall(queries: np.ndarray, gallery: np.ndarray) -> float:
    return 100 * float(np.mean((queries @ gallery.T).argmax(1) == np.arange(len(queries))))


def triple_figures(panel: Panel, corpus: Corpus, splits: Splits) -> dict[str, float]:
    """How often the true picture scores above a wrong one, in per cent, over all dev pairs.

    A picture's score is the sum of identity, style and prompt as the evaluation measures them, each
    standardised over the pair's candidates. The true picture is never among the references.
    """
    wins: dict[str, list[bool]] = {}
    rows = {(e.set_name, e.code): i for i, e in enumerate(corpus.emojis)}
    for style in splits.styles:
        for family in splits.families.values():
            if splits.role(family.name, style) == "dev":
                for kind, outcome in _pair(panel, corpus, rows, splits, family, style):
                    wins.setdefault(kind, []).append(outcome)
    every = [outcome for outcomes in wins.values() for outcome in outcomes]
    return {kind: 100 * float(np.mean(o)) for kind, o in {**wins, "all": every}.items()}


def _pair(panel: Panel, corpus: Corpus, rows: dict, splits: Splits, family: Family, style: str):
    def pixels(places: list[tuple[str, str]]) -> np.ndarray:
        return corpus.pixels[[rows[place] for place in places if place in rows]]

    others = [f for f in splits.families.values() if f is not family and f.role == "dev"]
    wrong_identity = [(style, code) for f in others for code in f.test]
    candidates = [(style, code) for code in family.members] + wrong_identity
    candidates += [(s, code) for s in (CHARACTER_SET, OTHER_SET) for code in family.test]
    candidates = [place for place in candidates if place in rows]
    character = pixels([(CHARACTER_SET, code) for code in family.train])
    drawn = pixels([(style, code) for code in splits.style_set])
    sight = _scores(panel, pixels(candidates), character, drawn)
    place = {c: i for i, c in enumerate(candidates)}
    for code, expression in family.test.items():
        text = panel.clip.texts([f"{family.class_word}, {expression}"])[0]
        score = sight["score"] + _standard(sight["clip"] @ text)
        true = score[place[style, code]]
        rivals = {
            "wrong style": [(s, code) for s in (CHARACTER_SET, OTHER_SET)],
            "wrong identity": wrong_identity,
            "wrong expression": [(style, c) for c in family.members if c != code],
        }
        for kind, those in rivals.items():
            yield from ((kind, bool(true > score[place[r]])) for r in those if r in place)


def _scores(panel: Panel, candidates: np.ndarray, character: np.ndarray, drawn: np.ndarray) -> dict:
    shown, known, hand = (as_pictures(p) for p in (candidates, character, drawn))
    identity = (panel.dino.images(shown) @ panel.dino.images(known).T).mean(1)
    statistics = [style_statistics(panel.dino, p, panel.style_blocks) for p in (shown, known, hand)]
    space = StyleSpace.around(statistics[1], statistics[2])
    style = (space.vectors(statistics[0]) @ space.vectors(statistics[2]).T).mean(1)
    return {"score": _standard(identity) + _standard(style), "clip": panel.clip.images(shown)}


def _standard(values: np.ndarray) -> np.ndarray:
    return (values - values.mean()) / max(values.std(), 1e-9)
