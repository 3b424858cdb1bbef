"""Passes of a sweep as Ray tasks, on a laptop's cores or on a cluster.

A task gets pictures and recipe through Ray's object store and gives files back the same way, so
workers need no folder in common with the driver; only the base model must be where they can load
it (a hub id, or the same path everywhere). The driver alone writes into the bank: a worker that is
lost leaves nothing half done, and its pass is given to another.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from blockwise_lora.atomic import replace_folder
from blockwise_lora.diffusion.base import BaseModel, load_from_parameters
from blockwise_lora.diffusion.learner import TrainingError
from blockwise_lora.diffusion.trainer import Failed
from blockwise_lora.errors import UserError
from blockwise_lora.imagesets import read_imagefolder
from blockwise_lora.sweep.bank import Entry, Lesson
from blockwise_lora.sweep.packing import Files, pack, unpack
from blockwise_lora.sweep.ray_config import RayConfig
from blockwise_lora.sweep.training import TrainHere

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainOnRay:
    """Trains every pass in a task of its own; see `training.Trainer`.

    Attributes:
        config: where, and what a task needs.
        base_model: parameter group of the base model, loaded once in each worker.
        device: of the workers; `cuda` is the card that Ray gives a task.
    """

    config: RayConfig
    base_model: Mapping[str, Any]
    device: str

    def __call__(
        self, base: BaseModel, lesson: Lesson, passes: Sequence[Sequence[Entry]]
    ) -> Iterator[tuple[Entry, Failed | None]]:
        """Start all tasks, and store what comes back in the order in which it does.

        Raises:
            UserError: Ray is not installed or not there, or a pass lost all its workers.
        """
        if not passes:
            return
        ray = _connected(self.config)
        task = ray.remote(
            num_cpus=self.config.num_cpus,
            num_gpus=self.config.num_gpus,
            max_retries=self.config.retries,
        )(train_pass)
        pictures = ray.put(pack(lesson.images.root))
        pending = {
            task.remote(
                dict(self.base_model), self.device, lesson, pictures, list(entries)
            ): entries
            for entries in passes
        }
        log.info("%s: %d passes on Ray", lesson.concept, len(pending))
        while pending:
            (done,), _ = ray.wait(list(pending), num_returns=1)
            entries = pending.pop(done)
            yield from _stored(entries, _result(ray, done, entries))


def train_pass(
    base_model: Mapping[str, Any],
    device: str,
    lesson: Lesson,
    pictures: Files,
    entries: Sequence[Entry],
) -> dict[str, Files | str]:
    """A worker's share: train one pass, and return each key's files, or what went wrong.

    Args:
        base_model: parameter group of the base model.
        device: where to train.
        lesson: its picture set is replaced by `pictures`.
        pictures: the set's folder, packed.
        entries: of the pass; their folders are the driver's and not touched.
    """
    # Named after the worker: what one that was killed left behind is then known for what it is.
    with tempfile.TemporaryDirectory(prefix=f"blockwise-lora-{os.getpid()}-") as scratch:
        root = Path(scratch)
        unpack(pictures, root / "pictures")
        here = replace(lesson, images=read_imagefolder(root / "pictures"))
        if here.images.sha256 != lesson.images.sha256:
            raise TrainingError(f"{lesson.images.root}: the pictures changed on their way")
        local = [replace(e, folder=root / e.key) for e in entries]
        trained = TrainHere(root / "checkpoints")(_base(dict(base_model), device), here, [local])
        return {e.key: str(f.error) if f else pack(e.folder) for e, f in trained}


_loaded: dict[str, BaseModel] = {}


def _base(group: Mapping[str, Any], device: str) -> BaseModel:
    """The base model, kept for the next task of this worker."""
    key = repr((sorted(group.items()), device))
    if key not in _loaded:
        _loaded.clear()
        _loaded[key] = load_from_parameters(group, device)
    return _loaded[key]


def _connected(config: RayConfig) -> Any:
    try:
        import ray
    except ImportError as error:
        raise UserError(
            "sweep.ray: Ray is not installed: pip install 'blockwise-lora[ray]', or set sweep.ray "
            "to null to train on this machine alone"
        ) from error
    if not ray.is_initialized():
        try:
            # Neither usage reports nor a dashboard that others could reach.
            ray.init(address=config.address, include_dashboard=False, log_to_driver=False)
        except ConnectionError as error:
            raise UserError(
                f"sweep.ray.address: no Ray cluster at {config.address!r}: start one "
                "(ray start --head), correct the address, or set it to null"
            ) from error
    return ray


def _result(ray: Any, done: Any, entries: Sequence[Entry]) -> dict[str, Files | str]:
    try:
        return ray.get(done)
    except ray.exceptions.RayTaskError as error:
        raise error.cause if isinstance(error.cause, UserError) else error from None
    except ray.exceptions.RayError as error:
        masks = ", ".join(entry.mask for entry in entries)
        raise UserError(
            f"the workers that trained {masks} were lost again and again "
            f"({type(error).__name__}): see Ray's logs for why (out of memory is the most usual "
            "reason; lower sweep.at_once). Run again: what was finished stays."
        ) from error


def _stored(
    entries: Sequence[Entry], made: Mapping[str, Files | str]
) -> Iterator[tuple[Entry, Failed | None]]:
    for entry in entries:
        result = made[entry.key]
        if isinstance(result, str):
            yield entry, Failed(entry.mask, TrainingError(result))
            continue
        with replace_folder(entry.folder) as staging:
            unpack(result, staging)
        yield entry, None
