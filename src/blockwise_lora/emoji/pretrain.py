"""From emoji sets to a base model and its judges: every stage, each resumable.

A stage that is finished is read from the cache, so running everything again costs little, and a
run that was cut off goes on where it stood.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from platformdirs import user_cache_path
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

from blockwise_lora.emoji.captions import plain_caption, train_tokenizer
from blockwise_lora.emoji.clip import text_encoder_from, train_clip
from blockwise_lora.emoji.corpus import Corpus, build_corpus
from blockwise_lora.emoji.dino import train_dino
from blockwise_lora.emoji.export import export_base, export_clip, export_dino
from blockwise_lora.emoji.loop import LoopConfig, Trainer
from blockwise_lora.emoji.shipped import ship_pictures
from blockwise_lora.emoji.splits import load_splits
from blockwise_lora.emoji.unet import encode_latents, scaling_factor, train_unet
from blockwise_lora.emoji.vae import train_vae


@dataclass(frozen=True)
class PretrainingConfig:
    """How the embedded world is made.

    Attributes:
        vae, clip, dino, unet: schedule of each part.
        output: folder that receives base/ and judges/.
        pictures: folder that receives characters/, styles/ and truth/.
        device: cpu or cuda.
        threads: of PyTorch on the CPU.
        workers: processes that render the corpus.
        cache: where corpus and training states are kept, outside the work tree; by default the
            user's cache folder.
    """

    vae: LoopConfig
    clip: LoopConfig
    dino: LoopConfig
    unet: LoopConfig
    output: Path = Path("data/06_models")
    pictures: Path = Path("data/01_raw")
    device: str = "cpu"
    threads: int = 1
    workers: int = 2
    cache: Path | None = None

    @property
    def folder(self) -> Path:
        return self.cache or user_cache_path("blockwise_lora") / "pretraining"

    @property
    def states(self) -> Path:
        return self.folder / "state"


class Pretraining:
    """The stages, in order: pictures, vae, clip, dino, unet, export."""

    def __init__(self, config: PretrainingConfig) -> None:
        self.config = config
        self.splits = load_splits()
        torch.set_num_threads(config.threads)

    @property
    def corpus(self) -> Corpus:
        """Every drawing, rendered on first use."""
        return build_corpus(self.config.folder, self.config.workers)

    @property
    def lessons(self) -> Corpus:
        """The drawings that base model and judges may learn from."""
        return self.corpus.select(self.splits.trains)

    @property
    def tokenizer(self) -> CLIPTokenizer:
        """Trained on the captions of the lessons only."""
        folder = self.config.folder / "tokenizer"
        if (folder / "vocab.json").exists():
            return CLIPTokenizer.from_pretrained(folder)  # a folder, so nothing is fetched
        texts = [", ".join([plain_caption(e), *e.tags]) for e in self.lessons.emojis]
        return train_tokenizer(texts, folder)

    def ship(self) -> list[Path]:
        """Write the pictures of the dev pairs."""
        return ship_pictures(self.corpus, self.splits, self.config.pictures)

    def vae(self):
        """The autoencoder and its trainer."""
        pixels = self.lessons.pixels
        return train_vae(pixels, self.config.vae, self.config.states, self.config.device)

    def clip(self):
        """The CLIP judge and its trainer."""
        config = self.config
        return train_clip(self.lessons, self.tokenizer, config.clip, config.states, config.device)

    def dino(self):
        """The DINO judge and its trainer."""
        return train_dino(self.lessons, self.config.dino, self.config.states, self.config.device)

    def unet(self):
        """U-Net, its text encoder (which starts from the CLIP judge's text tower) and trainer."""
        config, tokenizer = self.config, self.tokenizer
        text_encoder = text_encoder_from(self.clip()[0], tokenizer)
        means, deviations = self.latents()
        unet, trainer = train_unet(
            self.lessons,
            (means, deviations),
            scaling_factor(means),
            text_encoder,
            tokenizer,
            config.unet,
            config.states,
            config.device,
        )
        return unet, text_encoder.eval(), trainer

    def latents(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Latent moments of the lessons, encoded once by the finished VAE and named after it."""
        vae, _ = self.vae()
        path = self.config.folder / f"latents-{_digest(vae)}.safetensors"
        if not path.exists():
            means, deviations = encode_latents(vae, self.lessons.pixels, self.config.device)
            save_file({"means": means, "deviations": deviations}, path)
        stored = load_file(path)
        return stored["means"], stored["deviations"]

    def export(self) -> Mapping[str, Trainer]:
        """Write base model and judges below `output`; returns the trainers, for the card."""
        output, tokenizer = self.config.output, self.tokenizer
        vae, vae_trainer = self.vae()
        clip, clip_trainer = self.clip()
        dino, dino_trainer = self.dino()
        unet, text_encoder, unet_trainer = self.unet()
        scale = scaling_factor(self.latents()[0])
        parts = (part.cpu() for part in (vae, text_encoder, unet))
        vae, text_encoder, unet = parts
        export_base(output / "base", vae, scale, text_encoder, tokenizer, unet)
        export_clip(output / "judges" / "clip", clip.cpu(), tokenizer)
        export_dino(output / "judges" / "dino", dino.cpu())
        trainers = (vae_trainer, clip_trainer, dino_trainer, unet_trainer)
        return {trainer.name: trainer for trainer in trainers}


def _digest(module: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for parameter in module.parameters():
        digest.update(parameter.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:12]
