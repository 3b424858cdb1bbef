"""Measuring the exported models and writing their card."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import diffusers
import torch
from PIL import Image

from blockwise_lora.atomic import write_bytes, write_text
from blockwise_lora.diffusion.base import load_base
from blockwise_lora.diffusion.sampling import SamplingConfig, sample
from blockwise_lora.emoji.corpus import Corpus
from blockwise_lora.emoji.figures import judge_figures, vae_figures
from blockwise_lora.emoji.loop import LoopConfig
from blockwise_lora.emoji.retrieval import (
    retrieval_corpus,
    retrieval_figures,
    retrieval_prompts,
    triple_figures,
)
from blockwise_lora.emoji.shipped import attribution
from blockwise_lora.emoji.sources import SETS
from blockwise_lora.emoji.splits import Splits
from blockwise_lora.judges.panel import JudgeConfig, Panel

SAMPLING = SamplingConfig(steps=20, guidance_scale=4.0, center_noise=True)


def measure(models: Path, corpus: Corpus, splits: Splits) -> tuple[dict, list[Image.Image]]:
    """All figures of the card, and the base model's 100 samples.

    Args:
        models: folder with base/ and judges/, as exported.
        corpus: every drawing.
        splits: who may see what.
    """
    base = load_base(models / "base")
    judges = models / "judges"
    panel = Panel.load(JudgeConfig(clip=str(judges / "clip"), dino=str(judges / "dino")))
    chosen = retrieval_corpus(corpus, splits)
    prompts = retrieval_prompts(chosen)
    drawn = sample(base, prompts, list(range(len(prompts))), SAMPLING)
    figures = {
        "vae_psnr_db": vae_figures(base.vae, corpus, splits),
        "retrieval_percent": retrieval_figures(panel, chosen, drawn),
        "judges_percent": judge_figures(panel.clip, panel.dino, corpus, splits),
        "triples_percent": triple_figures(panel, corpus, splits),
    }
    return figures, drawn


def write_card(
    models: Path,
    figures: Mapping,
    drawn: list[Image.Image],
    schedules: Mapping[str, LoopConfig],
    hours: Mapping[str, float],
    splits: Splits,
    device: str,
) -> Path:
    """Write README.md, figures.json and samples.png into `models/base`; returns the card."""
    folder = models / "base"
    write_bytes(folder / "samples.png", _sheet(drawn))
    record = {
        "figures": figures,
        "schedules": {name: asdict(config) for name, config in schedules.items()},
        "hours": dict(hours),
        "versions": {"torch": torch.__version__, "diffusers": diffusers.__version__},
    }
    write_text(folder / "figures.json", json.dumps(record, indent=2) + "\n")
    write_text(folder / "README.md", _card(figures, schedules, hours, splits, device))
    return folder / "README.md"


def _sheet(drawn: list[Image.Image], columns: int = 10) -> bytes:
    width, height = drawn[0].size
    rows = -(-len(drawn) // columns)
    sheet = Image.new("RGB", (columns * width, rows * height), "white")
    for i, picture in enumerate(drawn):
        sheet.paste(picture, (i % columns * width, i // columns * height))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


CARD = """\
# The embedded base model and its judges

A `StableDiffusionPipeline` of exactly SD 1.5's structure (four down blocks, mid, four up blocks,
two layers per block, attention in the same places) with narrow layers, for 64x64 pictures, trained
from nothing on openly licensed emoji. It exists to test adapters in a world where the true picture
of a character in a style is known; it is of no use beyond that. Beside it, in `../judges`: a small
open_clip CLIP and a small DINO-style ViT.

Made by `kedro run --pipelines pretraining`. Every figure below is in `figures.json`.

![100 samples, one per caption](samples.png)

## Data and licences

{sources}

Learned from: {vendors}. Never seen: {styles}, and the families {families} with their look-alikes
in any set (`src/blockwise_lora/emoji/splits.yml`). Labels and tags: emojibase-data (MIT).

The weights are Apache-2.0; the terms of the drawings, named above, apply to pictures that resemble
them.

## Training

{schedules}

AdamW, averaged weights, bf16 autocast, on {device}. The text encoder starts from the CLIP judge's
text tower and is trained on with the U-Net, so the CLIP judge and the base model are not
independent; the DINO judge shares nothing with either.

## Figures
"""

TITLES = {
    "vae_psnr_db": "VAE: mean PSNR per picture, dB (target 28 over all pixels)",
    "retrieval_percent": "R@1 among 100 captions, % (targets: real 70, generated 35)",
    "judges_percent": "Judges: nearest neighbour on held-out families and vendors, %",
    "triples_percent": "The true picture above a wrong one, dev pairs, % (target 90)",
}


def _card(figures: Mapping, schedules: Mapping, hours: Mapping, splits: Splits, device: str) -> str:
    rows = ["| part | steps | pictures | batch | peak rate | hours |", "|---|---|---|---|---|---|"]
    rows += [
        f"| {name} | {c.steps:,} | {c.steps * c.batch_size:,} | {c.batch_size} "
        f"| {c.learning_rate:g} | {hours[name]:.2f} |"
        for name, c in schedules.items()
    ]
    text = CARD.format(
        sources="\n".join(line for line in attribution(SETS).splitlines() if line.startswith("-")),
        vendors=", ".join(splits.train_vendors),
        styles=", ".join(splits.styles),
        families=", ".join(splits.families),
        schedules="\n".join(rows),
        device="two shared CPU cores" if device == "cpu" else device,
    )
    for key, title in TITLES.items():
        text += "\n".join(["", f"### {title}", "", *_table(figures[key]), ""])
    return text


def _table(values: Mapping) -> list[str]:
    if not all(isinstance(v, Mapping) for v in values.values()):
        return ["| | |", "|---|---|", *(f"| {k} | {v:.1f} |" for k, v in values.items())]
    columns = list(next(iter(values.values())))
    head = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    rows = [
        f"| {name} | " + " | ".join(f"{row[c]:.1f}" for c in columns) + " |"
        for name, row in values.items()
    ]
    return head + rows
