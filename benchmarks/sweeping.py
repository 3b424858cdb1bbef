"""A dev pair's study and search, timed and judged, for `sweep.py`."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import dev_pairs
import numpy as np
from dev_pairs import RAW, ROOT, STYLE, Pair, as_samples, parameters

from blockwise_lora.diffusion.checkpoints import configuration_hash
from blockwise_lora.diffusion.prompts import fill_all
from blockwise_lora.diffusion.samples import SampleSet, Seeds
from blockwise_lora.imagesets import ImageSet
from blockwise_lora.judges.bootstrap import Scores, interval
from blockwise_lora.judges.panel import JudgeConfig, Panel
from blockwise_lora.judges.protocol import BootstrapConfig, evaluate, judge
from blockwise_lora.judges.samples import Question, References, Row, Sample
from blockwise_lora.sweep.bank import Bank, Lesson
from blockwise_lora.sweep.candidates import Space
from blockwise_lora.sweep.pictures import Brief
from blockwise_lora.sweep.recommendation import FULL_PAIR, Budget, Found, Search
from blockwise_lora.sweep.search import open_study
from blockwise_lora.sweep.studies import CONCEPTS, Study, named_study, own_study
from blockwise_lora.sweep.studies import Pair as Masks
from blockwise_lora.sweep.training import train_missing
from blockwise_lora.sweep.workshop import Workshop, run_study

CACHE = dev_pairs.CACHE.parent / "sweep"
TIMED = "cat"
"""The family whose study is timed."""
EVERY = 8
"""One mask in so many is trained by itself as well, to reckon what all would take so."""
COMPARED = ("search", "study", "all blocks")
DIFFERENCES = (("search", "study"), ("search", "all blocks"), ("study", "all blocks"))
SHOWN = ("combined", "identity", "style", "prompt", "truth")


class Setting:
    """The embedded world with the parameters of conf/base, or few steps of everything."""

    def __init__(self, seeds: Sequence[int], quick: bool) -> None:
        self.shop = dev_pairs.Workshop(list(seeds))
        judges = ROOT / "data" / "06_models" / "judges"
        self.panel = Panel.load(JudgeConfig(str(judges / "clip"), str(judges / "dino")))
        self.sweep = parameters("sweep")["sweep"]
        self.sampling = self.shop.sampling
        self.bootstrap = BootstrapConfig()
        self.quick = quick
        if quick:
            self.shop.training = self.shop.training | {"steps": 11}
            self.sampling = self.shop.sampling = dataclasses.replace(self.sampling, steps=2)
            self.bootstrap = BootstrapConfig(draws=100)

    def pictures(self, family: str, class_word: str) -> dict[str, ImageSet]:
        """Both concepts' curated sets."""
        raw = {"character": RAW / "characters" / family, "style": RAW / "styles" / STYLE}
        word = {"character": class_word, "style": self.shop.words["style"]["class_word"]}
        return {c: self.shop.pictures(c, raw[c], word[c]) for c in CONCEPTS}

    def lessons(self, pair: Pair, images: dict[str, ImageSet], variant: str) -> dict[str, Lesson]:
        """What is learned in a variant."""
        recipes = {c: self.shop.recipe(c, variant) for c in CONCEPTS}
        words = {"character": pair.character, "style": pair.style}
        return {
            c: Lesson(c, images[c], r.spec, r.config, {"trigger": words[c].trigger})
            for c, r in recipes.items()
        }

    def open(self, pair: Pair, folder: Path, at_once: int | None = None) -> Workshop:
        """A workshop for sweeps of a pair, its bank and pictures below a folder."""
        images = self.pictures(pair.family, pair.character.class_word)
        opened = {c: tuple(picture.open() for picture in images[c]) for c in CONCEPTS}
        return Workshop(
            base=self.shop.base,
            lessons=self.lessons(pair, images, self.sweep["variant"]),
            panel=self.panel,
            references=References(**opened),
            bank=Bank(folder / "bank"),
            pictures=folder / "pictures",
            bootstrap=self.bootstrap,
            at_once=at_once or self.sweep["at_once"],
        )

    def brief(self, pair: Pair, first_seed: int) -> tuple[Brief, list[Question]]:
        """The sweep's own prompts."""
        templates = tuple(self.sweep["prompts"])
        each = self.sweep["pictures_per_prompt"]
        firsts = range(first_seed, first_seed + each * len(templates), each)
        seeds = tuple(tuple(range(first, first + each)) for first in firsts)
        plain = fill_all(templates, "base", pair.character, pair.style)
        return self._brief(pair, templates, seeds), [Question(text) for text in plain]

    def held_out(self, pair: Pair) -> tuple[Brief, list[Question]]:
        """Expressions that neither adapter saw, with their true pictures."""
        return self._brief(pair, pair.templates, tuple(self.shop.seeds)), list(pair.questions)

    def _brief(self, pair: Pair, templates: tuple[str, ...], seeds: Seeds) -> Brief:
        return Brief(templates, seeds, pair.character, pair.style, self.sampling)

    def study(self, shop: Workshop) -> Study:
        """The paper's, or three pairs of it."""
        specs = {c: shop.lessons[c].spec for c in CONCEPTS}
        if not self.quick:
            return named_study("paper", shop.blocks, **specs)
        few = [FULL_PAIR, Masks("all+mid:0", "all"), Masks("all", "out3"), Masks("mid", "out3")]
        return own_study("paper", few, shop.blocks, **specs)


@contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Wall time of a part."""
    began = time.perf_counter()
    yield
    seconds[name] = round(time.perf_counter() - began, 2)


def folder_of(setting: Setting) -> Path:
    """Where adapters and pictures of the studies, and results of finished parts, are kept."""
    key = configuration_hash(
        base=setting.shop.base.sha256,
        training={c: setting.shop.recipe(c, setting.sweep["variant"]).config for c in CONCEPTS},
        sampling=setting.sampling,
        sweep=setting.sweep,
        variants=setting.shop.variants,
    )
    return CACHE / key[:16]


def measure_study(setting: Setting) -> dict:
    """Wall times of the study, and of training a few of its masks one at a time.

    It begins with an empty bank, whatever an earlier run that was cut off left there.
    """
    pair = Pair.of(TIMED, setting.shop.words)
    folder, seconds = folder_of(setting) / "studies", {}
    shutil.rmtree(folder, ignore_errors=True)
    _warm_up(setting, pair)
    together = setting.open(pair, folder)
    study = setting.study(together)
    brief, questions = setting.brief(pair, setting.sweep["first_seed"])
    with timed(seconds, "train"):
        together.train(study.pairs)
    with timed(seconds, "sample_and_judge"):
        outcome = run_study(together, study, brief, questions)
    masks = {c: study.masks(c) for c in CONCEPTS}
    few = {c: masks[c][::EVERY] for c in CONCEPTS}
    with tempfile.TemporaryDirectory() as scratch:
        alone = setting.open(pair, Path(scratch), at_once=1)
        for c in CONCEPTS:
            with timed(seconds, f"train_{c}_one_at_a_time"):
                train_missing(alone.base, alone.lessons[c], few[c], alone.bank, at_once=1)
    singly = sum(
        seconds.pop(f"train_{c}_one_at_a_time") * len(masks[c]) / len(few[c]) for c in CONCEPTS
    )
    return {
        "masks": {c: len(masks[c]) for c in CONCEPTS},
        "masks_trained_alone": {c: len(few[c]) for c in CONCEPTS},
        "pairs": {"trained": len(outcome.trained), "ablated": len(outcome.ablated)},
        "at_once": together.at_once,
        "seconds": seconds
        | {
            "train_one_at_a_time": round(singly, 2),
            "study": seconds["train"] + seconds["sample_and_judge"],
            "study_one_at_a_time": round(singly + seconds["sample_and_judge"], 2),
        },
    }


def _warm_up(setting: Setting, pair: Pair) -> None:
    """Libraries load on first use, which is nobody's work."""
    with tempfile.TemporaryDirectory() as folder:
        shop = setting.open(pair, Path(folder))
        shop.lessons = {
            c: dataclasses.replace(x, config=dataclasses.replace(x.config, steps=11))
            for c, x in shop.lessons.items()
        }
        brief, _ = setting.brief(pair, 0)
        shop.train([FULL_PAIR])
        pictures = [p for _, p in shop.studio(brief).samples(shop.trained(FULL_PAIR))]
        setting.panel.look(pictures)


def measure_default_job(setting: Setting) -> dict[str, float]:
    """Seconds of `make run`'s work, without its processes, imports and loading of models."""
    pair = Pair.of(TIMED, setting.shop.words)
    shop, seconds, adapters = setting.shop, {}, {}
    images = setting.pictures(pair.family, pair.character.class_word)
    compared = parameters("variants")["compare"]
    with timed(seconds, "train"), tempfile.TemporaryDirectory() as scratch:
        bank = Bank(Path(scratch))
        for variant in compared:
            lessons = setting.lessons(pair, images, variant)
            for concept, lesson in lessons.items():
                mask = lesson.spec.blocks
                train_missing(shop.base, lesson, [mask], bank, at_once=1)
                adapters[variant, concept] = bank.entry(shop.base, lesson, mask).read()
    with timed(seconds, "sample"):
        samples = as_samples(shop.sample(pair, {}, ["base"], ""))
        for variant in compared:
            both = {c: adapters[variant, c] for c in CONCEPTS}
            made = shop.sample(pair, both, ["character", "style", "both"], variant)
            samples += as_samples(made)
    opened = {c: tuple(picture.open() for picture in images[c]) for c in CONCEPTS}
    with timed(seconds, "judge"):
        evaluate(setting.panel, samples, pair.questions, References(**opened), setting.bootstrap)
    return seconds


def search_pair(setting: Setting, family: str) -> dict:
    """Search, study, and both recommendations on held-out prompts and seeds."""
    pair = Pair.of(family, setting.shop.words)
    studied = setting.open(pair, folder_of(setting) / "studies")
    brief, questions = setting.brief(pair, setting.sweep["first_seed"])
    outcome = run_study(studied, setting.study(studied), brief, questions)
    with tempfile.TemporaryDirectory() as folder:
        searched = setting.open(pair, Path(folder))
        found, single = _search(setting, searched, pair)
        chosen = {
            "search": (searched, found.recommended),
            "study": (studied, outcome.best),
            "all blocks": (studied, FULL_PAIR),
        }
        brief, questions = setting.held_out(pair)
        samples = _as(Row("base"), studied.studio(brief).base_samples())
        for name, (shop, masks) in chosen.items():
            samples += _as(Row(name, "both"), shop.studio(brief).samples(shop.trained(masks)))
    judged = judge(setting.panel, samples, questions, studied.references)
    return {
        "search": dataclasses.asdict(found.recommended),
        "study": dataclasses.asdict(outcome.best),
        "screened": len(found.screened),
        "finalists": len(found.trained),
        "search_seconds": found.seconds,
        "in_single_trainings": found.seconds / single,
        "scores": {
            name: {s: judged.scores(Row(name, "both"), s).values.tolist() for s in SHOWN}
            for name in COMPARED
        },
    }


def _search(setting: Setting, shop: Workshop, pair: Pair) -> tuple[Found, float]:
    """The search, and the mean seconds of one full adapter's training."""
    wanted = setting.sweep["search"]
    specs = {c: shop.lessons[c].spec for c in CONCEPTS}
    search = Search(
        shop,
        Space.of(shop.blocks, specs, wanted["ranks"]),
        open_study(pair.family, None, 0),
        *setting.brief(pair, wanted["first_seed"]),
        Budget(wanted["trainings"], wanted["screening"], wanted["finalists"]),
    )
    found = search.run(*setting.held_out(pair))
    return found, float(np.mean([shop.entry(c, "all").cost.seconds for c in CONCEPTS]))


def _as(row: Row, made: SampleSet) -> list[Sample]:
    return [Sample(row, r.prompt_index, r.seed, picture) for r, picture in made]


def summarise_search(families: dict[str, dict]) -> dict:
    """Scores of what search and study recommend, over all families."""

    def row(name: str, score: str, only: str | None = None) -> Scores:
        """Of all families; prompts of different families are different clusters."""
        tables = [t["scores"][name][score] for f, t in families.items() if only in (None, f)]
        values = np.concatenate([np.array(table, dtype=float) for table in tables])
        return Scores(tuple(range(len(values))), tuple(range(values.shape[1])), values)

    def bounds(scores: Scores) -> dict[str, float]:
        return dev_pairs.vars_of(interval(scores, np.random.default_rng(0)))

    return {
        "families": {f: {k: v for k, v in t.items() if k != "scores"} for f, t in families.items()},
        "scores": {name: {s: bounds(row(name, s)) for s in SHOWN} for name in COMPARED},
        "by_family": {
            family: {name: bounds(row(name, "combined", family)) for name in COMPARED}
            for family in families
        },
        "differences": {
            f"{a} - {b}": {s: bounds(row(a, s) - row(b, s)) for s in SHOWN} for a, b in DIFFERENCES
        },
    }
