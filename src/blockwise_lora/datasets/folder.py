"""A folder that a node keeps things in, piece by piece."""

from pathlib import Path, PurePosixPath
from typing import Any

from kedro.io import AbstractDataset, DatasetError


class FolderDataset(AbstractDataset[None, Path]):
    """Hands out a folder's path, so that long work can be stored while it is under way.

    What is made one by one and found again by its name (a sweep's adapters and pictures) must be
    on disk before the node ends, or a run that is cut off would lose it.

    Example usage:

        >>> import tempfile
        >>> dataset = FolderDataset(filepath=tempfile.mkdtemp() + "/bank")
        >>> dataset.load().is_dir()
        True
    """

    def __init__(self, *, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        """Name the folder.

        Args:
            filepath: the folder; made on first use.
            metadata: free; kedro-viz reads its layer from it.
        """
        self._filepath = PurePosixPath(filepath)
        self.metadata = metadata

    def load(self) -> Path:
        """The folder's path.

        Raises:
            DatasetError: it cannot be made.
        """
        folder = Path(self._filepath)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DatasetError(f"{folder} cannot be made ({error.strerror})") from error
        return folder

    def save(self, data: None) -> None:
        """Nothing: nodes write into the folder themselves."""
        raise DatasetError(f"{self._filepath}: nodes write into this folder themselves")

    def _exists(self) -> bool:
        return True

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath)}
