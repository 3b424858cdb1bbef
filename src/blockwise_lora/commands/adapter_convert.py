"""`adapter convert`: an adapter file of one tool becomes one of another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from blockwise_lora.commands.naming import FORMATS

if TYPE_CHECKING:
    from blockwise_lora.adapters.formats import Format, Names


@click.command()
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.argument("target", metavar="OUT", type=click.Path(path_type=Path))
@click.option(
    "--to",
    required=True,
    type=click.Choice(FORMATS),
    help="The format of OUT.",
)
@click.option("--base", help="The model: folder, config.json, single file or hub id.")
def convert(source: Path, target: Path, to: Format, base: str | None) -> None:
    """Convert IN, an adapter of any format, into OUT.

    kohya and lycoris make a file, OUT.safetensors; peft makes a folder; diffusers either. The
    result is equal to the bit where the format can hold the adapter, else equal in effect, else
    refused with the reason. Nothing is overwritten.

    The base model is needed only where its structure is not that of Stable Diffusion 1.x, 2.x or
    XL, or cannot be told from IN. No weights of it are loaded.
    """
    from blockwise_lora.adapters import formats

    names = names_of(base)
    found = formats.read_source(source, names)
    path = formats.write(found.adapter, target, to, names=names)
    click.echo(f"{source} ({found.format}) -> {path} ({to}), {len(found.adapter.updates)} layers")


def names_of(base: str | None) -> Names | None:
    """The names of a base model's layers; None where no model is named."""
    from blockwise_lora.adapters.formats import Names
    from blockwise_lora.diffusion.skeleton import skeleton

    if base is None:
        return None
    parts = skeleton(base)
    return Names.of(parts.denoiser, *parts.text_encoders)
