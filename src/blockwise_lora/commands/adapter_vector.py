"""`adapter vector`: lists of block weights to masks, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from blockwise_lora.blocks import Mask, Vector


# A list may begin with a negative strength, which is no option.
@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("mask")
@click.option("--length", type=int, help="Print only the list of so many numbers.")
def vector(mask: str, length: int | None) -> None:
    """Print the sentence for a list of numbers, or the lists for a sentence.

    MASK is a list such as 1,0,0,0,1,1,1,0,0,0,0,0,0,0,0,0,0, or a sentence such as out1-out3. What
    a position means depends on the length: 17, 25 and 26 are for Stable Diffusion 1.x and 2.x, 12,
    20 and 23 for SDXL, 61 for FLUX. The sentence begins with that kind of model (sd, sdxl, flux)
    and is refused by others. What is lost on the way is said on stderr.
    """
    from blockwise_lora.blocks import Mask, Vector
    from blockwise_lora.blocks.vectors import is_vector

    if is_vector(mask):
        _print_sentence(Vector.parse(mask))
    else:
        _print_vectors(Mask.parse(mask), length)


def _print_sentence(numbers: Vector) -> None:
    from blockwise_lora.blocks import Mask

    family, values = numbers.layout.family, numbers.by_block
    click.echo(f"{len(numbers.values)} numbers: {numbers.layout.model}", err=True)
    if set(numbers.values) <= {0, 1}:
        click.echo(Mask.parse(str(numbers)))
        return
    whole = {name: int(value) for name, value in values.items() if value.is_integer()}
    if whole == values and min(whole.values()) >= 0:
        # No block has rank 0 by default, so every rank is printed.
        sentence = Mask.of(whole, family, default_rank=0)
        click.echo(f"as ranks:      {numbers.layout.kind}+{sentence}")
    # A block that no entry names acts at 1; the lists' own rule is 0 where they have no position.
    strengths = {name: values.get(name, 0.0) for name in family.denoiser_names}
    strengths |= {"BASE": values["BASE"]} if values.get("BASE", 1) != 1 else {}
    entries = ", ".join(f"{span}: {value:g}" for span, value in family.runs(strengths))
    click.echo(f"as strengths:  {{{entries}}}")


def _print_vectors(mask: Mask, length: int | None) -> None:
    from blockwise_lora.blocks.vectors import LAYOUTS, Vector

    lengths = list(LAYOUTS) if length is None else [length]
    Vector.of({}, lengths[0])  # refuses a length that is not in use
    if any(term.rank for term in mask.terms):
        click.echo("ranks are not part of a list: 1 is every block that is trained", err=True)
    for numbers, lost in _vectors(mask, lengths):
        count = len(numbers.values)
        if lost:
            click.echo(f"{count} numbers have no position for {', '.join(lost)}", err=True)
        click.echo(numbers if length else f"{count:>2}  {numbers}  {numbers.layout.model}")


def _vectors(mask: Mask, lengths: list[int]) -> list[tuple[Vector, list[str]]]:
    """The lists, each with the trained blocks that have no position in it.

    Raises:
        MaskError: the mask fits no model that has a list of these lengths.
    """
    from blockwise_lora.blocks import MaskError, Vector
    from blockwise_lora.blocks.vectors import LAYOUTS

    found, misfits = [], {}
    for length in lengths:
        layout = LAYOUTS[length]
        try:
            selected = mask.selected(layout.family)
        except MaskError as error:
            misfits.setdefault(layout.model.partition(",")[0], error)
            continue
        lost = [name for name in selected if name not in layout.names]
        found.append((Vector.of(dict.fromkeys(selected, 1), length), lost))
    if not found:
        raise MaskError("\n".join(f"{model}: {error}" for model, error in misfits.items()))
    return found
