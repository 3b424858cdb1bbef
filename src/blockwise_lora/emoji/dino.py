"""The DINO judge: a small vision transformer that learns what is drawn, not how.

A student agrees with a teacher that is its own moving average, without labels, as in DINO (Caron et
al. 2021), but by contrast within the batch as in MoCo v3 (Chen et al. 2021): DINO's prototypes need
many more pictures than a CPU sees in an hour. The two views of a sample are, most of the time, the
same concept drawn by two different sets, and the student's view is redrawn by an imagined hand
(`restyle`): identity, and not the hand of the artist, is what they share.
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from blockwise_lora.emoji.clip import augment, contrastive_loss
from blockwise_lora.emoji.corpus import Corpus
from blockwise_lora.emoji.loop import LoopConfig, Trainer
from blockwise_lora.emoji.restyle import restyle
from blockwise_lora.emoji.sampling import ConceptSampler

ARCHITECTURE = {
    "img_size": 64,
    "patch_size": 8,
    "embed_dim": 128,
    "depth": 6,
    "num_heads": 2,
    "num_classes": 0,
    # The mean of the patches: with few pictures it learns faster than a class token.
    "class_token": False,
    "global_pool": "avg",
}
TEMPERATURE = 0.1
OTHER_HAND = 0.7
"""Share of samples whose second view is another set's drawing of the concept."""


def build_dino() -> VisionTransformer:
    """Patches of 8, width 128, six blocks, 1.2M parameters."""
    return VisionTransformer(**ARCHITECTURE)


def projection(width: int, out: int = 128) -> nn.Sequential:
    """The head that is thrown away after training."""
    return nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, out))


def train_dino(
    corpus: Corpus, config: LoopConfig, folder: Path, device: str
) -> tuple[VisionTransformer, Trainer]:
    """Train the judge. The averaged weights are the teacher, and what is returned."""
    torch.manual_seed(config.seed)
    width = ARCHITECTURE["embed_dim"]
    student = nn.Sequential(build_dino(), projection(width)).to(device)
    predictor = projection(128).to(device)  # only the student predicts (Grill et al. 2020)
    teacher = deepcopy(student).requires_grad_(False)
    trainer = Trainer("dino", {"dino": student, "predictor": predictor}, config, folder)
    sampler = ConceptSampler(corpus.emojis)
    partner = Partners(corpus, sampler)
    followed = dict(teacher.named_parameters())
    unit = nn.functional.normalize

    def loss(step: int, generator: torch.Generator) -> Tensor:
        first = sampler.draw(config.batch_size, generator)
        second = partner.draw(first, generator)
        here = restyle(augment(corpus.pixels[first.numpy()], generator), generator).to(device)
        there = augment(corpus.pixels[second.numpy()], generator).to(device)
        with torch.no_grad(), torch.autocast(device, torch.bfloat16):
            for name, parameter in followed.items():
                parameter.copy_(trainer.average[f"dino.{name}"])
            wanted = unit(teacher(there).float(), dim=-1)
        with torch.autocast(device, torch.bfloat16):
            predicted = unit(predictor(student(here)).float(), dim=-1)
        scale = torch.tensor(1 / TEMPERATURE, device=device)
        return contrastive_loss(predicted, wanted, scale, sampler.concepts[first].to(device))

    trainer.run(loss)
    trainer.export()
    return student[0].eval(), trainer


class Partners:
    """Second views: the same drawing, or the same concept in another hand."""

    def __init__(self, corpus: Corpus, sampler: ConceptSampler) -> None:
        self.rows: dict[int, list[int]] = {}
        for row, concept in enumerate(sampler.concepts.tolist()):
            self.rows.setdefault(concept, []).append(row)
        self.concepts = sampler.concepts
        self.hands = [e.set_name for e in corpus.emojis]

    def draw(self, first: Tensor, generator: torch.Generator) -> Tensor:
        """A row for each row of `first`, (n,)."""
        chance = torch.rand(len(first), 2, generator=generator).tolist()
        second = []
        for row, (swap, pick) in zip(first.tolist(), chance, strict=True):
            others = [
                r
                for r in self.rows[int(self.concepts[row])]
                if self.hands[r] != self.hands[row] and swap < OTHER_HAND
            ]
            second.append(others[int(pick * len(others))] if others else row)
        return torch.tensor(second)
