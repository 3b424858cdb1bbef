"""Trained adapters in a folder, found by all that made them.

    <bank>/<concept>/<hash>/pytorch_lora_weights.safetensors

A mask that was trained once, in this sweep or in an earlier one, is never trained again unless
something that decides its result has changed.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Protocol

from filelock import FileLock, Timeout

from blockwise_lora.adapters import Adapter, AdapterError, AdapterSpec, Plan, read_adapter
from blockwise_lora.adapters.files import WEIGHTS_FILE
from blockwise_lora.atomic import replace_folder, write_text
from blockwise_lora.diffusion.attached import unload
from blockwise_lora.diffusion.base import BaseModel
from blockwise_lora.diffusion.config import TrainingConfig
from blockwise_lora.diffusion.footprint import training_bytes
from blockwise_lora.diffusion.trained import (
    TrainedAdapter,
    configuration_hash_of,
    configuration_of,
)
from blockwise_lora.diffusion.trainer import Failed, Job, Trained, train_many
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


class Trainer(Protocol):
    """Whoever trains passes: this process, or workers elsewhere."""

    def __call__(
        self, base: BaseModel, lesson: Lesson, passes: Sequence[Sequence[Entry]]
    ) -> Iterator[tuple[Entry, Failed | None]]:
        """Put every entry's adapter in its folder; yields each with what went wrong, if it did."""


@dataclass(frozen=True)
class TrainHere:
    """Trains one pass after the other in this process.

    Attributes:
        checkpoint_dir: for a run that is cut off within a pass.
        cache_dir: where latents are kept.
    """

    checkpoint_dir: Path | None = None
    cache_dir: Path | None = None

    def __call__(
        self, base: BaseModel, lesson: Lesson, passes: Sequence[Sequence[Entry]]
    ) -> Iterator[tuple[Entry, Failed | None]]:
        """See `Trainer`; the model is as before after each pass."""
        for entries in passes:
            jobs = [
                Job(entry.key[:16], lesson.images, lesson.masked(entry.mask), lesson.config)
                for entry in entries
            ]
            outcomes = train_many(
                base,
                jobs,
                checkpoint_dir=self.checkpoint_dir,
                cache_dir=self.cache_dir,
                keep_states=True,
            )
            for entry, outcome in zip(entries, outcomes, strict=True):
                if isinstance(outcome, Failed):
                    yield entry, Failed(entry.mask, outcome.error)
                    continue
                _store(base, lesson, entry, outcome, outcome.seconds / len(jobs))
                outcome.forget()
                unload(base, outcome.attached.name)
                yield entry, None


def train_missing(
    base: BaseModel,
    lesson: Lesson,
    masks: Sequence[str],
    bank: Bank,
    *,
    at_once: int,
    trainer: Trainer | None = None,
    on_trained: Callable[[Entry], None] = lambda _: None,
) -> list[Failed]:
    """Train the masks that the bank and the shared one lack, several in one pass; put them there.

    Another process that fills the same bank is not disturbed: what it is training is waited for,
    not trained a second time.

    Args:
        base: the model.
        lesson: what all masks share.
        masks: that must be in the bank afterwards.
        bank: where adapters are looked up and put.
        at_once: adapters in a pass; a matter of memory and speed.
        trainer: who trains; None: this process, without checkpoints.
        on_trained: called for each new adapter once it is in the bank.

    Returns:
        Masks whose training came to nothing; the others are in the bank.
    """
    missing = [e for e in (bank.entry(base, lesson, mask) for mask in masks) if not e.trained]
    trainer = trainer or TrainHere()
    failed: list[Failed] = []
    for wait in (False, True):
        with _claimed(missing, wait) as mine:
            new = [entry for entry in mine if not bank.fetched(entry)]
            passes = list(_passes(new, base, lesson, at_once))
            for entry, failure in trainer(base, lesson, passes):
                if failure:
                    failed.append(failure)
                else:
                    bank.share(entry)
                    on_trained(entry)
            missing = [e for e in missing if e not in mine]
    return failed


@contextmanager
def _claimed(entries: Sequence[Entry], wait: bool) -> Iterator[list[Entry]]:
    """The entries that are missing and that no other process is at work on, locked.

    Args:
        entries: to claim.
        wait: for others to finish; otherwise what they are at work on is left out.
    """
    with ExitStack() as locks:
        mine = []
        for entry in entries:
            entry.folder.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(entry.folder.with_name(f".{entry.folder.name}.lock"))
            try:
                locks.enter_context(lock.acquire(timeout=-1 if wait else 0))
            except Timeout:
                continue
            if not entry.trained:  # another process may have finished it meanwhile
                mine.append(entry)
        yield mine


def _store(base: BaseModel, lesson: Lesson, entry: Entry, trained: Trained, seconds: float) -> None:
    cost = {
        "seconds": seconds,
        "parameters": sum(trained.attached.blocks.values()),
        "memory_bytes": training_bytes(base, trained.attached.name, lesson.config),
    }
    finished = TrainedAdapter(base, trained, lesson.config, lesson.words)
    with replace_folder(entry.folder) as staging:
        finished.write(staging)
        write_text(staging / COST_FILE, json.dumps(cost))
        write_text(staging / LOSS_FILE, json.dumps(trained.losses))


def _passes(
    entries: Sequence[Entry], base: BaseModel, lesson: Lesson, at_once: int
) -> Iterator[list[Entry]]:
    """Masks in groups, those that begin at the same depth together.

    The blocks before the first trained one run once for a whole pass, so that late masks lose
    nothing only among themselves.
    """
    blocks = base.blocks

    def start(entry: Entry) -> int:
        touched = Plan.of(blocks, lesson.masked(entry.mask)).parameters
        return min(blocks.names.index(name) for name in touched)

    ordered = sorted(entries, key=start)
    for _, group in groupby(enumerate(ordered), key=lambda pair: pair[0] // at_once):
        yield [entry for _, entry in group]
