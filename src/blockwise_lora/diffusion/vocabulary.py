"""A model's words: its tokenizers' own, and words with vectors that adapters brought.

Words are added beside tokenizers and embeddings, which stay as they are: a word has ids behind the
vocabulary that are its alone, in a copy of the tokenizer they stand for the word, and the embedding
looks them up in the word's own vectors. So any number of trainings share a model, each with its own
meaning of the same word. What a prompt becomes is what diffusers makes of it after
`load_textual_inversion`.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from blockwise_lora.adapters.errors import AdapterError
from blockwise_lora.adapters.words import LearnedWord, free_token
from blockwise_lora.diffusion.text import TokenIds

if TYPE_CHECKING:
    from transformers import CLIPTokenizer, PreTrainedModel


@dataclass(frozen=True, eq=False)
class _Held:
    """A word beside the model.

    Attributes:
        word, token: see `LearnedWord`.
        initial: for each text encoder, (tokens, width) float32.
        changes: what is learned, from zero on, so that weight decay leads back to `initial`.
        start: the first of its ids.
    """

    word: str
    token: str
    initial: tuple[Tensor, ...]
    changes: tuple[nn.Parameter, ...]
    start: int

    def vectors(self, encoder: int) -> Tensor:
        """As the encoder reads them."""
        return self.initial[encoder] + self.changes[encoder]

    @property
    def names(self) -> list[str]:
        """Of its tokens, as diffusers calls them."""
        return [self.token, *(f"{self.token}_{i}" for i in range(1, len(self.initial[0])))]


class Vocabulary:
    """The words of one model.

    Args:
        tokenizers: of the model.
        text_encoders: likewise, one for each.
    """

    def __init__(
        self, tokenizers: Sequence[CLIPTokenizer], text_encoders: Sequence[PreTrainedModel]
    ) -> None:
        self._tokenizers = tuple(tokenizers)
        self._embeddings = [encoder.get_input_embeddings() for encoder in text_encoders]
        self._held: dict[str, _Held] = {}
        self._acting: tuple[str, ...] = ()

    def __contains__(self, name: str) -> bool:
        """Whether an adapter of this name brought a word."""
        return name in self._held

    def ids(self, prompts: Sequence[str]) -> TokenIds:
        """Token ids of prompts, with the words that act now, on the encoders' device."""
        device = self._embeddings[0].weight.device
        acting = [self._held[name] for name in self._acting]
        ids = (_ids(tokenizer, prompts, acting) for tokenizer in self._tokenizers)
        return TokenIds(tuple(some.to(device) for some in ids))

    def new(self, name: str, word: str, count: int, initial: str) -> tuple[nn.Parameter, ...]:
        """Add a word that is to be learned; returns what there is to train.

        Args:
            name: of the adapter that it belongs to.
            word: the trigger; it need not be new to the tokenizers.
            count: of its tokens.
            initial: words whose vectors it starts from, in turn.

        Raises:
            AdapterError: `initial` says nothing to the tokenizers.
        """
        token = free_token(word, [tokenizer.get_vocab() for tokenizer in self._tokenizers])
        vectors = []
        for tokenizer, embedding in zip(self._tokenizers, self._embeddings, strict=True):
            known = tokenizer(initial, add_special_tokens=False).input_ids
            if not known:
                raise AdapterError(
                    f"training.trigger_embedding.initial: {initial!r} is no word that could be "
                    "started from: name one, such as the class word"
                )
            rows = torch.tensor([known[i % len(known)] for i in range(count)])
            vectors.append(embedding.weight.detach()[rows.to(embedding.weight.device)].float())
        return self.add(name, LearnedWord(word, token, tuple(vectors)))

    def add(self, name: str, word: LearnedWord) -> tuple[nn.Parameter, ...]:
        """Add a word with the vectors that it has; it acts when `only` says so.

        Raises:
            AdapterError: the vectors are for another model.
        """
        widths = [embedding.embedding_dim for embedding in self._embeddings]
        given = [vectors.shape[-1] for vectors in word.vectors]
        if given != widths:
            raise AdapterError(
                f"the word {word.word!r} has vectors of width {given}, and the text encoders take "
                f"{widths}: use it with the base model that it was trained on"
            )
        pairs = [*zip(word.vectors, self._embeddings, strict=True)]
        initial = tuple(vectors.to(e.weight.device, torch.float32) for vectors, e in pairs)
        changes = tuple(nn.Parameter(torch.zeros_like(vectors)) for vectors in initial)
        held = _Held(word.word, word.token, initial, changes, self._free_id())
        self._held[name] = held
        for i, embedding in enumerate(self._embeddings):
            embedding.forward = partial(self._embed, i, embedding)
        return changes

    def learned(self, name: str) -> LearnedWord | None:
        """An adapter's word as it is now; None if it has none."""
        held = self._held.get(name)
        if held is None:
            return None
        vectors = (held.vectors(i).detach().cpu() for i in range(len(self._embeddings)))
        return LearnedWord(held.word, held.token, tuple(vectors))

    def remove(self, name: str) -> None:
        """Take an adapter's word off, if it has one; with the last one the model is as before."""
        self._acting = tuple(other for other in self._acting if other != name)
        if self._held.pop(name, None) and not self._held:
            for embedding in self._embeddings:
                del embedding.forward

    def act(self, names: Collection[str]) -> None:
        """Let the words of these adapters, as far as they have any, act from now on, alone.

        Raises:
            AdapterError: two of them mean different things by the same word.
        """
        acting = tuple(name for name in self._held if name in names)
        tokens = [self._held[name].token for name in acting]
        if len(set(tokens)) < len(tokens):
            raise AdapterError(
                f"the adapters {' and '.join(acting)} have learned the same word, "
                f"{self._held[acting[0]].word!r}: train one of them with another trigger"
            )
        self._acting = acting

    @contextmanager
    def only(self, names: Collection[str]) -> Iterator[None]:
        """`act`, in here."""
        before = self._acting
        self.act(names)
        try:
            yield
        finally:
            self._acting = tuple(name for name in before if name in self._held)

    def _free_id(self) -> int:
        sizes = [embedding.num_embeddings for embedding in self._embeddings]
        ends = [held.start + len(held.names) for held in self._held.values()]
        return max([*sizes, *map(len, self._tokenizers), *ends])

    def _embed(self, encoder: int, embedding: nn.Embedding, ids: Tensor) -> Tensor:
        last = embedding.num_embeddings - 1
        answer = type(embedding).forward(embedding, ids.clamp(max=last))
        for held in self._held.values():
            vectors = held.vectors(encoder).to(answer.dtype)
            place = ids - held.start
            here = (place >= 0) & (place < len(vectors))
            answer = torch.where(here[..., None], vectors[place.clamp(0, len(vectors) - 1)], answer)
        return answer


def _ids(tokenizer: CLIPTokenizer, prompts: Sequence[str], words: Sequence[_Held]) -> Tensor:
    """Token ids, (n, tokens) int64."""
    prompts = list(prompts)
    if words:
        tokenizer, meant = _extended(tokenizer, words)
        prompts = [_with_tokens(prompt, tokenizer, words) for prompt in prompts]
    ids = tokenizer(
        prompts,
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    return meant[ids] if words else ids


def _extended(tokenizer: CLIPTokenizer, words: Sequence[_Held]) -> tuple[CLIPTokenizer, Tensor]:
    """A copy that knows the words, and what its ids are called here."""
    tokenizer = copy.deepcopy(tokenizer)
    places: dict[int, int] = {}
    for held in words:
        tokenizer.add_tokens(held.names)
        own = tokenizer.convert_tokens_to_ids(held.names)
        places |= {place: held.start + i for i, place in enumerate(own)}
    meant = torch.arange(max(len(tokenizer), *(place + 1 for place in places)))
    meant[list(places)] = torch.tensor(list(places.values()))
    return tokenizer, meant


def _with_tokens(prompt: str, tokenizer: CLIPTokenizer, words: Sequence[_Held]) -> str:
    """A prompt with tokens for words, as many as each has."""
    from diffusers.loaders import TextualInversionLoaderMixin

    for held in words:
        if held.token != held.word:
            word = rf"(?<!\w){re.escape(held.word)}(?!\w)"
            prompt = re.sub(word, lambda _, token=held.token: token, prompt)
    return TextualInversionLoaderMixin().maybe_convert_prompt(prompt, tokenizer)
