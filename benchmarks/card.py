"""Does the trainer keep its promises on a card, and what does it take there?

    python benchmarks/card.py                        # CUDA, about 10 minutes on a large card
    python benchmarks/card.py --parts checks         # one part anew; the others are kept

Correctness on the embedded model, where a CPU can be asked for the right answer; memory and the
price of each switch on models of SD 1.5's and SDXL's structure with random weights. Only the plain
library is needed. Results go to benchmarks/results/card.{json,md}, after each part.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

# cuBLAS reads it when it starts; the trainer sets it too, but then cuBLAS may run already.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch
from card_checks import GIB, Checks, Subject, configured
from subjects import random_sd15, random_sdxl, write_pictures

from blockwise_lora.adapters import AdapterSpec
from blockwise_lora.atomic import write_text
from blockwise_lora.diffusion.base import BaseModel
from blockwise_lora.diffusion.sampling import SamplingConfig, sample

RESULTS = Path(__file__).resolve().parent / "results"

SWITCHES: dict[str, dict[str, bool]] = {
    "as it is": {},
    "channels_last": {"channels_last": True},
    "gradient_checkpointing": {"gradient_checkpointing": True},
    "offload": {"offload": True},
    "deterministic": {"deterministic": True},
}
COMPILED: dict[str, dict[str, bool]] = {
    "as it is": {},
    "compile": {"compile": True},
    "compile, cuda_graphs": {"compile": True, "cuda_graphs": True},
}


def prices(subject: Subject, switched: dict[str, dict[str, bool]], steps: int) -> list[dict]:
    """Step time and memory of each switch at batch size 4."""
    rows = []
    for name, switches in switched.items():
        began = time.perf_counter()
        try:
            ms, peak, most = subject.cost(configured(steps, 4, **switches), [AdapterSpec(rank=16)])
        except Exception as error:  # the other rows shall still be measured
            traceback.print_exc()
            rows.append({"switch": name, "error": str(error).splitlines()[0]})
            continue
        row = {"switch": name, "ms": ms, "peak_gib": peak, "most_gib": most}
        rows.append(row | {"whole_s": round(time.perf_counter() - began, 1)})
        print(rows[-1], flush=True)
    return rows


def launches(subject: Subject, plan: Sequence[tuple[int, int]], steps: int) -> list[dict]:
    """What capturing the steps gains: adapters in a pass and batch size of each, in turn."""
    rows = []
    for adapters, batch in plan:
        row: dict = {"adapters": adapters, "batch": batch}
        for name, captured in (("plain", False), ("captured", True)):
            config = configured(steps, batch, cuda_graphs=captured)
            specs = [AdapterSpec(rank=16)] * adapters
            try:
                row[f"{name}_ms"] = subject.cost(config, specs)[0]
            except Exception as error:
                traceback.print_exc()
                row["error"] = str(error).splitlines()[0]
        rows.append(row)
        print(row, flush=True)
    return rows


def memory(subject: Subject, plan: Sequence[tuple[str, int, dict[str, bool]]]) -> list[dict]:
    """Peaks of some ways of training, in the order of `plan`: method, batch size, switches."""
    rows = []
    for method, batch, switches in plan:
        row = {"method": method, "batch": batch, "switches": ", ".join(switches)}
        spec = AdapterSpec(method=method, rank=16)
        try:
            ms, peak, most = subject.cost(configured(4, batch, **switches), [spec])
            row |= {"ms": ms, "peak_gib": peak, "most_gib": most}
        except Exception as error:
            row |= {"error": str(error).splitlines()[0]}
        rows.append(row)
        print(row, flush=True)
    return rows


SAVING = {"gradient_checkpointing": True, "offload": True}
LAUNCHES = [(1, 1), (1, 2), (1, 4), (1, 8), (8, 1), (8, 4)]
SD15_PLAN = [
    ("lora", 1, {"offload": True}),
    ("lora", 2, {"offload": True}),
    ("lora", 4, {"offload": True}),
    ("lora", 16, {"offload": True}),
    ("locon", 1, {"offload": True}),
    ("lora", 1, SAVING),
    ("lora", 2, SAVING),
    ("lora", 8, SAVING),
    ("full", 1, SAVING),
]
SDXL_PLAN = [
    ("lora", 1, SAVING),
    ("lora", 4, SAVING),
    ("locon", 1, SAVING),
    ("lora", 1, {"offload": True}),
    ("lora", 3, {"offload": True}),
]


def page(result: dict) -> str:
    """The results as Markdown."""
    lines = ["# On a card", "", *(f"- {key}: {text}" for key, text in result["about"].items()), ""]
    lines += ["| what has to hold | holds | found |", "|---|---|---|"]
    for row in result.get("checks", []):
        holds = "yes" if row["holds"] else "**no**"
        lines.append(f"| {row['check'].replace('_', ' ')} | {holds} | {row['found']} |")
    title = "SD 1.5, 512 px, LoRA of rank 16, bfloat16, batch 4"
    for part, name in (("switches", "Switches"), ("compile", "Compiled")):
        if part in result:
            lines += ["", f"## {name}: {title}", "", *_prices(result[part])]
    if "graphs" in result:
        lines += ["", "## Captured steps: SD 1.5, 512 px, LoRA of rank 16, bfloat16", ""]
        lines += _launches(result["graphs"])
    for title, rows in result.get("memory", {}).items():
        lines += ["", f"## Memory: {title}, rank 16, bfloat16", "", *_memory(rows)]
    if "sampling_s" in result:
        lines += ["", "Sampling, SD 1.5, 512 px, 25 steps with guidance, 4 at once: "]
        lines[-1] += f"{result['sampling_s']:.2f} s a picture."
    return "\n".join(lines) + "\n"


def _prices(rows: Sequence[dict]) -> list[str]:
    lines = [
        "| switch | time of a step | GiB in a step | with the start, GiB | with the start, s |"
    ]
    lines.append("|---" * 5 + "|")
    plain = next((row["ms"] for row in rows if "ms" in row), 1.0)
    for row in rows:
        if "error" in row:
            lines.append(f"| {row['switch']} | {row['error']} | | | |")
            continue
        memory = f"{row['peak_gib']:.1f} | {row['most_gib']:.1f}"
        share = row["ms"] / plain
        lines.append(f"| {row['switch']} | {share:.2f} | {memory} | {row['whole_s']:.0f} |")
    return lines


def _launches(rows: Sequence[dict]) -> list[str]:
    lines = [
        "| adapters | batch | ms a step | captured | gain |",
        "|---" * 5 + "|",
    ]
    for row in rows:
        if "error" in row:
            cells = f"{row['error']} | |"
        else:
            plain, captured = row["plain_ms"], row["captured_ms"]
            cells = f"{plain:.0f} | {captured:.0f} | {plain / captured:.2f}x"
        lines.append(f"| {row['adapters']} | {row['batch']} | {cells} |")
    return lines


def _memory(rows: Sequence[dict]) -> list[str]:
    lines = ["| method | batch | switches | GiB in a step | with the start, GiB | ms a step |"]
    lines.append("|---" * 6 + "|")
    for row in rows:
        if "error" in row:
            cells = f"{row['error']} | |"
        else:
            cells = f"{row['peak_gib']:.1f} | {row['most_gib']:.1f} | {row['ms']:.0f}"
        lines.append(f"| {row['method']} | {row['batch']} | {row['switches']} | {cells} |")
    return lines


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--parts", default="checks,graphs,sd15,sdxl,compile", help="which of these")
    parser.add_argument("--checks", default="", help="names of those to make; all if empty")
    parser.add_argument("--steps", type=int, default=10, help="of a timed training")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write to")
    options = parser.parse_args()
    parts = options.parts.split(",")
    file = options.results / "card.json"
    result = json.loads(file.read_text()) if file.exists() else {}
    card = torch.cuda.get_device_properties(0)
    result["about"] = {
        "card": f"{card.name}, {card.total_memory / GIB:.0f} GiB",
        "torch": torch.__version__,
        "GiB": "of tensors alive at once; the allocator's reserve and CUDA itself come on top",
    }

    def keep(part: str, found: object) -> None:
        result[part] = found
        write_text(file, json.dumps(result, indent=2) + "\n")
        write_text(options.results / "card.md", page(result))

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if "checks" in parts:
            keep("checks", Checks(folder).run(options.checks.split(",") if options.checks else ()))
        if {"graphs", "sd15", "compile"} & set(parts):
            subject = Subject(random_sd15("cuda", "bfloat16"), write_pictures(folder / "512", 512))
            if "graphs" in parts:
                keep("graphs", launches(subject, LAUNCHES, options.steps))
            if "sd15" in parts:
                found = {"SD 1.5, 512 px": memory(subject, SD15_PLAN)}
                keep("memory", result.get("memory", {}) | found)
                keep("switches", prices(subject, SWITCHES, options.steps))
                keep("sampling_s", seconds_a_picture(subject.base))
            if "compile" in parts:
                keep("compile", prices(subject, COMPILED, options.steps))
            del subject
        if "sdxl" in parts:
            subject = Subject(random_sdxl("cuda", "bfloat16"), write_pictures(folder / "xl", 1024))
            found = {"SDXL, 1024 px": memory(subject, SDXL_PLAN)}
            keep("memory", result.get("memory", {}) | found)
    print(page(result))


def seconds_a_picture(base: BaseModel, count: int = 4) -> float:
    """Sampling at 512 px; the first time warms up."""
    config = SamplingConfig(25, 7.0, batch_size=count)
    for _ in range(2):
        torch.cuda.synchronize()
        began = time.perf_counter()
        sample(base, ["zkc cat face"] * count, [0] * count, config)
    return (time.perf_counter() - began) / count


if __name__ == "__main__":
    main()
