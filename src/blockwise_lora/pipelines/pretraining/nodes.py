"""One node a part. States live in the cache folder, so each goes on where it was cut off.

A node passes on how long its part took; what the next one needs it reads from the cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blockwise_lora.emoji.pretrain import Pretraining


def draw_corpus(parameters: Mapping[str, Any]) -> int:
    """Fetch and render the emoji sets and write the pictures of the dev pairs; returns a count."""
    stages = _stages(parameters)
    stages.ship()
    return len(stages.corpus)


def train_vae(parameters: Mapping[str, Any], corpus: int) -> float:
    """Train the autoencoder; returns hours."""
    return _stages(parameters).vae()[-1].seconds / 3600


def train_clip(parameters: Mapping[str, Any], corpus: int) -> float:
    """Train the CLIP judge; returns hours."""
    return _stages(parameters).clip()[-1].seconds / 3600


def train_dino(parameters: Mapping[str, Any], corpus: int) -> float:
    """Train the DINO judge; returns hours."""
    return _stages(parameters).dino()[-1].seconds / 3600


def train_unet(parameters: Mapping[str, Any], vae: float, clip: float) -> float:
    """Train U-Net and text encoder on the VAE's latents; returns hours."""
    return _stages(parameters).unet()[-1].seconds / 3600


def export(
    parameters: Mapping[str, Any], vae: float, clip: float, dino: float, unet: float
) -> dict[str, float]:
    """Write base model and judges where the other pipelines read them; returns hours by part."""
    _stages(parameters).export()
    return {"vae": vae, "clip": clip, "dino": dino, "unet": unet}


def describe(parameters: Mapping[str, Any], hours: Mapping[str, float]) -> dict[str, Any]:
    """Measure what was exported and write the model card; returns the figures."""
    from blockwise_lora.emoji.card import measure, write_card

    stages = _stages(parameters)
    config = stages.config
    figures, drawn = measure(config.output, stages.corpus, stages.splits)
    schedules = {name: getattr(config, name) for name in hours}
    write_card(config.output, figures, drawn, schedules, hours, stages.splits, config.device)
    return figures


def _stages(parameters: Mapping[str, Any]) -> Pretraining:
    from blockwise_lora.emoji.pretrain import Pretraining, PretrainingConfig
    from blockwise_lora.parameters import typed

    return Pretraining(typed(PretrainingConfig, parameters, "pretraining"))
