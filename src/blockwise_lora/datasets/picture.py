"""One picture as a PNG file, with a preview."""

import base64
import io
from pathlib import Path, PurePosixPath
from typing import Any

from kedro.io import AbstractDataset, DatasetError
from kedro_datasets._typing import ImagePreview
from PIL import Image, UnidentifiedImageError

from blockwise_lora.atomic import write_bytes


class PictureDataset(AbstractDataset[Image.Image, Image.Image]):
    """A PNG file that kedro-viz shows; it is replaced as a whole.

    Example usage:

        >>> import tempfile
        >>> from PIL import Image
        >>> dataset = PictureDataset(filepath=tempfile.mkdtemp() + "/grid.png")
        >>> dataset.save(Image.new("RGB", (8, 4), "red"))
        >>> dataset.load().size
        (8, 4)

    In a catalog:

        grid:
          type: blockwise_lora.datasets.picture.PictureDataset
          filepath: data/08_reporting/grid.png
    """

    def __init__(self, *, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        """Name the file.

        Args:
            filepath: the PNG file.
            metadata: free; kedro-viz reads its layer from it.
        """
        self._filepath = PurePosixPath(filepath)
        self.metadata = metadata

    def load(self) -> Image.Image:
        """Read the picture whole, so that the file is closed.

        Raises:
            DatasetError: the file is missing, truncated or no picture.
        """
        try:
            with Image.open(Path(self._filepath)) as picture:
                picture.load()
                return picture
        except (OSError, UnidentifiedImageError) as error:
            raise DatasetError(
                f"{self._filepath} cannot be read ({error}): run the pipeline that draws it again"
            ) from error

    def save(self, data: Image.Image) -> None:
        """Write the picture as PNG.

        Raises:
            WriteError: the file cannot be written; the old one is intact.
        """
        write_bytes(Path(self._filepath), _png(data))

    def preview(self, longest: int = 1600) -> ImagePreview:
        """The picture for kedro-viz, in base64.

        Args:
            longest: edge in pixels to which a larger picture is brought down.
        """
        picture = self.load()
        picture.thumbnail((longest, longest))
        return ImagePreview(base64.b64encode(_png(picture)).decode("ascii"))

    def _exists(self) -> bool:
        return Path(self._filepath).is_file()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath)}


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
