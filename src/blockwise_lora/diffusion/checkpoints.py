"""Saved states of a training, from which a killed run goes on.

There is one file for each configuration, named by the hash of all that determines the result, and
replaced atomically: a kill at any moment leaves the last whole state. It lies outside the
project's outputs, which DVC deletes before a stage runs, and is removed when training succeeds.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from blockwise_lora.atomic import write_bytes

log = logging.getLogger(__name__)


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
class Checkpoint:
    """The one saved state of a configuration.

    Attributes:
        path: of its file.
    """

    path: Path

    @classmethod
    def of(cls, folder: Path, key: str) -> Checkpoint:
        """The state of the configuration whose hash is `key`."""
        return cls(folder / f"{key[:32]}.safetensors")

    def save(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Replace the saved state.

        Raises:
            WriteError: the folder cannot be written or the disk is full; the old state stays.
        """
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        write_bytes(self.path, save(plain, metadata={"step": str(step)}))

    def load(self) -> tuple[int, dict[str, Tensor]] | None:
        """The saved step and tensors; None if there is no usable state."""
        if not self.path.exists():
            return None
        try:
            with safe_open(str(self.path), framework="pt") as file:
                step = int(file.metadata()["step"])
                return step, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            log.warning(
                "The saved state %s is damaged (%s): training starts anew.", self.path, error
            )
            return None

    def remove(self) -> None:
        """Delete the saved state, if there is one."""
        self.path.unlink(missing_ok=True)
