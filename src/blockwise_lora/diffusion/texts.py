"""Embeddings of all captions of a training, computed once; token ids where embeddings change.

Each embedding is kept on disk in a file of its own, named by everything that it depends on (model,
precision, device, the words' token ids), so that every run on every data set can use it. It does
not depend on the other captions: a cache that knows some of them already changes no bit of a
training.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from blockwise_lora.atomic import WriteError, write_bytes
from blockwise_lora.diffusion.attached import bare
from blockwise_lora.diffusion.base import BaseModel
from blockwise_lora.diffusion.text import Prompts, Text, TokenIds

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class TextTable:
    """Distinct prompts, encoded or as token ids.

    Attributes:
        text: one row for each prompt, on the model's device.
        row: prompt to row.
    """

    text: Prompts
    row: Mapping[str, int]

    @classmethod
    def of(cls, base: BaseModel, prompts: Iterable[str], folder: Path | None = None) -> TextTable:
        """Encode prompts, each once.

        Args:
            base: whose text encoders encode, without their adapters.
            prompts: any; equal ones share a row.
            folder: where embeddings are kept from one run to the next; None: nowhere.
        """
        distinct = sorted(set(prompts))
        # Another training's adapter or word would stay in the cache for ever.
        with bare(base), torch.no_grad():
            ids = base.vocabulary.ids(distinct)
            # One by one: in a batch the last bits depend on its size, and so on what is cached.
            table = [_encoded(base, ids[[i]], folder) for i in range(len(distinct))]
        return cls(Text.cat(table), {prompt: i for i, prompt in enumerate(distinct)})

    @classmethod
    def of_ids(cls, base: BaseModel, prompts: Iterable[str]) -> TextTable:
        """The prompts' token ids, for a training that changes what the encoders make of them."""
        distinct = sorted(set(prompts))
        return cls(base.vocabulary.ids(distinct), {prompt: i for i, prompt in enumerate(distinct)})

    def rows(self, prompts: Iterable[Iterable[str]]) -> Tensor:
        """Rows of a table of prompts, int64, on the model's device."""
        rows = [[self.row[prompt] for prompt in some] for some in prompts]
        return torch.tensor(rows, device=self.text.device)


def _encoded(base: BaseModel, prompt: TokenIds, folder: Path | None) -> Text:
    """One prompt's embedding, out of the folder or new and put there."""
    if folder is None:
        return base.encode_ids(prompt.ids)
    about = f"{base.sha256} {base.dtype} {[some.tolist() for some in prompt.ids]}{base.arithmetic}"
    file = folder / f"{hashlib.sha256(about.encode()).hexdigest()[:32]}.safetensors"
    found = _read(file, base)
    if found is None:
        found = base.encode_ids(prompt.ids)
        _keep(file, found)
    return found


def _read(file: Path, base: BaseModel) -> Text | None:
    try:
        tensors = load_file(file, str(base.device))
        return Text(tensors["tokens"], tensors.get("pooled"))
    except (OSError, SafetensorError, KeyError):
        return None  # not there yet, or damaged: computed (again)


def _keep(file: Path, text: Text) -> None:
    tensors = {"tokens": text.tokens} | ({} if text.pooled is None else {"pooled": text.pooled})
    try:
        write_bytes(file, save({k: t.cpu().contiguous() for k, t in tensors.items()}))
    except WriteError as error:
        log.warning("Embeddings are not kept for the next run: %s", error)
