"""Does it work? Gaps closed, controls and variants over several dev pairs, with 95% intervals.

    python benchmarks/dev_pairs.py                   # cat, cloud, hand, heart; OpenMoji
    python benchmarks/dev_pairs.py --families cat moon --seeds 0 1

For every family it trains a character adapter (and once a style adapter) for each variant of
conf/base/parameters_variants.yml, samples held-out expressions, and scores them as the evaluation
pipeline does. Trained adapters are kept in the user's cache folder, so a second run only samples;
results go to benchmarks/results/dev_pairs.{json,md}. Needs no Kedro run.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from PIL import Image
from platformdirs import user_cache_path

from blockwise_lora.adapters import Adapter, detach, load_adapter, read_adapter
from blockwise_lora.atomic import replace_folder, write_text
from blockwise_lora.diffusion.base import BaseModel, load_base
from blockwise_lora.diffusion.checkpoints import configuration_hash
from blockwise_lora.diffusion.combination import Strengths
from blockwise_lora.diffusion.prompts import Concept
from blockwise_lora.diffusion.samples import SampleSet, sample_conditions
from blockwise_lora.diffusion.sampling import SamplingConfig
from blockwise_lora.diffusion.trained import TrainedAdapter
from blockwise_lora.diffusion.trainer import train
from blockwise_lora.emoji.splits import load_splits
from blockwise_lora.imagesets import CaptionRule, CurationConfig, ImageSet, curate
from blockwise_lora.judges.bootstrap import Interval, Scores, interval
from blockwise_lora.judges.panel import JudgeConfig, Panel
from blockwise_lora.judges.protocol import evaluate
from blockwise_lora.judges.samples import (
    REAL_CHARACTER,
    REAL_STYLE,
    Question,
    References,
    Row,
    Sample,
)
from blockwise_lora.judges.scores import SCORES, Judged
from blockwise_lora.parameters import typed
from blockwise_lora.pipelines.training.recipes import Recipe, resolve

ROOT = Path(__file__).resolve().parents[1]
RAW, RESULTS = ROOT / "data" / "01_raw", ROOT / "benchmarks" / "results"
CACHE = user_cache_path("blockwise_lora") / "benchmarks" / "dev_pairs"
STYLE = "openmoji"
VARIANTS = ("lora", "locon", "blockwise", "keyed")
CONTROLLED = ("lora", "keyed")
"""Variants whose adapters, and whose trigger words, are exchanged as well."""
EXCHANGED = (*(f"{v}, permuted" for v in CONTROLLED), "permuted, off")
"""Rows whose prompts have the two trigger words exchanged; the last one without adapters."""
CONDITIONS = ["character", "style", "both"]
REAL = {"identity": REAL_CHARACTER, "style": REAL_STYLE}


def parameters(name: str) -> dict:
    """One parameters file of the base environment."""
    return yaml.safe_load((ROOT / "conf" / "base" / f"parameters_{name}.yml").read_text())


@dataclass(frozen=True)
class Pair:
    """A character in a style, with its held-out expressions."""

    family: str
    character: Concept
    style: Concept
    templates: tuple[str, ...]
    questions: tuple[Question, ...]

    @classmethod
    def of(cls, family: str, words: dict) -> Pair:
        """Read what the repository ships for a family of the splits."""
        splits = load_splits()
        if splits.role(family, STYLE) != "dev":
            raise SystemExit(f"{family} in {STYLE} is sealed: the final benchmark only may look")
        held = splits.families[family]
        folder = RAW / "truth" / f"{family}-{STYLE}"
        rows = [json.loads(x) for x in (folder / "metadata.jsonl").read_text().splitlines()]
        truths = [Image.open(folder / row["file_name"]).convert("RGB") for row in rows]
        return cls(
            family,
            Concept(words["character"]["trigger"], held.class_word),
            Concept(words["style"]["trigger"], words["style"]["class_word"]),
            tuple("{style}, {character}, " + expression for expression in held.test.values()),
            tuple(Question(r["text"], t) for r, t in zip(rows, truths, strict=True)),
        )


class Workshop:
    """Trains what is not in the cache yet, and samples."""

    def __init__(self, seeds: list[int]) -> None:
        self.base: BaseModel = load_base(ROOT / "data" / "06_models" / "base")
        self.seeds = seeds
        self.words = parameters("data")
        self.curation = typed(CurationConfig, parameters("curation")["curation"], "curation")
        self.variants = parameters("variants")["variants"]
        self.training = parameters("training")["training"]
        self.sampling = typed(
            SamplingConfig, parameters("combination")["combination"]["sampling"], "sampling"
        )

    def pictures(self, concept: str, folder: Path, class_word: str) -> ImageSet:
        """The curated set of a concept."""
        words = self.words[concept]
        template = words.get("caption_template", "{trigger} {caption}")
        rule = CaptionRule(words["trigger"], class_word, template)
        return curate(folder, rule, self.curation)[0]

    def recipe(self, concept: str, variant: str) -> Recipe:
        """How the pipeline would train the concept's adapter."""
        return resolve(
            concept,
            concept=self.words[concept],
            variant=variant,
            variants=self.variants,
            training=self.training,
            seed=0,
        )

    def adapter(self, concept: str, variant: str, images: ImageSet) -> Adapter:
        """The concept's adapter in a variant, trained on first use."""
        recipe = self.recipe(concept, variant)
        spec, config = recipe.spec, recipe.config
        key = configuration_hash(
            spec=spec.to_json(), training=config, data=images.sha256, base=self.base.sha256
        )
        folder = CACHE / "adapters" / key
        if not folder.is_dir():
            trained = train(self.base, images, spec, config, name=concept)
            finished = TrainedAdapter(self.base, trained, config, {"concept": concept})
            with replace_folder(folder) as staging:
                finished.write(staging)
            detach(self.base.unet, concept)
        return read_adapter(folder)

    def sample(
        self,
        pair: Pair,
        adapters: dict[str, Adapter],
        conditions: list[str],
        variant: str,
        strength: float = 1.0,
    ) -> SampleSet:
        """Every prompt and seed under some conditions."""
        for name, adapter in adapters.items():
            load_adapter(self.base.unet, adapter, name)
        try:
            return sample_conditions(
                self.base,
                pair.templates,
                self.seeds,
                conditions,
                character=pair.character,
                style=pair.style,
                config=self.sampling,
                strengths=Strengths(strength, strength),
                variant=variant,
            )
        finally:
            for name in adapters:
                detach(self.base.unet, name)


def permuted(pair: Pair) -> Pair:
    """The same prompts with the two trigger words exchanged."""
    character = Concept(pair.style.trigger, pair.character.class_word)
    style = Concept(pair.character.trigger, pair.style.class_word)
    return Pair(pair.family, character, style, pair.templates, pair.questions)


def as_samples(pictures: SampleSet) -> list[Sample]:
    """What the judges want."""
    return [
        Sample(
            Row("base") if row.condition == "base" else Row(row.variant, row.condition),
            row.prompt_index,
            row.seed,
            picture,
        )
        for row, picture in pictures
    ]


def judge_pair(shop: Workshop, panel: Panel, pair: Pair) -> tuple[Judged, dict[str, list[float]]]:
    """Train, sample and judge one pair. Returns scores and the anchors of the two gaps."""
    faces = shop.pictures("character", RAW / "characters" / pair.family, pair.character.class_word)
    drawn = shop.pictures("style", RAW / "styles" / STYLE, pair.style.class_word)
    samples = as_samples(shop.sample(pair, {}, ["base"], ""))
    for variant in VARIANTS:
        adapters = {
            "character": shop.adapter("character", variant, faces),
            "style": shop.adapter("style", variant, drawn),
        }
        samples += as_samples(shop.sample(pair, adapters, CONDITIONS, variant))
        if variant in CONTROLLED:
            swapped = {"character": adapters["style"], "style": adapters["character"]}
            exchanged = shop.sample(pair, swapped, ["character", "style"], f"{variant}, swapped")
            words = permuted(pair)
            samples += as_samples(exchanged)
            samples += as_samples(shop.sample(words, adapters, CONDITIONS, f"{variant}, permuted"))
    samples += as_samples(shop.sample(permuted(pair), adapters, CONDITIONS, "permuted, off", 0.0))
    references = References(tuple(p.open() for p in faces), tuple(p.open() for p in drawn))
    judged = evaluate(panel, samples, pair.questions, references).judged
    return judged, {score: list(gap(judged, score)) for score in REAL}


def gap(judged: Judged, score: str) -> tuple[float, float]:
    """Mean of the base model, and of the real pictures, each against the others of its set."""
    means = (np.nanmean(judged.scores(Row(name), score).values) for name in ("base", REAL[score]))
    base, real = means
    return float(base), float(real)


def pooled(judged: dict[str, Judged], row: Row, score: str) -> Scores | None:
    """One row's scores over all pairs; prompts of different pairs are different clusters."""
    tables = [j.scores(row, score) for j in judged.values() if row in j.rows]
    if not tables:
        return None
    width = max(t.values.shape[1] for t in tables)
    values = np.concatenate(
        [
            np.pad(t.values, ((0, 0), (0, width - t.values.shape[1])), constant_values=np.nan)
            for t in tables
        ]
    )
    return Scores(tuple(range(len(values))), tuple(range(width)), values)


def closed(judged: dict[str, Judged], row: Row, score: str) -> Interval:
    """Share of the gap between base and real pictures that a row closes, over all pairs."""
    shares = []
    for j in judged.values():
        base, real = gap(j, score)
        shares.append((j.scores(row, score).values - base) / (real - base))
    values = np.concatenate(shares)
    scores = Scores(tuple(range(len(values))), tuple(range(values.shape[1])), values)
    return interval(scores, np.random.default_rng(0))


def summary(judged: dict[str, Judged]) -> dict:
    """Everything that the tables show, by name."""
    rows = list(dict.fromkeys(row for j in judged.values() for row in j.rows))
    table = {}
    for row in rows:
        scores = {s: pooled(judged, row, s) for s in SCORES}
        table[str(row)] = {
            s: vars_of(interval(t, np.random.default_rng(0))) for s, t in scores.items() if t
        }
    gaps = {}
    for v in CONTROLLED:
        gaps |= {
            f"identity, {v}: character only": Row(v, "character"),
            f"identity, {v}: the style's adapter instead": Row(f"{v}, swapped", "character"),
            f"style, {v}: style only": Row(v, "style"),
            f"style, {v}: the character's adapter instead": Row(f"{v}, swapped", "style"),
        }
    for variant in EXCHANGED:
        gaps[f"identity, {variant}: character only"] = Row(variant, "character")
        gaps[f"style, {variant}: style only"] = Row(variant, "style")
    for variant in (*VARIANTS, *EXCHANGED):
        for score in ("identity", "style"):
            gaps[f"{score}, both: {variant}"] = Row(variant, "both")
    shares = {k: vars_of(closed(judged, row, k.split(",")[0])) for k, row in gaps.items()}
    differences = {
        f"{a} - {b}, {score}": vars_of(
            interval(
                pooled(judged, Row(a, "both"), score) - pooled(judged, Row(b, "both"), score),
                np.random.default_rng(0),
            )
        )
        for a, b in (("blockwise", "lora"), ("blockwise", "locon"), ("locon", "lora"))
        for score in SCORES
    }
    return {
        "table": table,
        "gap_closed": shares,
        "by_pair": by_pair(judged),
        "differences": differences,
    }


def by_pair(judged: dict[str, Judged]) -> dict[str, dict[str, float]]:
    """What the means over pairs hide: for every family, shares of a gap and combined scores."""
    table: dict[str, dict[str, float]] = {}
    for family, j in judged.items():
        one = {family: j}
        cells = table[family] = {}
        for v in CONTROLLED:
            cells[f"identity closed, {v}: character only"] = closed(
                one, Row(v, "character"), "identity"
            ).mean
            cells[f"style closed, {v}: style only"] = closed(one, Row(v, "style"), "style").mean
        for v in (*CONTROLLED, *EXCHANGED):
            combined = j.scores(Row(v, "both"), "combined").values
            cells[f"combined score, both: {v}"] = float(np.nanmean(combined))
    return table


def vars_of(i: Interval) -> dict[str, float]:
    """An interval as JSON."""
    return {"mean": i.mean, "low": i.low, "high": i.high, "n": i.n}


def markdown(result: dict) -> str:
    """The tables for people."""
    lines = ["# Over several dev pairs", ""]
    lines += [
        f"Families: {', '.join(result['families'])} in {STYLE}; seeds {result['seeds']}; held-out "
        f"expressions; 95% intervals clustered by prompt. Base model {result['base'][:12]}.",
        "",
        "Command: `python benchmarks/dev_pairs.py`",
        "",
        "## Share of the gap between base (0) and real pictures (1) that is closed",
        "",
        "| | closed | 95% |",
        "|---|---|---|",
    ]
    for name, i in result["gap_closed"].items():
        lines.append(f"| {name} | {i['mean']:.2f} | {i['low']:.2f} to {i['high']:.2f} |")
    lines += ["", "## Pair by pair", "", "| | " + " | ".join(result["by_pair"]) + " |"]
    lines.append("|---" * (len(result["by_pair"]) + 1) + "|")
    for name in next(iter(result["by_pair"].values())):
        cells = [f"{pair[name]:.2f}" for pair in result["by_pair"].values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", "## Scores", "", "| | " + " | ".join(SCORES) + " |"]
    lines.append("|---" * (len(SCORES) + 1) + "|")
    for name, scores in result["table"].items():
        cells = [_cell(scores.get(score)) for score in SCORES]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", "## Differences, both adapters active", "", "| | difference | 95% | |"]
    lines.append("|---" * 4 + "|")
    for name, i in result["differences"].items():
        sure = "" if i["low"] <= 0 <= i["high"] else "outside chance"
        lines.append(
            f"| {name} | {i['mean']:+.3f} | {i['low']:+.3f} to {i['high']:+.3f} | {sure} |"
        )
    return "\n".join(lines) + "\n"


def _cell(i: dict | None) -> str:
    if i is None or np.isnan(i["mean"]):
        return ""
    return f"{i['mean']:.3f} ({i['low']:.3f} to {i['high']:.3f})"


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--families", nargs="+", default=["cat", "cloud", "hand", "heart"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3])
    args = parser.parse_args()
    began = time.monotonic()
    judges = ROOT / "data" / "06_models" / "judges"
    shop = Workshop(args.seeds)
    panel = Panel.load(JudgeConfig(clip=str(judges / "clip"), dino=str(judges / "dino")))
    judged, anchors = {}, {}
    for family in args.families:
        pair = Pair.of(family, shop.words)
        judged[family], anchors[family] = judge_pair(shop, panel, pair)
    result = {
        "families": args.families,
        "seeds": args.seeds,
        "base": shop.base.sha256,
        "minutes": round((time.monotonic() - began) / 60, 1),
        "anchors": anchors,
        **summary(judged),
    }
    write_text(RESULTS / "dev_pairs.json", json.dumps(result, indent=2) + "\n")
    write_text(RESULTS / "dev_pairs.md", markdown(result))
    print(markdown(result))


if __name__ == "__main__":
    main()
