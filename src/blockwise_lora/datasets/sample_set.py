"""Sampled pictures on disk, with a contact sheet as preview."""

from __future__ import annotations

import base64
import io
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from kedro.io import AbstractDataset, DatasetError
from kedro_datasets._typing import ImagePreview  # the name by which kedro-viz knows what to draw

from blockwise_lora.atomic import replace_folder

if TYPE_CHECKING:
    from blockwise_lora.diffusion.samples import SampleSet


class SampleSetDataset(AbstractDataset["SampleSet", "SampleSet"]):
    """A folder of PNG files with metadata.jsonl: one row a picture, as image folders have it.

    Example:
        >>> dataset = SampleSetDataset(filepath="data/07_model_output/lora")
        >>> dataset.exists()
        False
    """

    def __init__(self, *, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        """Name the folder.

        Args:
            filepath: the folder; saving replaces it as a whole.
            metadata: for plugins such as kedro-viz.
        """
        self._filepath = PurePosixPath(filepath)
        self.metadata = metadata

    def load(self) -> SampleSet:
        """Read all pictures into memory."""
        from blockwise_lora.diffusion.samples import SampleSet

        return SampleSet.read(Path(self._filepath))

    def save(self, data: SampleSet) -> None:
        """Replace the folder by these pictures."""
        from blockwise_lora.diffusion.samples import SampleSet

        if not isinstance(data, SampleSet):
            raise DatasetError(f"{self}: expected a SampleSet, got {type(data).__name__}")
        with replace_folder(Path(self._filepath)) as new:
            data.write(new)

    def preview(self) -> ImagePreview:
        """A contact sheet for kedro-viz."""
        from blockwise_lora.diffusion.samples import contact_sheet

        buffer = io.BytesIO()
        contact_sheet(self.load()).save(buffer, "PNG")
        return ImagePreview(base64.b64encode(buffer.getvalue()).decode())

    def _exists(self) -> bool:
        return (Path(self._filepath) / "metadata.jsonl").is_file()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath)}
