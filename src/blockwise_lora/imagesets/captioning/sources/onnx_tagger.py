"""Tags by a WD14-style tagger in ONNX format: `model.onnx` and `selected_tags.csv`.

Such models take a batch of square pictures, blue before green before red, 0 to 255, on white, and
return a probability for each tag of the list.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from blockwise_lora.imagesets.captioning.subject import Subject, batched
from blockwise_lora.imagesets.captioning.tags import join_tags
from blockwise_lora.imagesets.errors import ImageSetError
from blockwise_lora.imagesets.framing import Framing

GENERAL, CHARACTER = 0, 4
"""Categories in the tag list; the others are ratings and names of artists."""
KAOMOJI = 3
"""Tags of at most so many signs, such as `^_^`, keep their underscores."""


@dataclass(frozen=True)
class OnnxTaggerConfig:
    """The parameter group `onnx_tagger`.

    Attributes:
        folder: holds the model and its list of tags.
        threshold: least probability of a general tag, 0 to 1.
        character_threshold: likewise of a character's name; those are told apart less well.
        batch_size: pictures a pass, where the model allows more than one.

    Raises:
        ValueError: a value is out of its range.
    """

    folder: str = ""
    threshold: float = 0.35
    character_threshold: float = 0.85
    batch_size: int = 8

    def __post_init__(self) -> None:
        mistakes = [
            f"{name} is in [0, 1], not {getattr(self, name)}"
            for name in ("threshold", "character_threshold")
            if not 0 <= getattr(self, name) <= 1
        ]
        if self.batch_size < 1:
            mistakes.append(f"batch_size is at least 1, not {self.batch_size}")
        if mistakes:
            raise ValueError("\n".join(mistakes))


@dataclass(frozen=True)
class OnnxTagger:
    """A loaded tagger.

    Attributes:
        session: of onnxruntime.
        tags: the names, n.
        thresholds: (n,) least probability of each; infinite for those that are never given.
        side: of the squares that the model takes, in pixels.
        batch_size: pictures a pass.
        name: of the source.
    """

    session: Any
    tags: tuple[str, ...]
    thresholds: np.ndarray
    side: int
    batch_size: int
    name: str = "onnx_tagger"

    @classmethod
    def load(cls, config: OnnxTaggerConfig) -> OnnxTagger:
        """Load a tagger's folder.

        Raises:
            ImageSetError: onnxruntime is not installed, a file is missing or damaged, or model
                and list do not belong together.
        """
        onnxruntime = _onnxruntime()
        if not config.folder:
            raise ImageSetError(
                "captioning.sources has onnx_tagger, but captioning.onnx_tagger.folder is empty: "
                "name the folder of model.onnx and selected_tags.csv"
            )
        folder = Path(config.folder)
        model, names = folder / "model.onnx", folder / "selected_tags.csv"
        for file in (model, names):
            if not file.is_file():
                raise ImageSetError(f"{file}: no such file; correct captioning.onnx_tagger.folder")
        try:
            session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has a kind for each of its status codes
            raise ImageSetError(f"{model}: no ONNX model ({error}); restore the file") from error
        tags, thresholds = _read_tags(names, config)
        (taken,), (given,) = session.get_inputs(), session.get_outputs()
        count, *square = taken.shape
        if len(square) != 3 or square[0] != square[1] or square[2] != 3 or count in range(2, 999):
            raise ImageSetError(f"{model} takes {taken.shape}, not (any or 1, side, side, 3)")
        if given.shape[-1] != len(tags):
            raise ImageSetError(
                f"{model} knows {given.shape[-1]} tags and {names.name} {len(tags)}: "
                "they do not belong together"
            )
        return cls(session, tags, thresholds, square[0], 1 if count == 1 else config.batch_size)

    def captions(self, subjects: Sequence[Subject]) -> list[str | None]:
        """Tags, the likeliest first; None where none is likely enough."""
        found: list[str | None] = []
        for batch in batched(subjects, self.batch_size):
            pixels = np.stack([self._pixels(subject.open()) for subject in batch])
            (rows,) = self.session.run(None, {self.session.get_inputs()[0].name: pixels})
            found += [self._caption(row) for row in rows]
        return found

    def _pixels(self, picture: Image.Image) -> np.ndarray:
        framed = Framing(self.side, "pad", "white").apply(picture.convert("RGB"))
        return np.asarray(framed, dtype=np.float32)[:, :, ::-1]

    def _caption(self, probabilities: np.ndarray) -> str | None:
        order = np.argsort(-probabilities, kind="stable")
        likely = [self.tags[i] for i in order if probabilities[i] >= self.thresholds[i]]
        return join_tags(likely) or None


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError:
        raise ImageSetError(
            "captioning.sources has onnx_tagger, which needs onnxruntime: "
            'pip install "blockwise-lora[onnx]"'
        ) from None
    return onnxruntime


def _read_tags(file: Path, config: OnnxTaggerConfig) -> tuple[tuple[str, ...], np.ndarray]:
    limits = {GENERAL: config.threshold, CHARACTER: config.character_threshold}
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            rows = [(row["name"], int(row["category"])) for row in csv.DictReader(lines)]
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise ImageSetError(
            f"{file}: not a tagger's list ({error!r}); it has the columns name and category"
        ) from error
    names = tuple(name if len(name) <= KAOMOJI else name.replace("_", " ") for name, _ in rows)
    return names, np.array([limits.get(category, np.inf) for _, category in rows])
