"""Where the looks of many pictures lie while they are compared: on disk, not in memory."""

import os
import tempfile
from array import array
from pathlib import Path

from blockwise_lora.atomic import WriteError
from blockwise_lora.imagesets.likeness import Looks

_IN_MEMORY = 16 << 20  # bytes, of 1,200 pictures and more; beyond that they go to a file


class Shelf:
    """Looks by number, put there in their order; what is not asked for takes no memory.

    The file has no name, or loses it when it is closed: a run that is killed leaves nothing.
    """

    def __init__(self, folder: Path | None = None):
        """Begin without looks.

        Args:
            folder: for the file; None, or a folder that cannot be written: the system's own for
                such files, which on some systems lies in memory.
        """
        usable = folder is not None and _writable(folder)
        self._folder = folder if usable else Path(tempfile.gettempdir())
        self._file = tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=self._folder)  # noqa: SIM115
        self._ends = array("q", [0])

    def put(self, looks: bytes) -> None:
        """Add the next picture's looks, packed; none for a file that is no picture.

        Raises:
            WriteError: the disk is full.
        """
        try:
            self._file.seek(self._ends[-1])
            self._file.write(looks)
        except OSError as error:
            raise WriteError(
                f"{self._folder}: pictures cannot be compared there ({error.strerror}); "
                "14 KB of each are needed"
            ) from error
        self._ends.append(self._ends[-1] + len(looks))

    def __getitem__(self, number: int) -> Looks:
        """The looks that were put there as the `number`-th, from 0.

        Raises:
            KeyError: that file is no picture.
        """
        start, end = self._ends[number], self._ends[number + 1]
        if start == end:
            raise KeyError(number)
        self._file.seek(start)
        return Looks.unpacked(self._file.read(end - start))

    def __enter__(self) -> "Shelf":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)
