"""What does the `paper` study cost, and does the search find as good a pair of masks?

    python benchmarks/sweep.py                  # both, hours on two cores
    python benchmarks/sweep.py --only study --make-run-seconds 300
    python benchmarks/sweep.py --quick          # shows that it works; its numbers mean nothing

Study: wall time of the cat's `paper` study with many masks in a pass, and with one, beside the
training, sampling and judging of `make run`'s three variants. Sampling and judging are the same
work for any number of masks in a pass, so they are timed once. Search: for each dev pair, the pair
of masks that the search recommends against the best one of the `paper` study; both were chosen on
the sweep's own prompts and are compared on held-out expressions and seeds. What the study made for
the second part stays in the user's cache folder; the search always starts anew, since its price is
part of the result. Results go to benchmarks/results/sweep.{json,md}. Only the plain library is
needed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

import numpy as np
import torch
from dev_pairs import RESULTS, STYLE
from sweeping import COMPARED, SHOWN, Setting, measure_search, measure_study

from blockwise_lora.atomic import write_text

FAMILIES = ("cat", "cloud", "hand", "heart")
TARGET = 4.0
"""Most that the study may take, in times of `make run`."""


def page(result: dict) -> str:
    """The results as Markdown."""
    lines = ["# Sweep and search", ""]
    lines += [f"Base model {result['base'][:12]}, {result['threads']} threads.", ""]
    lines += ["Command: `python benchmarks/sweep.py`", ""]
    if "study" in result:
        lines += _study_lines(result["study"])
    if "search" in result:
        lines += _search_lines(result["search"], result["seeds"])
    return "\n".join(lines) + "\n"


def _study_lines(study: dict) -> list[str]:
    masks, pairs, told = study["masks"], study["pairs"], study["make_run"]["told"]
    default = study["make_run"]["measured"]
    lines = ["## The `paper` study", ""]
    lines += [
        f"Cat in {STYLE}: {masks['character']} masks of the character, {masks['style']} of the "
        f"style, {pairs['trained']} trained pairs and {pairs['ablated']} ablated ones; "
        f"{study['at_once']} masks in a pass. `make run` is "
        + (f"{told:.0f} s, as told." if told else "its work alone, without processes and loading."),
        "",
        "| | wall time, s |",
        "|---|---|",
    ]
    lines += [f"| study: {k.replace('_', ' ')} | {v:.1f} |" for k, v in study["seconds"].items()]
    lines += [f"| default job: {k} | {v:.1f} |" for k, v in default.items()]
    lines += ["", "| ratio | |", "|---|---|"]
    lines += [f"| {k} | {v:.2f} |" for k, v in study["ratios"].items()]
    return [*lines, "", f"Target: study / make run at most {TARGET:g}.", ""]


def _search_lines(search: dict, seeds: Sequence[int]) -> list[str]:
    lines = ["## The search against the best pair of the `paper` study", ""]
    lines += [
        f"{', '.join(search['families'])} in {STYLE}; held-out expressions, seeds {list(seeds)}; "
        "95% intervals clustered by prompt. Combined: harmonic mean of identity and style of each "
        "picture, base 0 and pictures learned from 1.",
        "",
        "| | " + " | ".join(SHOWN) + " |",
        "|---" * (len(SHOWN) + 1) + "|",
    ]
    tables = search["scores"] | search["differences"]
    for name, scores in tables.items():
        sign = "+" if name in search["differences"] else ""
        lines.append(f"| {name} | " + " | ".join(_cell(scores[s], sign) for s in SHOWN) + " |")
    lines += ["", "| pair | " + " | ".join(f"{n}: combined" for n in COMPARED) + " |"]
    lines.append("|---" * (len(COMPARED) + 1) + "|")
    for family, scores in search["by_family"].items():
        lines.append(f"| {family} | " + " | ".join(_cell(scores[n]) for n in COMPARED) + " |")
    lines += ["", "| pair | search | study | price in single trainings |", "|---|---|---|---|"]
    for family, told in search["families"].items():
        masks = (f"{told[n]['character']} / {told[n]['style']}" for n in ("search", "study"))
        lines.append(f"| {family} | {' | '.join(masks)} | {told['in_single_trainings']:.1f} |")
    return lines


def _cell(by: dict, sign: str = "") -> str:
    if np.isnan(by["mean"]):
        return ""
    return f"{by['mean']:{sign}.3f} ({by['low']:{sign}.3f} to {by['high']:{sign}.3f})"


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("study", "search"))
    parser.add_argument("--families", nargs="+", default=list(FAMILIES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3])
    parser.add_argument("--make-run-seconds", type=float, help="wall time of a whole `make run`")
    parser.add_argument("--quick", action="store_true", help="few steps; nothing is written")
    options = parser.parse_args()
    setting = Setting(options.seeds[:1] if options.quick else options.seeds, options.quick)
    path = RESULTS / "sweep.json"
    # The parts take hours and may be run one by one.
    known = json.loads(path.read_text()) if path.exists() and not options.quick else {}
    result = known | {"base": setting.shop.base.sha256, "threads": torch.get_num_threads()}
    if options.only != "search":
        result["study"] = measure_study(setting, options.make_run_seconds)
    if options.only != "study":
        families = options.families[:2] if options.quick else options.families
        result["search"] = measure_search(setting, families)
        result["seeds"] = setting.shop.seeds
    if not options.quick:
        write_text(path, json.dumps(result, indent=2) + "\n")
        write_text(RESULTS / "sweep.md", page(result))
    print(page(result))


if __name__ == "__main__":
    main()
