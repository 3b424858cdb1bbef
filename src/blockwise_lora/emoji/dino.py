"""The DINO judge: a small vision transformer that learns what is drawn, not how.

Self-distillation without labels (Caron et al. 2021) with the Sinkhorn centring of SwAV and DINOv2
(Caron et al. 2020; Oquab et al. 2024), which does not collapse in short trainings. The two views of
a sample are, half of the time, the same concept drawn by two different sets: so that identity, and
not the hand of the artist, is what the views share.
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from blockwise_lora.emoji.clip import augment
from blockwise_lora.emoji.corpus import Corpus
from blockwise_lora.emoji.loop import LoopConfig, Trainer
from blockwise_lora.emoji.sampling import ConceptSampler

ARCHITECTURE = {
    "img_size": 64,
    "patch_size": 8,
    "embed_dim": 128,
    "depth": 6,
    "num_heads": 2,
    "num_classes": 0,
}
PROTOTYPES = 1024
STUDENT_TEMPERATURE, TEACHER_TEMPERATURE = 0.1, 0.06
OTHER_HAND = 0.5
"""Share of samples whose second view is another set's drawing of the concept."""


def build_dino() -> VisionTransformer:
    """Patches of 8, width 128, six blocks, 1.2M parameters."""
    return VisionTransformer(**ARCHITECTURE)


class Head(nn.Module):
    """Projection to prototypes: an MLP, then cosine similarity to each prototype."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(width, 384), nn.GELU(), nn.Linear(384, 384), nn.GELU(), nn.Linear(384, 128)
        )
        self.prototypes = nn.Linear(128, PROTOTYPES, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """(n, width) to (n, prototypes)."""
        unit = nn.functional.normalize(self.mlp(features), dim=-1)
        return nn.functional.linear(unit, nn.functional.normalize(self.prototypes.weight, dim=-1))


@torch.no_grad()
def sinkhorn(logits: Tensor, temperature: float, iterations: int = 3) -> Tensor:
    """Soft assignments whose prototypes are used evenly, (n, prototypes), rows sum to 1."""
    q = ((logits.float() - logits.float().max()) / temperature).exp()
    for _ in range(iterations):
        q = q / q.sum(0, keepdim=True).clamp_min(1e-12)
        q = q / q.sum(1, keepdim=True).clamp_min(1e-12)
    return q


def train_dino(
    corpus: Corpus, config: LoopConfig, folder: Path, device: str
) -> tuple[VisionTransformer, Trainer]:
    """Train the judge. The averaged weights are the teacher, and what is returned."""
    torch.manual_seed(config.seed)
    student = nn.Sequential(build_dino(), Head(ARCHITECTURE["embed_dim"])).to(device)
    teacher = deepcopy(student).requires_grad_(False)
    trainer = Trainer("dino", {"dino": student}, config, folder)
    sampler = ConceptSampler(corpus.emojis)
    partner = _Partners(corpus, sampler)
    followed = dict(teacher.named_parameters())

    def loss(step: int, generator: torch.Generator) -> Tensor:
        first = sampler.draw(config.batch_size, generator)
        second = partner.draw(first, generator)
        rows = torch.cat([first, second]).numpy()
        views = augment(corpus.pixels[rows], generator).to(device)
        with torch.no_grad(), torch.autocast(device, torch.bfloat16):
            for name, parameter in followed.items():
                parameter.copy_(trainer.average[f"dino.{name}"])
            wanted = sinkhorn(teacher(views), TEACHER_TEMPERATURE)
        with torch.autocast(device, torch.bfloat16):
            logits = student(views)
        predicted = (logits.float() / STUDENT_TEMPERATURE).log_softmax(-1)
        crossed = torch.cat(wanted.chunk(2)[::-1])  # each view answers for the other
        return -(crossed * predicted).sum(-1).mean()

    trainer.run(loss)
    trainer.export()
    return student[0].eval(), trainer


class _Partners:
    """Second views: the same drawing, or the same concept in another hand."""

    def __init__(self, corpus: Corpus, sampler: ConceptSampler) -> None:
        self.rows: dict[int, list[int]] = {}
        for row, concept in enumerate(sampler.concepts.tolist()):
            self.rows.setdefault(concept, []).append(row)
        self.concepts = sampler.concepts
        self.hands = [e.set_name for e in corpus.emojis]

    def draw(self, first: Tensor, generator: torch.Generator) -> Tensor:
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
