"""`adapter inspect`: what is in an adapter file."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from blockwise_lora.commands.adapter_convert import names_of

if TYPE_CHECKING:
    from blockwise_lora.adapters import Adapter
    from blockwise_lora.adapters.formats import Source, Summary


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--base", help="The model: for other structures, and norms of DoRA and OFT.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def inspect(file: Path, base: str | None, as_json: bool) -> None:
    """Print what is in FILE, an adapter of any format: file, folder or PEFT directory.

    Format, base model as far as known, methods, layers; and for each block its ranks and the norm
    of the change that the adapter makes, as a number and as a bar.
    """
    from blockwise_lora.adapters import AdapterError, formats

    source = formats.read_source(file, names_of(base))
    try:
        summary = formats.summarise(source, _weights(source.adapter, base))
    except ValueError as error:
        raise AdapterError(f"{file}: {error}") from error
    if as_json:
        click.echo(json.dumps(asdict(summary), indent=2))
        return
    click.echo("\n".join([*_about(file, source, summary), "", *formats.bars(summary)]))
    if any(block.norm is None for block in summary.blocks):
        click.echo("\nThe change that DoRA and OFT make depends on the base: give it with --base")


def _about(file: Path, source: Source, summary: Summary) -> list[str]:
    """A line for each thing that is known."""
    scales = summary.scales
    known = {
        "format": summary.format,
        "base model": summary.base or "not said",
        "method": ", ".join(summary.methods),
        "mask": summary.mask,
        "layers": f"{summary.layers}, {summary.values:,} values of {', '.join(summary.types)}",
        "scale": f"{scales[0]:g}" if len(scales) == 1 else f"{scales[0]:g} to {scales[-1]:g}",
        "sha256": summary.sha256,
    }
    return [str(file), *(f"{name:<11} {text}" for name, text in known.items() if text)]


def _weights(adapter: Adapter, base: str | None) -> dict[str, Any] | None:
    """The base's weights of the layers whose change depends on them; None without a base."""
    needed = [layer for layer, update in adapter.updates.items() if update.needs_base]
    if base is None or not needed:
        return None
    from blockwise_lora.adapters.parts import Parts
    from blockwise_lora.diffusion.base import load_base

    model = load_base(base)
    parts = Parts(model.unet, model.text_encoders)
    return {layer: parts.get(layer).weight.detach() for layer in needed}
