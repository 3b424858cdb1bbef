"""A word with vectors of its own, learned beside an adapter (textual inversion).

Gal et al., An Image is Worth One Word (2022). The file that diffusers' `load_textual_inversion`
finds in a folder, `learned_embeds.safetensors`, has one tensor under the token's name for models
with one text encoder, and `clip_l` and `clip_g` for SDXL, as A1111 and ComfyUI have them.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor

from blockwise_lora.adapters import tensorfile
from blockwise_lora.adapters.errors import AdapterError
from blockwise_lora.atomic import write_bytes

WORD_FILE = "learned_embeds.safetensors"
_WORD, _TOKEN = "blockwise_lora.word", "blockwise_lora.token"
_SDXL = ("clip_l", "clip_g")


@dataclass(frozen=True, eq=False)
class LearnedWord:
    """A word that the text encoders know by vectors instead of their own tokens.

    Attributes:
        word: in captions and prompts.
        token: what tokenizers call it, and what prompts of other tools have to say: the word
            itself, unless the tokenizer had that already.
        vectors: for each text encoder, (tokens, width) float32.
    """

    word: str
    token: str
    vectors: tuple[Tensor, ...]

    def write(self, folder: Path, metadata: Mapping[str, str] = MappingProxyType({})) -> Path:
        """Write the file into a folder; returns its path.

        Raises:
            AdapterError: a vector is not finite.
            WriteError: the folder cannot be written.
        """
        if not all(torch.isfinite(some).all() for some in self.vectors):
            raise AdapterError(
                f"the vectors of {self.word!r} are not finite: the training diverged; nothing was "
                "written. Lower training.trigger_embedding.learning_rate"
            )
        names = (self.token,) if len(self.vectors) == 1 else _SDXL
        tensors = dict(zip(names, self.vectors, strict=True))
        about = dict(metadata) | {"format": "pt", _WORD: self.word, _TOKEN: self.token}
        write_bytes(folder / WORD_FILE, tensorfile.encode(tensors, about))
        return folder / WORD_FILE

    @classmethod
    def read(cls, folder: Path) -> "LearnedWord | None":
        """The word in an adapter's folder, if there is one; from other tools, too.

        Raises:
            AdapterError: the file is damaged, or says nothing of the word.
        """
        path = folder / WORD_FILE
        if not path.is_file():
            return None
        file = tensorfile.read(path)
        names = _SDXL if set(file.tensors) == set(_SDXL) else tuple(file.tensors)
        token = file.metadata.get(_TOKEN, names[0] if len(names) == 1 else "")
        stored = tuple(file.tensors[name] for name in names)
        # Torch computes nothing in types of 8 bits and less.
        fits = all(
            some.dtype.itemsize > 1 and some.dim() in (1, 2) and some.isfinite().all()
            for some in stored
        )
        if not token or not fits or len({some.shape[:-1] for some in stored}) != 1:
            raise AdapterError(
                f"{path} holds no vectors of a word ({', '.join(names) or 'no tensors'}): train it "
                "anew, or move it away"
            )
        vectors = tuple(some.float().reshape(-1, some.shape[-1]) for some in stored)
        return cls(file.metadata.get(_WORD, token), token, vectors)


def free_token(word: str, vocabularies: Iterable[Mapping[str, int]]) -> str:
    """A token's name for a word: itself, or <word> where a tokenizer has it or cannot have it.

    A token that is there already has a meaning to all prompts, so it is never given a new one.
    """
    known = [*vocabularies]
    plain = re.sub(r"\W+", "-", word).strip("-") or "word"
    names = [word] if re.fullmatch(r"[\w-]+", word) else []
    names += [f"<{plain}>", *(f"<{plain}-{i}>" for i in range(2, 1000))]
    return next(n for n in names if not any(n in some or n.lower() in some for some in known))
