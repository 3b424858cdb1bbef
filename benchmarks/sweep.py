"""What does the `paper` study cost, and does the search find as good a pair of masks?

    python benchmarks/sweep.py                          # about 75 minutes on one core
    python benchmarks/sweep.py --make-run-seconds 290 --study-seconds 900
    python benchmarks/sweep.py --quick                  # shows that it works, in minutes

Study: wall time of the cat's `paper` study with many masks in a pass beside that of `make run`.
What it takes one mask at a time is reckoned from every eighth mask; sampling and judging are the
same work for any number of masks in a pass, so they are timed once. By itself the script times work
alone, of `make run` that of its three variants. The two options tell what the whole commands took:
`make run` in a fresh clone, then `kedro run --pipelines sweep` there, with nothing beside them;
their ratio is reported, too. Search: for each dev pair, the pair of masks that the search
recommends against the best one of the `paper` study; both were chosen on the sweep's own prompts
and are compared on held-out expressions and seeds.

A run that was cut off goes on at the part where it stood: what is finished is kept in the user's
cache folder until parameters or base model change, or --anew is given. Results go to
benchmarks/results/sweep.{json,md}. Only the plain library is needed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from dev_pairs import RESULTS, STYLE
from sweeping import (
    COMPARED,
    EVERY,
    SHOWN,
    Setting,
    folder_of,
    measure_default_job,
    measure_study,
    search_pair,
    summarise_search,
)

from blockwise_lora.atomic import write_text

FAMILIES = ("cat", "cloud", "hand", "heart")
TARGET = 4.0
"""Most that the study may take, in times of `make run`."""


def page(result: dict) -> str:
    """The results as Markdown."""
    lines = ["# Sweep and search", ""]
    lines += [f"Base model {result['base'][:12]}, {result['threads']} threads.", ""]
    lines += [f"Command: `{result['command']}`", ""]
    lines += _study_lines(result["study"]) + _search_lines(result["search"], result["seeds"])
    return "\n".join(lines) + "\n"


def _study_lines(study: dict) -> list[str]:
    masks, pairs = study["masks"], study["pairs"]
    lines = ["## The `paper` study", ""]
    lines += [
        f"Cat in {STYLE}: {masks['character']} masks of the character, {masks['style']} of the "
        f"style, {pairs['trained']} trained pairs and {pairs['ablated']} ablated ones; "
        f"{study['at_once']} masks in a pass. One at a time is reckoned from every {EVERY}th mask "
        f"({sum(study['masks_trained_alone'].values())} trainings). `make run` is its work, "
        "without processes and loading, where nothing else is said. The commands are `make run` in "
        "a fresh clone and `kedro run --pipelines sweep` after it, as timed by whoever ran them.",
        "",
        "| | wall time, s |",
        "|---|---|",
    ]
    lines += [f"| study: {k.replace('_', ' ')} | {v:.1f} |" for k, v in study["seconds"].items()]
    lines += [f"| make run | {study['reference']:.1f} |", "", "| ratio | |", "|---|---|"]
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


class Parts:
    """Results of finished parts in a file; the others are made.

    Args:
        path: of the file; None: everything is made.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        known = path is not None and path.exists()
        self._known = json.loads(path.read_text()) if known else {}

    def get(self, name: str, make: Callable[[], dict]) -> dict:
        """A part's result."""
        if name not in self._known:
            began = time.perf_counter()
            self._known[name] = make()
            print(f"{name}: {time.perf_counter() - began:.0f} s", flush=True)
            if self._path:
                write_text(self._path, json.dumps(self._known))
        return self._known[name]


def with_ratios(study: dict, default: dict, commands: tuple[float, float] | None) -> dict:
    """The study beside `make run`: work alone, and whole commands where their seconds are told."""
    reference, seconds = sum(default.values()), study["seconds"]
    ratios = {
        "study / make run, work alone": seconds["study"] / reference,
        "one at a time / make run, work alone": seconds["study_one_at_a_time"] / reference,
        "one at a time / study": seconds["study_one_at_a_time"] / seconds["study"],
        "training one at a time / together": seconds["train_one_at_a_time"] / seconds["train"],
    }
    if commands:
        make_run, whole = commands
        told = {"make run, the command": make_run, "study, the command": whole}
        seconds = seconds | told
        ratios = {"study / make run, the commands": whole / make_run} | ratios
    return study | {"reference": reference, "seconds": seconds, "ratios": ratios}


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--families", nargs="+", default=list(FAMILIES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3])
    parser.add_argument("--make-run-seconds", type=float, help="wall time of a whole `make run`")
    parser.add_argument("--study-seconds", type=float, help="of `kedro run --pipelines sweep`")
    parser.add_argument("--anew", action="store_true", help="forget what earlier runs finished")
    parser.add_argument("--quick", action="store_true", help="few steps; nothing is written")
    options = parser.parse_args()
    setting = Setting(options.seeds[:1] if options.quick else options.seeds, options.quick)
    folder = folder_of(setting)
    if options.anew or options.quick:
        shutil.rmtree(folder, ignore_errors=True)
    parts = Parts(None if options.quick else folder / "parts.json")
    result = {"base": setting.shop.base.sha256, "threads": torch.get_num_threads()}
    study = parts.get("study", lambda: measure_study(setting))
    default = parts.get("make run", lambda: measure_default_job(setting))
    told = options.make_run_seconds, options.study_seconds
    if any(told) != all(told):
        parser.error("--make-run-seconds and --study-seconds go together")
    result["study"] = with_ratios(study, default, told if all(told) else None)
    result["command"] = " ".join(("python benchmarks/sweep.py", *sys.argv[1:]))
    families = options.families[:2] if options.quick else options.families
    seeds = result["seeds"] = setting.shop.seeds
    found = {f: parts.get(f"{f} {seeds}", lambda f=f: search_pair(setting, f)) for f in families}
    result["search"] = summarise_search(found)
    if not options.quick:
        write_text(RESULTS / "sweep.json", json.dumps(result, indent=2) + "\n")
        write_text(RESULTS / "sweep.md", page(result))
    print(page(result))


if __name__ == "__main__":
    main()
