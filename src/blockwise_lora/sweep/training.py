"""Training what a bank lacks: masks in groups, each group in one pass, by whoever trains."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Protocol

from filelock import FileLock, Timeout

from blockwise_lora.adapters import Plan
from blockwise_lora.atomic import replace_folder, write_text
from blockwise_lora.diffusion.attached import unload
from blockwise_lora.diffusion.base import BaseModel
from blockwise_lora.diffusion.footprint import training_bytes
from blockwise_lora.diffusion.trained import TrainedAdapter
from blockwise_lora.diffusion.trainer import Failed, Job, Trained, train_many
from blockwise_lora.sweep.bank import COST_FILE, LOSS_FILE, Bank, Entry, Lesson


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
