"""A person's word on single pictures: a CSV file that is only read here, and that wins.

The columns are `file`, `decision` and `caption`; others may stand beside them and are ignored.
The curation writes a proposal of the same shape; its user copies it, edits the copy, and names it
in the parameters. So no run can write over what a person decided.
"""

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from blockwise_lora.imagesets.errors import ImageSetError
from blockwise_lora.imagesets.spreadsheet import unguarded

COLUMNS = ("file", "decision", "caption")
DECISIONS = ("", "keep", "drop")


@dataclass(frozen=True)
class ReviewRow:
    """What a person says of one picture.

    Attributes:
        decision: `keep`, `drop`, or "" for the automatic choice.
        caption: what is trained on instead of the automatic caption; "" for that one.
    """

    decision: Literal["", "keep", "drop"] = ""
    caption: str = ""


@dataclass(frozen=True)
class Review:
    """All rows of a review file.

    Attributes:
        rows: by the picture's name in the folder, with forward slashes.
        path: the file, for messages; None where there is none.
    """

    rows: Mapping[str, ReviewRow] = field(default_factory=dict)
    path: Path | None = None

    def of(self, file: str) -> ReviewRow:
        """The row of a picture; an empty one where the file has none."""
        return self.rows.get(file, ReviewRow())

    def unknown(self, files: Iterable[str]) -> list[str]:
        """Reviewed pictures that are not among `files`, in order: renamed or gone."""
        known = set(files)
        return [name for name, row in self.rows.items() if row != ReviewRow() and name not in known]


def read_review(path: str | Path | None) -> Review:
    """Read a review file; no path means that nothing was reviewed.

    Raises:
        ImageSetError: there is no such file, it is not UTF-8, a column is missing, a decision is
            unknown, or two rows of one picture contradict each other. Lines are named.
    """
    if path is None or not str(path):
        return Review()
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ImageSetError(f"{path}: not UTF-8; save it as UTF-8 (CSV UTF-8 in Excel)") from None
    except FileNotFoundError:
        raise ImageSetError(
            f"{path}: there is no such review file; correct `review`, or set it to null"
        ) from None
    except OSError as error:
        raise ImageSetError(f"{path}: cannot be read: {error.strerror}") from error
    rows: dict[str, ReviewRow] = {}
    try:
        for line, values in _lines(path, text):
            name, row = _row(f"{path}, line {line}", values)
            if rows.setdefault(name, row) != row:
                raise ImageSetError(f"{path}, line {line}: {name} has another row; keep one")
    except csv.Error as error:
        raise ImageSetError(
            f"{path}: not CSV ({error}); columns are {', '.join(COLUMNS)}"
        ) from None
    return Review(rows, path)


def _lines(path: Path, text: str) -> Iterable[tuple[int, dict[str, str | None]]]:
    head = text.split("\n", 1)[0]
    # Spreadsheets of many countries write semicolons.
    delimiter = max(",;\t", key=head.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        raise ImageSetError(f"{path}: no column {missing[0]!r}; it needs {', '.join(COLUMNS)}")
    for values in reader:
        yield reader.line_num, values


def _row(where: str, values: Mapping[str, str | None]) -> tuple[str, ReviewRow]:
    name, decision, caption = (unguarded((values[column] or "").strip()) for column in COLUMNS)
    if not name:
        raise ImageSetError(f"{where}: no file; every row names its picture")
    if decision.lower() not in DECISIONS:
        raise ImageSetError(
            f"{where}: decision {decision!r} is unknown; write keep, drop or nothing"
        )
    return name, ReviewRow(decision.lower(), " ".join(caption.split()))
