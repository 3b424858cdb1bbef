"""An HTML page."""

from pathlib import Path, PurePosixPath
from typing import Any

from kedro.io import AbstractDataset

from blockwise_lora.atomic import write_text


class PageDataset(AbstractDataset[str, str]):
    """A text file in UTF-8 that is replaced as a whole.

    Example usage:

        >>> import tempfile
        >>> dataset = PageDataset(filepath=tempfile.mkdtemp() + "/report.html")
        >>> dataset.save("<p>LoRA ≠ LoCon</p>")
        >>> dataset.load()
        '<p>LoRA ≠ LoCon</p>'

    In a catalog:

        report:
          type: blockwise_lora.datasets.page.PageDataset
          filepath: data/08_reporting/report.html
    """

    def __init__(self, *, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        """Name the file.

        Args:
            filepath: the HTML file.
            metadata: free; kedro-viz reads its layer from it.
        """
        self._filepath = PurePosixPath(filepath)
        self.metadata = metadata

    def load(self) -> str:
        """Read the page."""
        return Path(self._filepath).read_text(encoding="utf-8")

    def save(self, data: str) -> None:
        """Write the page.

        Raises:
            WriteError: the file cannot be written; the old one is intact.
        """
        write_text(Path(self._filepath), data)

    def _exists(self) -> bool:
        return Path(self._filepath).is_file()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath)}
