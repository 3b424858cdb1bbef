"""The panel of judges, and what it sees of every picture, once."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from blockwise_lora.judges.clip import ClipJudge, load_clip
from blockwise_lora.judges.dino import DinoJudge, load_dino
from blockwise_lora.judges.preprocess import on_white
from blockwise_lora.judges.style import STYLE_BLOCKS, style_statistics


@dataclass(frozen=True)
class JudgeConfig:
    """Which models judge.

    Attributes:
        clip: folder of a CLIP judge, or ARCHITECTURE/TAG of a public open_clip model.
        dino: folder of a DINO judge, or name of a public timm model.
        style_blocks: transformer blocks of the DINO judge, 0 = first, whose tokens hold style.
        batch_size: pictures per pass.
    """

    clip: str
    dino: str
    style_blocks: tuple[int, ...] = STYLE_BLOCKS
    batch_size: int = 64

    def __post_init__(self):
        if self.batch_size < 1:
            raise ValueError(f"batch_size: must be at least 1, got {self.batch_size}")


@dataclass(frozen=True)
class Panel:
    """The loaded judges."""

    clip: ClipJudge
    dino: DinoJudge
    style_blocks: tuple[int, ...] = STYLE_BLOCKS

    @classmethod
    def load(cls, config: JudgeConfig, device: str = "cpu") -> "Panel":
        """Load every judge.

        Raises:
            JudgeError: a judge cannot be had.
        """
        clip = load_clip(config.clip, device, config.batch_size)
        dino = load_dino(config.dino, device, config.batch_size)
        return cls(clip, dino, config.style_blocks)

    def look(self, pictures: Iterable[Image.Image], known: "Views | None" = None) -> "Views":
        """What the judges see of the pictures; equal pictures are looked at once.

        Args:
            pictures: any.
            known: of pictures that were looked at before, which need not be again.
        """
        distinct = {fingerprint(picture): picture for picture in pictures}
        new = {k: p for k, p in distinct.items() if known is None or k not in known.rows}
        if known is not None and not new:
            return known.only(distinct)
        shown = list(new.values())
        seen = Views(
            rows={key: row for row, key in enumerate(new)},
            clip=self.clip.images(shown),
            dino=self.dino.images(shown),
            style=style_statistics(self.dino, shown, self.style_blocks),
        )
        return seen if known is None else known.joined(seen).only(distinct)


@dataclass(frozen=True)
class Views:
    """Vectors of n distinct pictures.

    Attributes:
        rows: a picture's fingerprint to its row.
        clip: (n, d) unit vectors.
        dino: (n, d) unit vectors.
        style: (n, d) style statistics, not centred.
    """

    rows: dict[str, int]
    clip: np.ndarray
    dino: np.ndarray
    style: np.ndarray

    def of(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """Rows of pictures that were looked at."""
        return np.array([self.rows[fingerprint(picture)] for picture in pictures], dtype=int)

    def only(self, keys: Iterable[str]) -> "Views":
        """Those of the given fingerprints, in their order."""
        keys = list(keys)
        picked = [self.rows[key] for key in keys]
        parts = (part[picked] for part in (self.clip, self.dino, self.style))
        return Views({key: row for row, key in enumerate(keys)}, *parts)

    def joined(self, others: "Views") -> "Views":
        """These and those of other pictures."""
        rows = self.rows | {key: len(self.rows) + row for key, row in others.rows.items()}
        pairs = zip(
            (self.clip, self.dino, self.style),
            (others.clip, others.dino, others.style),
            strict=True,
        )
        return Views(rows, *(np.concatenate(pair) for pair in pairs))


def fingerprint(picture: Image.Image) -> str:
    """SHA-256 of size and pixels: equal for equal pictures, whatever file they came from."""
    picture = on_white(picture)
    return hashlib.sha256(f"{picture.size}".encode() + picture.tobytes()).hexdigest()
