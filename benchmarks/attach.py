"""How long it takes to attach an adapter with a mask to a U-Net of Stable Diffusion 1.5's size.

The U-Net is on the meta device: no weights, which is how a mask is tried out before anything is
downloaded. The adapter's own initial values are made all the same.
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel

from blockwise_lora.adapters import AdapterSpec, attach, detach
from blockwise_lora.atomic import write_text

RESULTS = Path(__file__).resolve().parent / "results"
SD15 = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
"""Where SD 1.5's U-Net differs from the class's defaults."""
TARGET_S = 3.0
"""What one waits for without wondering."""
MASKS = {
    "lora, all blocks": AdapterSpec("all", "lora", 16),
    "lora, in0 and mid skipped": AdapterSpec("all+in0:0+mid:0", "lora", 16),
    "locon, all blocks": AdapterSpec("all", "locon", 16),
    "locon, in0 and mid skipped, out3 at rank 4": AdapterSpec(
        "all+in0:0+mid:0+out3:4", "locon", 16
    ),
    "dora, with convolutions": AdapterSpec("all", "dora", 16, conv=True),
    "loha, with convolutions": AdapterSpec("all", "loha", 16, conv=True),
    "lokr, with convolutions": AdapterSpec("all", "lokr", 16, conv=True),
    "oft": AdapterSpec("all", "oft", 16),
}


def measure(spec: AdapterSpec, repeats: int) -> dict[str, float]:
    """Attach and detach an adapter; medians over the repeats."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**SD15)
    attaching, working, detaching = [], [], []
    for seed in range(repeats):
        start, work = time.perf_counter(), time.process_time()
        attached = attach(unet, spec, "a", torch.Generator().manual_seed(seed))
        middle = time.perf_counter()
        working.append(time.process_time() - work)
        detach(unet, "a")
        attaching.append(middle - start)
        detaching.append(time.perf_counter() - middle)
    return {
        "layers": len(attached.ranks),
        "values": sum(attached.blocks.values()),
        "attach_s": statistics.median(attaching),
        "attach_cpu_s": statistics.median(working),
        "detach_s": statistics.median(detaching),
    }


def table(results: dict[str, dict[str, float]], arguments: argparse.Namespace) -> str:
    """The results as Markdown."""
    lines = [
        f"| {name} | {r['layers']} | {r['values']:,} | {r['attach_s']:.2f} s "
        f"| {r['attach_cpu_s']:.2f} s | {r['detach_s']:.2f} s |"
        for name, r in results.items()
    ]
    rows = "\n".join(lines)
    return f"""# Attaching to a U-Net of Stable Diffusion 1.5's size

On the meta device, rank 16, medians of {arguments.repeats}. \
{torch.get_num_threads()} thread(s) on {len(os.sched_getaffinity(0))} core(s), \
load average {os.getloadavg()[0]:.1f}, torch {torch.__version__}. Target: {TARGET_S:.0f} s.

Command: `python benchmarks/attach.py --repeats {arguments.repeats}`

| adapter | layers | values | attach | CPU time of it | detach |
|---|---|---|---|---|---|
{rows}
"""


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    results = {name: measure(spec, arguments.repeats) for name, spec in MASKS.items()}
    text = table(results, arguments)
    print(text)
    write_text(RESULTS / "attach.json", json.dumps(results, indent=1) + "\n")
    write_text(RESULTS / "attach.md", text)


if __name__ == "__main__":
    main()
