"""Saved states of trainings, from which a killed run goes on.

Each adapter has its own file, named by the hash of all that determines its result, so a run that
is started again with more or fewer adapters beside it still finds it. Adapters that train in one
pass are saved together: a state counts only if those that were saved with it are there, too, so a
kill at any moment, in the middle of a save as well, leaves a consistent set. Who has ended is not
saved any more: such a state counts as long as the others stand where they stood then, or further
on. The files lie outside the project's outputs, which DVC deletes before a stage runs; success
removes them.

Of an adapter whose loss is no number any more the last good state stays. What it has become since
is saved beside it, for the others alone: they go on to the same bits only in its company.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from blockwise_lora.atomic import write_bytes

# Torch is imported where it is used: pipelines that train nothing ask for the cache's folder, too.
if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

_FAILED = ".failed"  # in a file's name


def user_cache() -> Path:
    """This project's folder among the user's caches; BLOCKWISE_LORA_CACHE names another."""
    if given := os.environ.get("BLOCKWISE_LORA_CACHE"):
        return Path(given)
    if sys.platform == "win32":
        root = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "blockwise_lora"


def configuration_hash(**parts: object) -> str:
    """sha256 of a JSON of `parts`: equal exactly if all of them are."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class State:
    """One adapter's training at one moment.

    Attributes:
        step: steps done.
        tensors: whatever the learner needs to go on.
        notes: words that belong to it, such as the id of the run that records it.
        failed: whether nothing was learned any more.
        ended: whether no steps are left, so that no later state will follow.
    """

    step: int
    tensors: Mapping[str, Tensor]
    notes: Mapping[str, str] = field(default_factory=dict)
    failed: bool = False
    ended: bool = False


class Checkpoints:
    """The saved states of adapters that train in one pass.

    Args:
        folder: where they lie.
        keys: the configuration hash of each adapter.
    """

    def __init__(self, folder: Path, keys: Sequence[str]) -> None:
        self.folder, self.keys = folder, tuple(keys)

    def save(self, states: Mapping[str, State]) -> None:
        """Write the states of adapters, by key, and delete what they replace.

        Raises:
            WriteError: the folder cannot be written or the disk is full; the old states stay.
        """
        from safetensors.torch import save

        together = {key: state.step for key, state in states.items()}
        written: list[Path] = []
        try:
            for key, state in states.items():
                metadata = {f"note.{name}": text for name, text in state.notes.items()}
                metadata["together"] = json.dumps(together, sort_keys=True)
                metadata["ended"] = json.dumps(state.ended)
                plain = {k: t.detach().cpu().contiguous() for k, t in state.tensors.items()}
                write_bytes(self._path(key, state), save(plain, metadata))
                written.append(self._path(key, state))
        except BaseException:
            # Half a set counts for nothing; where the disk is full it would only be in the way.
            for path in written:
                path.unlink(missing_ok=True)
            raise
        for key, state in states.items():
            self._prune(key, keep=self._path(key, state), kind=_FAILED if state.failed else "")

    def load(self) -> dict[str, State]:
        """The newest consistent state of each adapter that has one, by key."""
        found = {key: self._states(key) for key in self.keys}
        steps = {key: {state.step for state, _ in states} for key, states in found.items()}
        newest = {}
        for key, states in found.items():
            for state, together in sorted(states, key=lambda pair: -pair[0].step):
                if _consistent(state, together, steps):
                    newest[key] = state
                    break
        return newest

    def remove(self, keys: Sequence[str]) -> None:
        """Delete all saved states of some of the adapters."""
        for key in keys:
            self._prune(key)

    def _path(self, key: str, state: State) -> Path:
        kind = _FAILED if state.failed else ""
        return self.folder / f"{key}-{state.step}{kind}.safetensors"

    def _prune(self, key: str, keep: Path | None = None, kind: str = "") -> None:
        # With a dot in front: what a kill left in the middle of a write.
        for pattern in (f"{key}-*{kind}.safetensors", f".{key}-*"):
            for path in self.folder.glob(pattern):
                if path != keep:
                    path.unlink(missing_ok=True)

    def _states(self, key: str) -> list[tuple[State, dict[str, int]]]:
        paths = self.folder.glob(f"{key}-*.safetensors")
        return [state for path in sorted(paths) if (state := _read(path))]


def _consistent(
    state: State, together: Mapping[str, int], steps: Mapping[str, Collection[int]]
) -> bool:
    """Whether those that a state was saved with are there, too.

    Args:
        state: of one adapter.
        together: the step at which each was saved.
        steps: of all states that are there, by key.
    """
    for other, step in together.items():
        if other not in steps:
            # Who trains without the others does not wait for them, but a failed one is theirs.
            if state.failed:
                return False
        elif not any(s == step or (state.ended and s > step) for s in steps[other]):
            return False
    return True


def _read(path: Path) -> tuple[State, dict[str, int]] | None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        notes = {k.removeprefix("note."): v for k, v in metadata.items() if k.startswith("note.")}
        failed = path.stem.endswith(_FAILED)
        step = int(path.stem.removesuffix(_FAILED).rpartition("-")[2])
        ended = json.loads(metadata.get("ended", "false"))
        return State(step, tensors, notes, failed, ended), json.loads(metadata["together"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        log.warning("The saved state %s is damaged (%s) and not used.", path, error)
        return None
