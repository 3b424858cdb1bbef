"""Do captions serve better without the tags that all pictures share? Over several dev pairs.

    python benchmarks/concept_tags.py            # cat, cloud, hand, heart; OpenMoji
    python benchmarks/concept_tags.py --quick    # does it run? A minute; nothing is kept

For every family two character adapters are trained that differ in nothing but their captions:
"zkc cat face, grinning" (the shared tag kept) and "zkc, grinning" (removed, as
`captioning.concept_tags.remove: true` does it, told from the style's pictures). Both draw the same
held-out expressions from the same noise, prompted by the trigger alone and by trigger and class
word, by themselves and together with one and the same style adapter. Reported is removed less kept,
whichever way it goes, with its 95% interval: benchmarks/results/concept_tags.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import dev_pairs
import numpy as np
from dev_pairs import RAW, RESULTS, ROOT, STYLE, Pair, Workshop, as_samples, vars_of

from blockwise_lora.adapters import Adapter
from blockwise_lora.atomic import write_text
from blockwise_lora.imagesets import (
    CaptioningConfig,
    CaptionRule,
    ImageSet,
    caption_pictures,
    screen_folder,
)
from blockwise_lora.imagesets.captioning import ConceptTagRules
from blockwise_lora.judges.bootstrap import Scores, interval
from blockwise_lora.judges.panel import JudgeConfig, Panel
from blockwise_lora.judges.protocol import judge
from blockwise_lora.judges.samples import References, Row
from blockwise_lora.judges.scores import SCORES, Judged

ARMS = {"kept": False, "removed": True}
WORDINGS = ("trigger alone", "trigger and class word")
CONDITIONS = {"character": "character adapter", "both": "with style adapter"}


def row(arm: str, wording: str, condition: str) -> Row:
    """Where an arm's pictures stand in the judges' table."""
    return Row(f"{arm}, {wording}", condition)


def captioned(shop: Workshop, pair: Pair, removed: bool) -> tuple[ImageSet, list[str]]:
    """The character's set in one of two wordings, and the tags that were found to be its own."""
    words = shop.words["character"]
    rule = CaptionRule(pair.character.trigger, pair.character.class_word, words["caption_template"])
    captioner = CaptioningConfig(concept_tags=ConceptTagRules(remove=removed)).captioner(rule)
    faces = screen_folder(RAW / "characters" / pair.family, shop.curation)
    drawn = screen_folder(RAW / "styles" / STYLE, shop.curation)
    images, report = caption_pictures(faces, captioner, background=drawn)
    return images, [tag.tag for tag in report.captions.concept_tags if tag.own]


def worded(pair: Pair, wording: str) -> Pair:
    """The pair's prompts, naming the character in one of two ways."""
    if wording == "trigger and class word":
        return pair
    alone = (text.replace("{character}", pair.character.trigger) for text in pair.templates)
    return replace(pair, templates=tuple(alone))


def judge_pair(shop: Workshop, panel: Panel, pair: Pair, variant: str) -> tuple[Judged, dict]:
    """Train both arms, sample and judge. Returns scores and what the captions were."""
    drawn = shop.pictures("style", RAW / "styles" / STYLE, pair.style.class_word)
    style = shop.adapter("style", variant, drawn)
    # The base model's own pictures are the zero of the combined score.
    samples, captions = as_samples(shop.sample(pair, {}, ["base"], "")), {}
    for arm, removed in ARMS.items():
        faces, own = captioned(shop, pair, removed)
        captions[arm] = {"first": faces.captions[0], "concept_tags": own}
        adapters = {"character": shop.adapter("character", variant, faces), "style": style}
        samples += sampled(shop, pair, adapters, arm)
    references = References(tuple(p.open() for p in faces), tuple(p.open() for p in drawn))
    return judge(panel, samples, pair.questions, references), captions


def sampled(shop: Workshop, pair: Pair, adapters: dict[str, Adapter], arm: str) -> list:
    """One arm's pictures in all wordings and conditions."""
    found = []
    for wording in WORDINGS:
        asked, name = worded(pair, wording), f"{arm}, {wording}"
        found += as_samples(shop.sample(asked, adapters, list(CONDITIONS), name))
    return found


def pooled(judged: dict[str, list[Judged]], at: Row, score: str) -> Scores:
    """A row's scores: prompts of all families, seeds of all trainings.

    Args:
        judged: by family, one outcome for each training seed.
        at: the row.
        score: which.
    """
    families = [[j.scores(at, score).values for j in trained] for trained in judged.values()]
    values = np.concatenate([np.concatenate(trained, axis=1) for trained in families])
    return Scores(tuple(range(len(values))), tuple(range(values.shape[1])), values)


def summary(judged: dict[str, list[Judged]]) -> dict:
    """Every arm's scores, and the differences that matter."""

    def of(scores: Scores) -> dict[str, float]:
        return vars_of(interval(scores, np.random.default_rng(0)))

    table = {
        f"{arm}, {wording}, {words}": {
            s: of(pooled(judged, row(arm, wording, condition), s)) for s in SCORES
        }
        for condition, words in CONDITIONS.items()
        for wording in WORDINGS
        for arm in ARMS
    }
    removal = {
        f"removed - kept: {wording}, {words}, {score}": of(
            pooled(judged, row("removed", wording, condition), score)
            - pooled(judged, row("kept", wording, condition), score)
        )
        for condition, words in CONDITIONS.items()
        for wording in WORDINGS
        for score in SCORES
    }
    alone = {
        f"trigger alone - with class word: {arm}, {words}, {score}": of(
            pooled(judged, row(arm, WORDINGS[0], condition), score)
            - pooled(judged, row(arm, WORDINGS[1], condition), score)
        )
        for condition, words in CONDITIONS.items()
        for arm in ARMS
        for score in SCORES
    }
    return {"table": table, "removal": removal, "alone": alone}


def markdown(result: dict) -> str:
    """The tables for people."""
    lines = [
        "# Captions with and without the concept's own tags",
        "",
        f"Families: {', '.join(result['families'])} in {STYLE}; variant {result['variant']}; "
        f"training seeds {result['training_seeds']}, seeds {result['seeds']}; held-out "
        f"expressions; 95% intervals clustered by prompt. Base model {result['base'][:12]}.",
        "",
        "Command: `python benchmarks/concept_tags.py`",
        "",
        "## Captions",
        "",
        "| family | kept | removed | tags of the concept |",
        "|---|---|---|---|",
    ]
    for family, arms in result["captions"].items():
        tags = ", ".join(arms["removed"]["concept_tags"])
        lines.append(
            f"| {family} | {arms['kept']['first']} | {arms['removed']['first']} | {tags} |"
        )
    lines += ["", "## What removal changes", *_differences(result["removal"])]
    lines += ["", "## What the trigger alone loses", *_differences(result["alone"])]
    lines += ["", "## Scores", "", f"| | {' | '.join(SCORES)} |", "|---" * (len(SCORES) + 1) + "|"]
    for name, scores in result["table"].items():
        cells = (_cell(scores[score]) for score in SCORES)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _differences(differences: dict) -> list[str]:
    lines = ["", "| | difference | 95% | |", "|---|---|---|---|"]
    for name, i in differences.items():
        if np.isnan(i["mean"]):
            continue
        sure = "" if i["low"] <= 0 <= i["high"] else "outside chance"
        lines.append(
            f"| {name} | {i['mean']:+.3f} | {i['low']:+.3f} to {i['high']:+.3f} | {sure} |"
        )
    return lines


def _cell(i: dict) -> str:
    return "" if np.isnan(i["mean"]) else f"{i['mean']:.3f} ({i['low']:.3f} to {i['high']:.3f})"


def quick(shop: Workshop) -> None:
    """Make everything small, and keep nothing."""
    dev_pairs.CACHE = Path(tempfile.mkdtemp(prefix="concept_tags-"))
    shop.training = shop.training | {"steps": 12, "batch_size": 2}  # the warm-up takes ten
    shop.sampling = replace(shop.sampling, steps=2)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--families", nargs="+", default=["cat", "cloud", "hand", "heart"])
    parser.add_argument("--variant", default="blockwise", help="of parameters_variants.yml")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3], help="of the noise")
    parser.add_argument("--training-seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--quick", action="store_true", help="one family, a few steps, no files")
    args = parser.parse_args()
    if args.quick:
        args.families, args.seeds, args.training_seeds = args.families[:1], [0, 1], [0]
    began = time.monotonic()
    judges = ROOT / "data" / "06_models" / "judges"
    shop = Workshop(args.seeds)
    if args.quick:
        quick(shop)
    panel = Panel.load(JudgeConfig(clip=str(judges / "clip"), dino=str(judges / "dino")))
    judged: dict[str, list[Judged]] = {}
    captions = {}
    for family in args.families:
        pair = Pair.of(family, shop.words)
        for seed in args.training_seeds:
            shop.training = shop.training | {"seed": seed}
            outcome, captions[family] = judge_pair(shop, panel, pair, args.variant)
            judged.setdefault(family, []).append(outcome)
    result = {
        "families": args.families,
        "variant": args.variant,
        "seeds": args.seeds,
        "training_seeds": args.training_seeds,
        "base": shop.base.sha256,
        "minutes": round((time.monotonic() - began) / 60, 1),
        "captions": captions,
        **summary(judged),
    }
    if not args.quick:
        write_text(RESULTS / "concept_tags.json", json.dumps(result, indent=2) + "\n")
        write_text(RESULTS / "concept_tags.md", markdown(result))
    print(markdown(result))


if __name__ == "__main__":
    main()
