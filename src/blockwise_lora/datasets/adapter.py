"""A trained adapter on disk."""

from __future__ import annotations

import logging
import os
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from kedro.io import AbstractDataset, DatasetError

from blockwise_lora.atomic import WriteError, replace_folder

if TYPE_CHECKING:
    from blockwise_lora.adapters import Adapter
    from blockwise_lora.diffusion.trained import TrainedAdapter

log = logging.getLogger(__name__)


class AdapterDataset(AbstractDataset["TrainedAdapter", "Adapter"]):
    """A folder with an adapter in diffusers' format and, beside it, as a single file.

    An adapter of another configuration that is there already is moved to the archive, never
    overwritten.

    Example:
        >>> dataset = AdapterDataset(filepath="data/06_models/lora/character")
        >>> dataset.exists()
        False
    """

    def __init__(self, *, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        """Name the folder.

        Args:
            filepath: the adapter's folder, <models>/<variant>/<concept>; the archive is
                <models>/.archive.
            metadata: for plugins such as kedro-viz.
        """
        self._filepath = PurePosixPath(filepath)
        self.metadata = metadata
        self._archive = Path(filepath).parents[1] / ".archive"

    def load(self) -> Adapter:
        """Read the adapter back, bit for bit."""
        from blockwise_lora.adapters import read_adapter

        return read_adapter(Path(self._filepath))

    def save(self, data: TrainedAdapter) -> None:
        """Write the adapter, archiving what it replaces; then its training's states may go."""
        from blockwise_lora.diffusion.trained import TrainedAdapter

        if not isinstance(data, TrainedAdapter):
            raise DatasetError(f"{self}: expected a TrainedAdapter, got {type(data).__name__}")
        folder = Path(self._filepath)
        self._make_room(folder, data)
        with replace_folder(folder) as new:
            data.write(new)
        data.trained.forget()
        log.info("%s: %s", folder, data.spec.to_json())

    def _make_room(self, folder: Path, data: TrainedAdapter) -> None:
        """Move another configuration's adapter out of the way."""
        from blockwise_lora.adapters import AdapterError, read_adapter
        from blockwise_lora.diffusion.trained import configuration_of

        if not folder.exists() or not any(folder.iterdir()):
            return
        try:
            old = read_adapter(folder)
            if configuration_of(old) == data.configuration:
                return
            tag = old.sha256[:8]
        except AdapterError:  # damaged or not ours: kept all the same
            tag = "unreadable"
        place = self._free(f"{folder.parent.name}-{folder.name}-{tag}")
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            os.rename(folder, place)
        except OSError as error:
            raise WriteError(
                f"{folder} holds an adapter of another configuration and cannot be moved to "
                f"{place} ({error.strerror}): make the folders writable, or move it away yourself"
            ) from error
        log.warning("%s held an adapter of another configuration: it is kept in %s.", folder, place)

    def _free(self, name: str) -> Path:
        place, number = self._archive / name, 1
        while place.exists():
            number += 1
            place = self._archive / f"{name}-{number}"
        return place

    def _exists(self) -> bool:
        return Path(self._filepath).is_dir()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath)}
