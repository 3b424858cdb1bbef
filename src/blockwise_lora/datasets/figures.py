"""Plots as PNG and SVG, with a preview of one of them."""

import base64
import io
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from kedro.io import AbstractDataset, DatasetError
from kedro_datasets._typing import ImagePreview

from blockwise_lora.atomic import replace_folder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOTS_PER_INCH = 150


class FiguresDataset(AbstractDataset[dict[str, Any], dict[str, Path]]):
    """A folder of named matplotlib figures, each as PNG and as SVG; it is replaced as a whole.

    Example usage:

        >>> import tempfile
        >>> from matplotlib.figure import Figure
        >>> dataset = FiguresDataset(filepath=tempfile.mkdtemp() + "/figures")
        >>> dataset.save({"pareto": Figure()})
        >>> sorted(path.name for path in dataset.load().values())
        ['pareto.png']
    """

    def __init__(
        self, *, filepath: str, cover: str = "", metadata: dict[str, Any] | None = None
    ) -> None:
        """Name the folder.

        Args:
            filepath: the folder.
            cover: name of the figure to preview; where it was not drawn, the first one is.
            metadata: free; kedro-viz reads its layer from it.
        """
        self._filepath = PurePosixPath(filepath)
        self._cover = cover
        self.metadata = metadata

    def load(self) -> dict[str, Path]:
        """Name to PNG file.

        Raises:
            DatasetError: nothing was drawn yet.
        """
        found = {path.stem: path for path in sorted(Path(self._filepath).glob("*.png"))}
        if not found:
            raise DatasetError(f"{self._filepath}: no figures; run the pipeline that draws them")
        return found

    def save(self, data: "dict[str, Figure]") -> None:
        """Write every figure.

        Raises:
            WriteError: the folder cannot be written; the old one is intact.
        """
        from blockwise_lora.report.sweep.page import svg

        with replace_folder(Path(self._filepath)) as staging:
            for name, figure in data.items():
                figure.savefig(staging / f"{name}.png", dpi=DOTS_PER_INCH)
                (staging / f"{name}.svg").write_text(svg(figure), encoding="utf-8")

    def preview(self) -> ImagePreview:
        """The cover for kedro-viz, in base64."""
        from PIL import Image

        found, buffer = self.load(), io.BytesIO()
        with Image.open(found.get(self._cover) or next(iter(found.values()))) as picture:
            picture.save(buffer, "PNG")
        return ImagePreview(base64.b64encode(buffer.getvalue()).decode("ascii"))

    def _exists(self) -> bool:
        return Path(self._filepath).is_dir()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath)}
