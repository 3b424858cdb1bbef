"""Trained adapters in a folder, found by all that made them.

    <bank>/<concept>/<hash>/pytorch_lora_weights.safetensors

A mask that was trained once, in this sweep or in an earlier one, is never trained again unless
something that decides its result has changed.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from blockwise_lora.adapters import Adapter, AdapterError, AdapterSpec, read_adapter
from blockwise_lora.adapters.files import WEIGHTS_FILE
from blockwise_lora.atomic import replace_folder
from blockwise_lora.diffusion.base import BaseModel
from blockwise_lora.diffusion.config import TrainingConfig
from blockwise_lora.diffusion.trained import (
    configuration_hash_of,
    configuration_of,
)
from blockwise_lora.errors import UserError
from blockwise_lora.imagesets import ImageSet
from blockwise_lora.sweep.packing import pack, unpack
from blockwise_lora.sweep.shared import SharedBank

log = logging.getLogger(__name__)

COST_FILE, LOSS_FILE = "cost.json", "losses.json"


@dataclass(frozen=True)
class Lesson:
    """What a concept's adapters learn from, and how; only the mask varies.

    Attributes:
        concept: character or style.
        images: its curated pictures.
        spec: method and ranks; its mask is replaced by each mask of the sweep.
        config: of the training.
        words: for the adapters' metadata, e.g. trigger and class word.
    """

    concept: str
    images: ImageSet
    spec: AdapterSpec
    config: TrainingConfig
    words: Mapping[str, str]

    def masked(self, mask: str) -> AdapterSpec:
        """The adapter's specification with this mask."""
        return replace(self.spec, blocks=mask)


@dataclass(frozen=True)
class Cost:
    """What an adapter took.

    Attributes:
        seconds: its share of the pass in which it was trained.
        parameters: values trained.
        memory_bytes: that its training by itself needs beside the frozen model, as counted by
            `training_bytes`.
        file_bytes: of its file in diffusers' format.
    """

    seconds: float
    parameters: int
    memory_bytes: int
    file_bytes: int


@dataclass(frozen=True)
class Entry:
    """An adapter of the bank.

    Attributes:
        concept, mask: what it is.
        key: hash of all that made it.
        folder: where its files are, or will be.
    """

    concept: str
    mask: str
    key: str
    folder: Path

    @property
    def place(self) -> str:
        """Within any bank."""
        return f"{self.concept}/{self.folder.name}"

    @property
    def trained(self) -> bool:
        """Whether its files are there."""
        return self.folder.is_dir()

    def read(self) -> Adapter:
        """The adapter.

        Raises:
            AdapterError: it is missing or damaged.
        """
        return read_adapter(self.folder)

    @property
    def losses(self) -> tuple[float, ...]:
        """Of every step of its training."""
        return tuple(json.loads((self.folder / LOSS_FILE).read_text(encoding="utf-8")))

    @property
    def cost(self) -> Cost:
        """What it took, on the machine that trained it."""
        told = json.loads((self.folder / COST_FILE).read_text(encoding="utf-8"))
        return Cost(**told, file_bytes=(self.folder / WEIGHTS_FILE).stat().st_size)


@dataclass(frozen=True)
class Bank:
    """The folder of all adapters of a base model's sweeps.

    Attributes:
        folder: on this machine.
        shared: where other machines' banks keep theirs as well; None: nowhere.
    """

    folder: Path
    shared: SharedBank | None = None

    def entry(self, base: BaseModel, lesson: Lesson, mask: str) -> Entry:
        """Where the adapter of a mask is or belongs."""
        key = configuration_hash_of(
            base, lesson.images.sha256, lesson.masked(mask), lesson.config, lesson.words
        )
        return Entry(lesson.concept, mask, key, self.folder / lesson.concept / key[:16])

    def fetched(self, entry: Entry) -> bool:
        """Whether an adapter was in the shared bank, and is in this one now.

        Raises:
            UserError: the shared bank cannot be reached.
        """
        files = self.shared.get(entry.place) if self.shared else None
        if files is None:
            return False
        try:
            with replace_folder(entry.folder) as staging:
                unpack(files, staging)
                if configuration_of(read_adapter(staging)) != entry.key:
                    raise ValueError("it was made otherwise than its name says")
        except (ValueError, AdapterError) as error:
            log.warning("%s in the shared bank is of no use: %s", entry.place, error)
            return False
        return True

    def share(self, entry: Entry) -> None:
        """Let other machines have an adapter; a failure costs a warning, not the adapter."""
        try:
            if self.shared:
                self.shared.put(entry.place, pack(entry.folder))
        except UserError as error:
            log.warning("%s is in this machine's bank alone. %s", entry.mask, error)
