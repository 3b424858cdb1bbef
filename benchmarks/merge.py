"""How long does an SVD merge of two adapters of Stable Diffusion 1.5's size take?

    python benchmarks/merge.py                # two threads; rank 16 and 16 to 16
    python benchmarks/merge.py --threads 1

Two LoCons of all blocks with random values, of the shapes of SD 1.5's U-Net, which is built on the
meta device from the configuration below: no weights are loaded. The merge goes through the
factors. Peak memory is that of the whole process, and beside it how much of it the merge added.
Results go to benchmarks/results/merge.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel

from blockwise_lora.adapters import Adapter, AdapterSpec, LowRank, Plan
from blockwise_lora.adapters.merge import Sum, Svd, Weighted, merge
from blockwise_lora.atomic import write_text
from blockwise_lora.blocks import BlockMap

RESULTS = Path(__file__).resolve().parent / "results"
SD15 = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
"""Where SD 1.5's U-Net differs from the class's defaults."""
TARGET_S, TARGET_GIB = 10.0, 2.0
"""What a merge may cost so that nobody avoids it: a pause, on a laptop."""


def random_adapter(plan: Plan, seed: int) -> Adapter:
    """An adapter of the plan's layers with normal values in both factors."""
    generator = torch.Generator().manual_seed(seed)
    updates = {}
    for layer in plan.layers:
        like = layer.empty()
        down, up = (torch.randn(x.shape, generator=generator) for x in (like.down, like.up))
        updates[layer.name] = LowRank(down, up, layer.scale)
    homes = {layer.name: layer.sub_block for layer in plan.layers}
    return Adapter(updates, homes, None, {}, str(seed))


def peak_gib() -> float:
    """The process's largest memory so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure(rank: int, to: int) -> dict[str, float]:
    """Merge two adapters of a rank to a rank."""
    with torch.device("meta"):
        blocks = BlockMap.of(UNet2DConditionModel(**SD15))
    plan = Plan.of(blocks, AdapterSpec("all", "locon", rank=rank))
    pair = [Weighted(random_adapter(plan, seed=1)), Weighted(random_adapter(plan, seed=2), 0.8)]
    before = peak_gib()
    start = time.perf_counter()
    merged = merge(pair, Svd(to))
    seconds, after = time.perf_counter() - start, peak_gib()
    start = time.perf_counter()
    merge(pair, Sum())
    return {
        "layers": len(plan.layers),
        "values": sum(plan.parameters.values()),
        "seconds": seconds,
        "seconds_sum": time.perf_counter() - start,
        "peak_gib": after,
        "added_gib": after - before,
        "mean_error": sum(merged.errors.values()) / len(merged.errors),
    }


def table(result: dict[str, float], arguments: argparse.Namespace) -> str:
    """The results as Markdown."""
    return f"""# SVD merge at the size of Stable Diffusion 1.5

Two LoCons of rank {arguments.rank} over all blocks ({result["layers"]:,} layers, \
{result["values"]:,} values each, random), merged to rank {arguments.to} through the factors. \
{torch.get_num_threads()} thread(s) on {len(os.sched_getaffinity(0))} core(s), \
torch {torch.__version__}.

Command: `python benchmarks/merge.py --threads {torch.get_num_threads()}`

| | measured | target |
|---|---|---|
| SVD merge | {result["seconds"]:.1f} s | {TARGET_S:.0f} s |
| exact sum, for comparison | {result["seconds_sum"]:.1f} s | |
| peak memory of the process | {result["peak_gib"]:.2f} GiB | {TARGET_GIB:.0f} GiB |
| of that added by the merge | {result["added_gib"]:.2f} GiB | |
| mean relative error of a layer | {result["mean_error"]:.2f} | |

The error is that of random factors, which have no common directions: the worst case.
"""


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rank", type=int, default=16, help="of the two adapters")
    parser.add_argument("--to", type=int, default=16, help="of the merge")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    result = measure(arguments.rank, arguments.to)
    text = table(result, arguments)
    print(text)
    write_text(RESULTS / "merge.json", json.dumps(result, indent=1) + "\n")
    write_text(RESULTS / "merge.md", text)


if __name__ == "__main__":
    main()
