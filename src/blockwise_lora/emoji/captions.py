"""Tag-like captions of the corpus, and the tokenizer made for them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from transformers import CLIPTokenizer

from blockwise_lora.emoji.corpus import Emoji
from blockwise_lora.emoji.sources import SETS

CONTEXT_LENGTH = 32
"""Tokens per caption. Captions are tags; the longest has 30 tokens, and 77 would cost time."""

VOCABULARY = 3072
START, END = "<|startoftext|>", "<|endoftext|>"


def style_phrase(set_name: str) -> str:
    """How captions name a set's style."""
    return f"{SETS[set_name].style_words} style"


def plain_caption(emoji: Emoji) -> str:
    """The caption without chance: style and label."""
    return f"{style_phrase(emoji.set_name)}, {emoji.label}"


def draw_caption(emoji: Emoji, generator: torch.Generator) -> str:
    """A caption for one training step: style, label and some tags, each left out at times.

    The style is named in 85 of 100 captions, so that a prompt may be silent about it; the label
    in 90 of 100, so that tags alone carry meaning, too.
    """
    parts = []
    chance = torch.rand(4, generator=generator).tolist()
    if chance[0] < 0.85:
        parts.append(style_phrase(emoji.set_name))
    tags = list(emoji.tags)
    if chance[1] < 0.9 or not tags:
        parts.append(emoji.label)
    if tags and chance[2] < 0.7:
        order = torch.randperm(len(tags), generator=generator).tolist()
        count = 1 + int(chance[3] * 3)
        parts.extend(tags[i] for i in order[:count])
    return ", ".join(parts or [emoji.label])


def train_tokenizer(texts: Iterable[str], folder: Path) -> CLIPTokenizer:
    """Learn a byte-pair vocabulary in CLIP's format from captions and save it in `folder`.

    The end token has the highest id, as CLIP's pooling expects; padding repeats it, as in Stable
    Diffusion 1.x. Words that captions never hold, such as trigger words, fall into letters.
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token=END))
    bpe.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    words = Regex(r"[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(words, "removed", invert=True), pre_tokenizers.ByteLevel(False)]
    )
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    alphabet = letters + [f"{letter}</w>" for letter in letters]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 2, initial_alphabet=letters, end_of_word_suffix="</w>"
    )
    bpe.train_from_iterator(texts, trainer)
    learned = json.loads(bpe.to_str())["model"]
    merges = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in learned["merges"]]
    vocabulary = list(dict.fromkeys([*alphabet, *("".join(m) for m in merges)]))
    ids = {token: i for i, token in enumerate([*vocabulary, START, END])}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(ids, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(m) for m in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    tokenizer = CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=CONTEXT_LENGTH
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> torch.Tensor:
    """Token ids, (n, 32) int64, padded with the end token."""
    return tokenizer(
        captions,
        padding="max_length",
        max_length=CONTEXT_LENGTH,
        truncation=True,
        return_tensors="pt",
    ).input_ids
