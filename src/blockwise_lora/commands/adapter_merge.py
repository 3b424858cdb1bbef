"""`adapter merge`: several adapters become one, or a part of the base model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from blockwise_lora.commands.naming import FORMATS, for_each, names_of
from blockwise_lora.errors import UserError

if TYPE_CHECKING:
    from blockwise_lora.adapters.merge import BakedModel, Base, MergedAdapter, Rule, Weighted
    from blockwise_lora.diffusion.base import BaseModel

FILE = ".safetensors"
RULES = ("sum", "svd", "linear", "magnitude_prune", "ties", "dare", "pick", "ziplora", "klora")


@click.command()
@click.argument("adapters", nargs=-1, required=True)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="What is written; new.")
@click.option("--rule", type=click.Choice(RULES), default="sum", show_default=True)
@click.option("--names", help="Of the adapters, with commas [default: their files' or folders'].")
@click.option("--weights", help="1,0.8: one for each; or NAME=0.8 of some [default: 1].")
@click.option("--rank", type=int, help="svd, magnitude_prune, ties, dare: rank of the result.")
@click.option("--density", type=float, help="magnitude_prune, ties, dare: share of values kept.")
@click.option("--election", help="ties, dare: total or frequency.")
@click.option("--everywhere", is_flag=True, default=None, help="They prune lone layers, too.")
@click.option("--seed", type=int, help="dare, ziplora: of what is drawn.")
@click.option("--blocks", help="pick: a mask for each: in0-out1,out2-out3; or NAME=MASK,...")
@click.option("--pictures", multiple=True, help="ziplora: a folder for each, or NAME=FOLDER.")
@click.option("--steps", type=int, help="ziplora: optimiser steps.")
@click.option("--base", help="The model: folder, single file or hub id.")
@click.option("--bake", is_flag=True, help="Put the merge into the base; OUT is a model's folder.")
@click.option("--to", type=click.Choice(FORMATS), default=FORMATS[0], show_default=True)
@click.option("--device", default="cpu", show_default=True, help="ziplora: where to learn.")
def merge(
    adapters: tuple[str, ...],
    out: Path,
    rule: str,
    names: str | None,
    weights: str | None,
    base: str | None,
    bake: bool,
    to: str,
    device: str,
    **parameters: Any,
) -> None:
    """Merge ADAPTERS of any format, mask, rank and method into one.

    What is given for each adapter is in their order, or NAME=VALUE in any; the record in the
    result has the names.

    The base is needed where the rule speaks of blocks (pick), learns (ziplora) or bakes, and for
    methods whose change depends on the base's weights (DoRA, OFT).
    """
    _check(out, rule)
    _check_ending(out, None if _bakes(rule, parameters["rank"], bake) else to)
    called = names_of(adapters, names)
    numbers = _weights(weights, called)

    # What takes seconds to import comes after what can be told at once.
    from blockwise_lora.adapters import formats
    from blockwise_lora.adapters.merge import BakedModel, Weighted
    from blockwise_lora.adapters.merge import merge as merge_adapters
    from blockwise_lora.diffusion.merging import learned_rule

    config = _config(rule, parameters, called)
    given = zip(adapters, numbers, called, strict=True)
    weighted = [Weighted(formats.read(path), number, name) for path, number, name in given]
    model, structure = _base(base, config, weighted, bake, device)
    made = learned_rule(config, weighted, model)
    merged = merge_adapters(weighted, made, base=structure, bake=bake)
    if isinstance(merged, BakedModel):
        path = _save_model(merged, model, out)
    else:
        path = formats.write(merged.adapter, out, to)
    click.echo("\n".join([*_account(merged, made, called), f"written: {path}"]))


def _config(rule: str, parameters: dict[str, Any], names: Sequence[str]) -> Any:
    from blockwise_lora.diffusion.merging import MergeConfig
    from blockwise_lora.parameters import typed

    given = {name: value for name, value in parameters.items() if value not in (None, ())}
    if "blocks" in given:
        masks = [mask.strip() for mask in given["blocks"].split(",")]
        given["blocks"] = for_each(masks, names, "--blocks")
    if "pictures" in given:
        given["pictures"] = for_each(given["pictures"], names, "--pictures")
    return typed(MergeConfig, {"rule": rule} | given, "merge")


def _check(out: Path, rule: str) -> None:
    """Tell now what would be told after the work.

    Raises:
        UserError: a folder with content or a file is there, or no file can hold the result.
    """
    if rule == "klora":
        raise UserError(
            "rule klora chooses an adapter at each denoising step, which no file can hold: sample "
            "with `kedro run --pipelines combination --params combination.merge.rule=klora`"
        )
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise UserError(f"{out} exists: name another place, or move it away")


def _check_ending(out: Path, to: str | None) -> None:
    """Tell whether OUT can be what is written, before minutes of work.

    Args:
        out: where to write.
        to: the adapter's format; None: a model's folder.

    Raises:
        UserError: a file is to be a folder, or the other way about.
    """
    named_as_file = out.suffix == FILE
    if to in ("kohya", "lycoris") and not named_as_file:
        raise UserError(f"--out {out}: {to} is a file: give it a name that ends in {FILE}")
    if to in ("peft", None) and named_as_file:
        baked = "a baked model (--bake, or for want of --rank)"
        what = baked if to is None else "PEFT's format"
        raise UserError(f"--out {out}: {what} is a folder: leave the ending {FILE}")


def _bakes(rule: str, rank: int | None, bake: bool) -> bool:
    """Whether a base model comes out: asked for, or of a rule whose result has no rank."""
    return bake or (rule in ("magnitude_prune", "ties", "dare") and rank is None)


def _weights(text: str | None, names: Sequence[str]) -> list[float]:
    if text is None:
        return [1.0] * len(names)
    values = for_each(text.split(","), names, f"--weights {text}", default="1")
    try:
        return [float(value) for value in values]
    except ValueError:
        raise UserError(f"--weights {text}: expected numbers with commas, such as 1,0.8") from None


def _base(
    source: str | None, config: Any, weighted: Sequence[Weighted], bake: bool, device: str
) -> tuple[BaseModel | None, Base | None]:
    """The base model, or its structure alone where no weights are needed."""
    from blockwise_lora.adapters.merge import Base
    from blockwise_lora.diffusion.base import load_base
    from blockwise_lora.diffusion.skeleton import skeleton

    if source is None:
        return None, None
    learns = config.rule == "ziplora"
    bakes = _bakes(config.rule, config.rank, bake)
    changes = (update for one in weighted for update in one.adapter.updates.values())
    if learns or bakes or any(update.needs_base for update in changes):
        model = load_base(source, device)
        return model, Base.of(model.unet, *model.text_encoders)
    parts = skeleton(source)
    return None, Base.of(parts.denoiser, *parts.text_encoders)


def _save_model(merged: BakedModel, model: BaseModel, out: Path) -> Path:
    from blockwise_lora.adapters.merge import MERGE
    from blockwise_lora.diffusion.saving import save_base

    merged.apply(model.unet, *model.text_encoders)
    return save_base(model, out, merged.metadata[MERGE])


def _account(merged: MergedAdapter | BakedModel, rule: Rule, names: Sequence[str]) -> list[str]:
    """What came out, and how near it is to what was asked for."""
    from blockwise_lora.adapters.merge import BakedModel

    baked = isinstance(merged, BakedModel)
    layers = merged.weights if baked else merged.adapter.updates
    kind = "a baked base model" if baked else f"an adapter, {_ranks(layers.values())}"
    lines = [f"{rule.name} of {', '.join(names)}: {kind}, {len(layers)} layers changed"]
    if not merged.errors:
        return [*lines, "exact: nothing had to be cut to a rank"]
    worst = max(merged.errors, key=merged.errors.get)
    mean = sum(merged.errors.values()) / len(merged.errors)
    return [
        *lines,
        f"cut to the rank in {len(merged.errors)} layers, relative error {mean:.3f} on average, "
        f"{merged.errors[worst]:.3f} at most ({worst})",
    ]


def _ranks(updates: Any) -> str:
    ranks = sorted({update.rank for update in updates})
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]} to {ranks[-1]}"
