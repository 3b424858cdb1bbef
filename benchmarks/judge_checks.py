"""What are the judge's three checks worth? Outliers, marks and look-alikes planted among emoji.

    python benchmarks/judge_checks.py                                # the embedded judge
    python benchmarks/judge_checks.py --judge ViT-B-32/openai        # or any other

A set is one dev family in one hand (cat, 10 expressions, by Noto). Planted into it, one at a time:
a drawing of another family or a look-alike (outlier), writing over its own drawings (marked), and
changed copies of them (alike). The curation itself scores all pictures; families cloud, hand and
heart are for choosing limits, cat and moon are held out. Sealed families and sets are not looked
at. Results: benchmarks/results/judge_checks.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from planted import CHANGES
from platformdirs import user_cache_path

from blockwise_lora.atomic import write_text
from blockwise_lora.emoji.corpus import _drawings, render
from blockwise_lora.emoji.splits import load_splits
from blockwise_lora.imagesets import CurationConfig, screen_folder
from blockwise_lora.imagesets.config import Check, Checks, DuplicateRules
from blockwise_lora.judges.clip import ClipJudge, load_clip

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SETS = ("noto", "noto-v1", "twemoji", "emojione", "emojione-v1", "openmoji")
HALVES = {"tuning": ("cloud", "hand", "heart"), "held out": ("cat", "moon")}
# Limits that find fault with everything, so that the score of every picture is told.
EVERYTHING = {"outlier": Check(1e9), "marked": Check(-1e9), "alike": Check(-1.0)}
OFF = {name: Check(check.limit, "off") for name, check in EVERYTHING.items()}
DEFAULTS = {"outlier": Checks.outlier, "marked": Checks.marked, "alike": Checks.alike}
Drawings = dict[tuple[str, str], dict[str, Image.Image]]


@dataclass(frozen=True)
class Case:
    """Scores of what was planted and of what belongs there; higher is more faulty."""

    check: str
    kind: str
    half: str
    planted: list[float]
    own: list[float]

    def rates(self, limit: float) -> tuple[float, float]:
        """Detection and false alarms at a limit."""
        return tuple(float(np.mean(np.array(s) >= limit)) for s in (self.planted, self.own))

    @property
    def area(self) -> float:
        """How often a planted one scores above one that belongs: 0.5 is chance."""
        difference = np.subtract.outer(self.planted, self.own)
        return float((difference > 0).mean() + (difference == 0).mean() / 2)


def drawings(packages: Path) -> tuple[Drawings, Drawings]:
    """Members and look-alikes of the dev families, by family and set."""
    families = [f for f in load_splits().families.values() if f.role == "dev"]
    members: Drawings = {}
    lookalikes: Drawings = {}
    for emoji, svg in _drawings(packages):
        for family in families if emoji.set_name in SETS else ():
            for codes, found in ((family.members, members), (family.lookalikes, lookalikes)):
                if emoji.code in codes:
                    image = Image.fromarray(render(svg))
                    found.setdefault((family.name, emoji.set_name), {})[emoji.code] = image
    return members, lookalikes


def scores(judge: ClipJudge, pictures: list[Image.Image], *asked: str) -> list[dict[str, float]]:
    """What the curation says of each picture, by check; all are asked if none is named."""
    limits = EVERYTHING if not asked else OFF | {name: EVERYTHING[name] for name in asked}
    config = CurationConfig(
        upscale=True, duplicates=DuplicateRules(near=False), checks=Checks(**limits)
    )
    with tempfile.TemporaryDirectory() as folder:
        for number, picture in enumerate(pictures):
            picture.save(Path(folder, f"{number:03}.png"))
        screening = screen_folder(folder, config, judge=judge)
    found = []
    for screened in screening.pictures:
        flags = re.findall(r"(\w+) \(([^)]+)\)", "; ".join(screened.verdict.flags))
        found.append({name: float(number) for name, number in flags})
    # The outlier's score falls the worse it is.
    return [f | {"outlier": -f["outlier"]} if "outlier" in f else f for f in found]


def with_writing(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Three lines of letters in black across the picture."""
    marked, side = image.copy(), image.width
    pen, font = ImageDraw.Draw(marked), ImageFont.load_default(side // 5)
    for line in range(3):
        text = "".join(rng.choice(list("ABCDEFGHIKLMNOPRSTUVW"), 6))
        pen.text((2, side * (0.08 + 0.3 * line)), text, (0, 0, 0), font)
    return marked


MARKS = {"watermark": CHANGES["watermark"], "writing": with_writing}


def cases(judge: ClipJudge, packages: Path, seed: int) -> Iterator[Case]:
    """Everything that is measured."""
    members, lookalikes = drawings(packages)
    for half, families in HALVES.items():
        sets = {key: list(found.values()) for key, found in members.items() if key[0] in families}
        plain = {key: scores(judge, pictures) for key, pictures in sets.items()}
        yield from outliers(judge, half, sets, plain, members, lookalikes, seed)
        yield from marked(judge, half, sets, plain, seed)
        yield from alike(judge, half, sets, plain, seed)


def outliers(judge, half, sets, plain, members, lookalikes, seed) -> Iterator[Case]:
    """One drawing of another kind at a time, in the same hand."""
    rng = np.random.default_rng(seed)
    found: dict[str, list[float]] = {"another family": [], "a look-alike": []}
    own = [s["outlier"] for scored in plain.values() for s in scored if "outlier" in s]
    for (family, hand), pictures in sets.items():
        others = [
            i for (f, h), p in members.items() if h == hand and f != family for i in p.values()
        ]
        near = list(lookalikes.get((family, hand), {}).values())
        for kind, pool in zip(found, (others, near), strict=True):
            for index in rng.permutation(len(pool))[:4]:
                last = scores(judge, [*pictures, pool[index]], "outlier")[-1]
                found[kind] += [last["outlier"]] if "outlier" in last else []
    for kind, values in found.items():
        yield Case("outlier", kind, half, values, own)


def marked(judge, half, sets, plain, seed) -> Iterator[Case]:
    """One marked drawing at a time among clean ones; where the judge cannot tell, nothing is found.

    The marks are other ones than those that the check shows the judge.
    """
    own = [score.get("marked", 0.0) for found in plain.values() for score in found]
    for kind, mark in MARKS.items():
        rng, found = np.random.default_rng(seed), []
        for pictures in sets.values():
            for place in rng.permutation(len(pictures))[:4]:
                mixed = list(pictures)
                mixed[place] = mark(mixed[place], rng)
                found.append(scores(judge, mixed, "marked")[place].get("marked", 0.0))
        yield Case("marked", kind, half, found, own)


def alike(judge, half, sets, plain, seed) -> Iterator[Case]:
    """Changed copies beside their originals, against expressions of one face."""
    own = [score["alike"] for found in plain.values() for score in found[1:]]
    for kind, change in CHANGES.items():
        rng, copies = np.random.default_rng(seed), []
        for pictures in sets.values():
            few = pictures[:4]
            together = few + [change(picture, rng) for picture in few]
            copies += [score["alike"] for score in scores(judge, together, "alike")[len(few) :]]
        yield Case("alike", kind, half, copies, own)


def limits_of(found: list[Case], most: float) -> dict[str, float]:
    """For each check the lowest limit with at most so many false alarms in the tuning half."""
    limits = {}
    for case in found:
        if case.half == "tuning":
            limits[case.check] = float(np.quantile(case.own, 1 - most, method="higher")) + 1e-4
    return limits


def markdown(found: list[Case], chosen: dict[str, float], judge: str, most: float) -> str:
    """The table for people."""
    lines = [
        "# The judge's checks",
        "",
        f"`python benchmarks/judge_checks.py`, judge {judge}. Area: how often a planted picture",
        "scores worse than one that belongs (0.5 is chance). Chosen: the limit with at most",
        f"{most:.0%} false alarms in the tuning half.",
        "",
        "| check | planted | half | planted, own | area | limit | found | false alarms "
        "| chosen limit | found | false alarms |",
        "|---" * 11 + "|",
    ]
    for case in found:
        sign = -1 if case.check == "outlier" else 1
        default, new = DEFAULTS[case.check].limit, sign * chosen[case.check]
        row = [case.check, case.kind, case.half, f"{len(case.planted)}, {len(case.own)}"]
        row += [f"{case.area:.2f}", f"{default:g}", *_rates(case, sign * default)]
        row += [f"{new:.4g}", *_rates(case, sign * new)]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines) + "\n"


def _rates(case: Case, limit: float) -> list[str]:
    return [f"{rate:.2f}" for rate in case.rates(limit)]


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--judge", default=str(ROOT / "data" / "06_models" / "judges" / "clip"))
    parser.add_argument("--false-alarms", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=3)
    options = parser.parse_args()
    packages = user_cache_path("blockwise_lora") / "pretraining" / "packages"
    judge = load_clip(options.judge)
    found = list(cases(judge, packages, options.seed))
    chosen = limits_of(found, options.false_alarms)
    name = Path(options.judge).name if Path(options.judge).is_dir() else options.judge
    text = markdown(found, chosen, name, options.false_alarms)
    print(text)
    write_text(RESULTS / "judge_checks.md", text)
    rows = [vars(case) | {"area": case.area} for case in found]
    write_text(
        RESULTS / "judge_checks.json", json.dumps({"chosen": chosen, "cases": rows}, indent=1)
    )


if __name__ == "__main__":
    main()
