"""How fast is the trainer, beside diffusers' way, by mask, and with eight adapters in one pass?

    OMP_NUM_THREADS=1 python benchmarks/training.py              # the embedded model, on a CPU
    python benchmarks/training.py --device cuda --model sd15-random --dtype bfloat16

Everything is measured in turn, round after round, in one process; ratios are medians of the
rounds' ratios. On a CPU with one thread the clock is the process's own, so that other work on the
machine counts little. Memory is the device's peak on CUDA, and on a CPU what is kept for the
backward pass.
`sd15-random` has SD 1.5's structure and random weights. Only the plain library is needed. Results
go to benchmarks/results/training_MODEL_DEVICE.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from pathlib import Path

import torch
from measuring import GROUP, Bench, against_diffusers, by_mask, many_at_once
from subjects import EMBEDDED, random_sd15, write_pictures

from blockwise_lora.atomic import write_text
from blockwise_lora.diffusion.base import load_base
from blockwise_lora.diffusion.graphs import has_graphs

METHODS = ("lora", "locon")
RESULTS = Path(__file__).resolve().parent / "results"


def page(result: dict) -> str:
    """The results as Markdown, as far as they go."""
    about = result["about"]
    lines = ["# Training speed", "", *(f"- {key}: {value}" for key, value in about.items())]
    if "diffusers" in result:
        lines += [
            "",
            "## Beside diffusers' way",
            "",
            *_beside(result["diffusers"]),
        ]
    if "loss_difference" in result:
        difference = f"{result['loss_difference']:.1e}"
        lines += ["", f"Same loss from the same noise, to {difference} relative."]
    if "stages" in result:
        lines += ["", f"Where a step of batch {about['stage batch']} goes, in ms:", ""]
        lines += ["| part | ms |", "|---|---|"]
        lines += [f"| {name} | {ms:.1f} |" for name, ms in result["stages"].items()]
    if "masks" in result:
        lines += ["", "## Step time by mask, all blocks = 1", "", "| mask | time |", "|---|---|"]
        lines += [f"| {name} | {share:.2f} |" for name, share in result["masks"].items()]
    if "many" in result:
        lines += [
            "",
            f"## {about['adapters in one pass']} adapters in one pass over separate runs",
            "",
            f"Seeds: all blocks, noise of their own. Masks: {', '.join(GROUP)}; the same noise, so "
            "that blocks before the first trained one are shared.",
            "",
            "| batch | seeds | masks |",
            "|---|---|---|",
        ]
        lines += [
            f"| {r['batch']} | {r['seeds']:.2f}x | {r['masks']:.2f}x |" for r in result["many"]
        ]
    return "\n".join(lines) + "\n"


def _beside(rows: list[dict]) -> list[str]:
    """The table of both loops; on CUDA with what captured steps reach."""
    names = ["method", "batch", "ours, pictures/s", "diffusers' way", "speed", "memory of a step"]
    captured = "captured_ratio" in rows[0]
    names += ["with cuda_graphs, pictures/s", "speed"] if captured else []
    lines = ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
    for r in rows:
        cells = [r["method"], str(r["batch"])]
        cells += [f"{r[key]:.1f}" for key in ("ours_pictures_s", "diffusers_pictures_s")]
        cells += [f"{r[key]:.2f}x" for key in ("speed_ratio", "memory_ratio")]
        if captured:
            cells += [f"{r['captured_pictures_s']:.1f}", f"{r['captured_ratio']:.2f}x"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="embedded", help="embedded, sd15-random or a folder")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--batches", default="1,4,8", help="for the comparison with diffusers")
    parser.add_argument("--group-batches", default="1,2,4,8", help="for many adapters at once")
    parser.add_argument("--adapters", type=int, default=8, help="in one pass, at most 8")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--steps", type=int, default=6, help="timed steps of a measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write to")
    options = parser.parse_args()
    if options.model == "sd15-random":
        base = random_sd15(options.device, options.dtype)
    else:
        folder = EMBEDDED if options.model == "embedded" else options.model
        base = load_base(folder, options.device, options.dtype)
    batches, groups = (
        [int(n) for n in text.split(",")] for text in (options.batches, options.group_batches)
    )
    with tempfile.TemporaryDirectory() as scratch:
        images = write_pictures(Path(scratch) / "set", base.resolution)
        # The example trains attention layers alone; the paper's masks are for LoCon.
        lora, bench = (
            Bench(base, images, method, options.rank, options.steps) for method in METHODS
        )
        bench.ours(["all"], 1)  # warms up
        stage_batch = 4 if 4 in batches else batches[0]
        about = {
            "model": f"{base.name}, {base.resolution} px, {options.dtype}",
            "device": _device_name(base.device),
            "threads": torch.get_num_threads(),
            "clock": "process time" if bench.clock.of_process else "wall time",
            "load average": f"{os.getloadavg()[0]:.1f}",
            "torch": torch.__version__,
            "adapters": f"rank {options.rank}, all blocks; LoCon where nothing else is said",
            "measurement": f"{options.rounds} rounds of {options.steps} steps",
            "stage batch": stage_batch,
            "adapters in one pass": options.adapters,
        }
        if has_graphs(base.device):
            about["steps"] = "captured (efficiency.cuda_graphs) where nothing else is said"
        parts = {
            "loss_difference": lambda: bench.loss_difference(stage_batch),
            "diffusers": lambda: [
                row
                for each in (lora, bench)
                for row in against_diffusers(each, batches, options.rounds)
            ],
            "masks": lambda: by_mask(bench, stage_batch, options.rounds),
            "stages": lambda: bench.stages(stage_batch),
            "many": lambda: many_at_once(bench, groups, options.rounds, options.adapters),
        }
        name = options.results / f"training_{Path(options.model).name}_{base.device.type}"
        result = {"about": about}
        for part, measure in parts.items():  # written each time, should the machine be taken away
            result[part] = measure()
            write_text(f"{name}.json", json.dumps(result, indent=2) + "\n")
            write_text(f"{name}.md", page(result))
    print(page(result))


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    names = [x for x in info.read_text().splitlines() if "model name" in x] if info.exists() else []
    return names[0].split(": ")[1] if names else platform.processor()


if __name__ == "__main__":
    main()
