"""Captions by a model of transformers that reads pictures and writes text.

BLIP, BLIP-2, Florence-2, GIT and others, each by its own processor. Only safetensors are loaded,
and no code out of a model's repository is run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from blockwise_lora.imagesets.captioning.subject import Subject, batched
from blockwise_lora.imagesets.errors import ImageSetError


@dataclass(frozen=True)
class ImageToTextConfig:
    """The parameter group `image_to_text`.

    Attributes:
        model: folder or hub id, such as Salesforce/blip2-opt-2.7b, or
            florence-community/Florence-2-base.
        prompt: what the text begins with, for BLIP; for Florence-2 the task, <CAPTION> or
            <DETAILED_CAPTION>. Empty: nothing.
        max_new_tokens: most tokens that are written.
        beams: of the search; 1 takes the likeliest token each time.
        batch_size: pictures a pass.

    Raises:
        ValueError: a value is out of its range.
    """

    model: str = ""
    prompt: str = ""
    max_new_tokens: int = 40
    beams: int = 3
    batch_size: int = 8

    def __post_init__(self) -> None:
        mistakes = [
            f"{name} is at least 1, not {getattr(self, name)}"
            for name in ("max_new_tokens", "beams", "batch_size")
            if getattr(self, name) < 1
        ]
        if mistakes:
            raise ValueError("\n".join(mistakes))


@dataclass(frozen=True)
class ImageToText:
    """A loaded model.

    Attributes:
        model: of transformers, with `generate`.
        processor: pictures and prompt to its inputs, tokens to text.
        config: prompt and search.
        name: of the source.
    """

    model: Any
    processor: Any
    config: ImageToTextConfig
    name: str = "image_to_text"

    @classmethod
    def load(cls, config: ImageToTextConfig, device: str = "cpu") -> ImageToText:
        """Load model and processor.

        Raises:
            ImageSetError: no model is named, or it cannot be loaded.
        """
        from transformers import AutoModelForImageTextToText, AutoProcessor

        if not config.model:
            raise ImageSetError(
                "captioning.sources has image_to_text, but captioning.image_to_text.model is "
                "empty: name a folder or a hub id"
            )
        try:
            processor = AutoProcessor.from_pretrained(config.model, trust_remote_code=False)
            model = AutoModelForImageTextToText.from_pretrained(
                config.model, trust_remote_code=False, use_safetensors=True
            )
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise ImageSetError(
                f"captioning.image_to_text.model: {config.model} cannot be loaded ({error}). It "
                "must be an image-to-text model of transformers with safetensors weights; "
                "without a network, download it once or name a folder"
            ) from error
        return cls(model.eval().to(device), processor, config)

    def captions(self, subjects: Sequence[Subject]) -> list[str | None]:
        found: list[str | None] = []
        for batch in batched(subjects, self.config.batch_size):
            found += self._read([subject.open() for subject in batch])
        return found

    def _read(self, pictures: list[Image.Image]) -> list[str | None]:
        import torch

        prompts = {"text": [self.config.prompt] * len(pictures)} if self.config.prompt else {}
        inputs = self.processor(images=pictures, return_tensors="pt", padding=True, **prompts)
        with torch.inference_mode():
            written = self.model.generate(
                **inputs.to(self.model.device),
                max_new_tokens=self.config.max_new_tokens,
                num_beams=self.config.beams,
                do_sample=False,
            )
        texts = self.processor.batch_decode(written, skip_special_tokens=True)
        return [self._tidied(text) or None for text in texts]

    def _tidied(self, text: str) -> str:
        """Without the prompt that decoder-only models repeat, and without a full stop."""
        text = " ".join(text.split())
        prompt = " ".join(self.config.prompt.split())
        if prompt and text.casefold().startswith(prompt.casefold()):
            text = text[len(prompt) :]
        return text.strip(" .")
