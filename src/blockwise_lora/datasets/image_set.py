"""Picture sets as image folders."""

from pathlib import Path, PurePosixPath
from typing import Any

from kedro.io import AbstractDataset

from blockwise_lora.imagesets import ImageSet, read_imagefolder, write_imagefolder


class ImageSetDataset(AbstractDataset[ImageSet, ImageSet]):
    """A set of captioned pictures: PNG files with `metadata.jsonl`, an imagefolder.

    The folder is replaced as a whole; one that holds other files is never touched. Pictures are
    decoded when they are opened.

    Example usage:

        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from blockwise_lora.imagesets import CaptionRule, CurationConfig, curate
        >>> folder = Path(tempfile.mkdtemp())
        >>> (folder / "raw").mkdir()
        >>> Image.new("RGB", (64, 64), "red").save(folder / "raw" / "red.png")
        >>> images, _ = curate(folder / "raw", CaptionRule("zkc", "square"), CurationConfig())
        >>> dataset = ImageSetDataset(filepath=str(folder / "curated"))
        >>> dataset.save(images)
        >>> dataset.load()[0].caption
        'zkc square'

    In a catalog:

        character.curated:
          type: blockwise_lora.datasets.image_set.ImageSetDataset
          filepath: data/03_primary/character
    """

    def __init__(self, *, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        """Name the folder.

        Args:
            filepath: the folder.
            metadata: free; kedro-viz reads its layer from it.
        """
        self._filepath = PurePosixPath(filepath)
        self.metadata = metadata

    def load(self) -> ImageSet:
        """Read the set.

        Raises:
            ImageSetError: folder, metadata or a picture is missing or malformed.
        """
        return read_imagefolder(Path(self._filepath))

    def save(self, data: ImageSet) -> None:
        """Write the set in place of the old one.

        Raises:
            ImageSetError: the folder holds other files, or a picture has changed.
            WriteError: the folder cannot be written.
        """
        write_imagefolder(Path(self._filepath), data, progress=True)

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath)}

    def _exists(self) -> bool:
        return (Path(self._filepath) / "metadata.jsonl").is_file()
