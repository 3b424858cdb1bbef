"""The CLIP judge: pictures and texts in one space (Radford et al. 2021), by open_clip.

A source is a local folder (`open_clip_config.json`, `open_clip_model.safetensors` and the files of
a `CLIPTokenizer`) or a public model as `ARCHITECTURE/TAG`, e.g. `ViT-L-14/openai`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.pretrained import get_pretrained_cfg
from PIL import Image
from torch import Tensor

from blockwise_lora.judges.preprocess import Preprocess, batches, unit_vectors
from blockwise_lora.judges.weights import (
    JudgeError,
    download,
    fit_weights,
    move,
    read_json,
    read_weights,
    sha256_of,
)

CONFIG_FILE, WEIGHTS_FILE = "open_clip_config.json", "open_clip_model.safetensors"


@dataclass(frozen=True)
class ClipJudge:
    """A frozen CLIP.

    Attributes:
        name: the source that it was loaded from.
        sha256: of its weights file.
        model: image and text towers.
        preprocess: pictures to the image tower's input.
        tokenize: n texts to token ids, (n, context length).
        device: where the model lives.
        batch_size: pictures or texts per pass.
    """

    name: str
    sha256: str
    model: torch.nn.Module
    preprocess: Preprocess
    tokenize: Callable[[list[str]], Tensor]
    device: str = "cpu"
    batch_size: int = 64

    @property
    def scale(self) -> float:
        """What cosines are multiplied by before a softmax over texts, as it was trained."""
        return float(self.model.logit_scale.exp())

    @torch.inference_mode()
    def images(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """Unit vectors of pictures, (n, d) float32."""
        parts = [
            self.model.encode_image(self.preprocess(batch).to(self.device))
            for batch in batches(pictures, self.batch_size)
        ]
        return unit_vectors(torch.cat(parts))

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors of texts, (n, d) float32; a text beyond the context is cut off."""
        parts = [
            self.model.encode_text(self.tokenize(list(batch)).to(self.device))
            for batch in batches(texts, self.batch_size)
        ]
        return unit_vectors(torch.cat(parts))


def load_clip(source: str | Path, device: str = "cpu", batch_size: int = 64) -> ClipJudge:
    """Load a CLIP judge from a folder or by a public name.

    Raises:
        JudgeError: neither a folder nor a known public model, or its files do not fit.
    """
    folder = Path(source)
    judge = _from_folder(folder) if folder.is_dir() else _public(str(source))
    model = move(judge.pop("model"), device)
    return ClipJudge(name=str(source), model=model, device=device, batch_size=batch_size, **judge)


def _from_folder(folder: Path) -> dict[str, Any]:
    config = read_json(folder / CONFIG_FILE)
    weights = folder / WEIGHTS_FILE
    try:
        model_cfg, look = config["model_cfg"], config["preprocess_cfg"]
        preprocess = Preprocess(_edge(look["size"]), tuple(look["mean"]), tuple(look["std"]))
        with torch.random.fork_rng(devices=[]):  # the initial weights are thrown away
            model = open_clip.CLIP(**model_cfg)
    except (KeyError, TypeError, AttributeError) as error:
        raise JudgeError(
            f"{folder / CONFIG_FILE} is not an open_clip configuration ({error!r}): "
            "restore the file"
        ) from error
    return {
        "model": fit_weights(model, read_weights(weights), weights),
        "preprocess": preprocess,
        "tokenize": _folder_tokenizer(folder, model.context_length, model.vocab_size),
        "sha256": sha256_of(weights),
    }


def _folder_tokenizer(folder: Path, context: int, vocabulary: int) -> Callable[[list[str]], Tensor]:
    from transformers import CLIPTokenizer

    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, TypeError) as error:
        raise JudgeError(f"no tokenizer in {folder}: {error}; restore its files") from error
    # Where its files are missing, transformers makes an empty tokenizer without a word.
    if len(tokenizer) != vocabulary:
        raise JudgeError(
            f"the tokenizer in {folder} has {len(tokenizer)} words and the judge {vocabulary}: "
            "restore the tokenizer's files"
        )

    def tokenize(texts: list[str]) -> Tensor:
        padded = tokenizer(
            texts, padding="max_length", max_length=context, truncation=True, return_tensors="pt"
        )
        return padded["input_ids"]

    return tokenize


def _public(source: str) -> dict[str, Any]:
    architecture, _, tag = source.partition("/")
    known = get_pretrained_cfg(architecture, tag) if tag else {}
    if not known.get("hf_hub"):
        raise JudgeError(
            f"no CLIP judge at {source!r}: neither an existing folder nor a public model named "
            "ARCHITECTURE/TAG, such as ViT-L-14/openai"
        )
    # The tag says whether its weights were trained with CLIP's own QuickGELU; names do not.
    with torch.random.fork_rng(devices=[]):
        model = open_clip.create_model(
            architecture, pretrained=None, force_quick_gelu=known.get("quick_gelu", False)
        )
    weights = download(known["hf_hub"], WEIGHTS_FILE, source)
    return {
        "model": fit_weights(model, read_weights(weights), weights),
        "preprocess": Preprocess(_edge(model.visual.image_size), known["mean"], known["std"]),
        "tokenize": open_clip.get_tokenizer(architecture),
        "sha256": sha256_of(weights),
    }


def _edge(size: int | Sequence[int]) -> int:
    return int(size) if isinstance(size, int) else int(size[0])
