"""`adapter blocks`: a model's blocks under all their names."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from blockwise_lora.adapters.table import Row


@click.command()
@click.argument("model")
@click.option(
    "--mask", help="Which blocks are trained [default: all, with base where it is known]."
)
@click.option("--method", default="lora", show_default=True, help="lora, locon, loha, ...")
@click.option("--rank", default=16, show_default=True, help="Where the mask names none.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def blocks(model: str, mask: str | None, method: str, rank: int, as_json: bool) -> None:
    """Print a model's blocks: names in every tool, layers and values of an adapter.

    MODEL is a folder in diffusers' format, the config.json of a U-Net or transformer, a single
    .safetensors file, or a hub id. No weights are loaded.
    """
    from blockwise_lora.adapters import AdapterSpec
    from blockwise_lora.adapters.table import block_table
    from blockwise_lora.diffusion.skeleton import skeleton
    from blockwise_lora.parameters import typed

    parts = skeleton(model)
    mask = mask or ("all+base" if parts.text_encoders else "all")
    spec = typed(AdapterSpec, {"blocks": mask, "method": method, "rank": rank}, "adapter")
    rows = block_table(parts, spec)
    if as_json:
        click.echo(json.dumps([asdict(row) for row in rows], indent=2))
        return
    left_out = ", ".join(parts.blocks.left_out)
    click.echo(f"{model}: {type(parts.denoiser).__name__}")
    click.echo(f"{spec.method} of rank {spec.rank} on {spec.blocks}\n")
    click.echo("\n".join(_lines(rows)))
    click.echo(f"\nin no block, hence in no mask: {left_out}")
    if empty := [row.block for row in rows if row.empty]:
        click.echo(f"no attention, and so nothing for {spec.method}, in: {', '.join(empty)}")


def _lines(rows: Sequence[Row]) -> list[str]:
    """The table, each coarse block above its sub-blocks."""
    cells = [("block", "layers", "values", "diffusers", "original", "kohya's keys")]
    for coarse, members in groupby(rows, key=lambda row: row.coarse):
        members = list(members)
        cells.append((coarse, *_sums(members), "", "", ""))
        cells += [
            (
                f"  {row.block}",
                *_sums([row]),
                _joined(row.diffusers, "."),
                row.original,
                _joined(row.kohya, "_"),
            )
            for row in members
        ]
    cells.append(("together", *_sums(rows), "", "", ""))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(_aligned(line, widths)).rstrip() for line in cells]


def _sums(rows: Sequence[Row]) -> tuple[str, str]:
    """Layers and values; a dash where the mask names nothing."""
    if not any(row.trained for row in rows):
        return "-", "-"
    return f"{sum(row.layers for row in rows):,}", f"{sum(row.values for row in rows):,}"


def _aligned(line: Sequence[str], widths: Sequence[int]) -> list[str]:
    numbers = (1, 2)
    return [
        cell.rjust(width) if i in numbers else cell.ljust(width)
        for i, (cell, width) in enumerate(zip(line, widths, strict=True))
    ]


def _joined(names: Sequence[str], joint: str) -> str:
    """Names that begin alike, the beginning once: down_blocks.0.{resnets.0, attentions.0}."""
    if len(names) < 2:
        return "".join(names)
    parts = [name.split(joint) for name in names]
    shared = 0
    while len({tuple(part[: shared + 1]) for part in parts}) == 1:
        shared += 1
    rest = ", ".join(joint.join(part[shared:]) for part in parts)
    return joint.join([*parts[0][:shared], f"{{{rest}}}"])
