"""What every variant left at the same kind of place, as one dataset."""

from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from kedro.io import AbstractDataset, DatasetError
from kedro.io.core import parse_dataset_definition


class VariantsDataset(AbstractDataset[Any, dict[str, Callable[[], Any]]]):
    """The results of several runs, found by their places and loaded when they are asked for.

    Every variant is made by a run of its own and saved by that run's own dataset; one that was not
    made is not there. Saving writes nothing: a pipeline does it to say that its result, which lies
    there already, now belongs to the others, so that whoever loads all of them runs after it.

    Example usage:

        >>> import tempfile
        >>> from pathlib import Path
        >>> root = Path(tempfile.mkdtemp())
        >>> for variant in ("locon", "lora"):
        ...     (root / variant).mkdir()
        ...     _ = (root / variant / "style_loss.csv").write_text("loss")
        >>> dataset = VariantsDataset(
        ...     path=str(root),
        ...     places="*/*_loss.csv",
        ...     ending="_loss.csv",
        ...     dataset="text.TextDataset",
        ... )
        >>> found = dataset.load()
        >>> sorted(found)
        ['locon/style', 'lora/style']
        >>> found["lora/style"]()
        'loss'
    """

    def __init__(
        self,
        *,
        path: str,
        places: str,
        dataset: str | dict[str, Any],
        ending: str = "",
        metadata: dict[str, Any] | None = None,
    ) -> None:
        """Say where to look and how to read.

        Args:
            path: folder that has all variants' folders.
            places: pattern of what to find below `path`, such as `*/metadata.jsonl`. Hidden
                folders are passed over.
            dataset: type of what is found there, or its catalog entry without `filepath`.
            ending: end of each place that is no part of its key. Where it begins with "/" it is
                the file by which a folder is known, and the dataset is given the folder.
            metadata: free; kedro-viz reads its layer from it.
        """
        self._path = PurePosixPath(path)
        self._places = places
        self._ending = ending
        config = {"type": dataset} if isinstance(dataset, str) else dict(dataset)
        self._type, self._config = parse_dataset_definition(config)
        self.metadata = metadata

    def load(self) -> dict[str, Callable[[], Any]]:
        """Loading functions by key, in the order of the keys; empty where nothing was made."""
        return {key: partial(self._load_one, key) for key in self._keys()}

    def save(self, data: Any) -> None:
        """Check that what was saved by its own dataset can be found here.

        Raises:
            DatasetError: nothing is there, so the two datasets' places do not agree.
        """
        if not self._exists():
            raise DatasetError(
                f"{self._path}: nothing at {self._places}; correct the places in the catalog"
            )

    def _keys(self) -> list[str]:
        root = Path(self._path)
        found = (place.relative_to(root).as_posix() for place in root.glob(self._places))
        return sorted(key.removesuffix(self._ending) for key in found if not key.startswith("."))

    def _load_one(self, key: str) -> Any:
        ending = "" if self._ending.startswith("/") else self._ending
        return self._type(filepath=f"{self._path}/{key}{ending}", **self._config).load()

    def _exists(self) -> bool:
        return bool(self._keys())

    def _describe(self) -> dict[str, Any]:
        return {"path": str(self._path), "places": self._places, "type": self._type.__name__}
