"""What lies in a folder of pictures: candidates, captions, and the rest."""

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from blockwise_lora.imagesets.errors import ImageSetError
from blockwise_lora.imagesets.metadata import METADATA_NAMES, MetadataRow, read_metadata

SIDECARS = (".txt", ".caption")
# Files that lie beside pictures and are none. What has any other name is tried as a picture.
DOCUMENTS = (".md", ".rst", ".json", ".jsonl", ".csv", ".tsv", ".yml", ".yaml", ".toml", ".html")
_MOST_REPEATS = 9999  # as many digits as folders have
DOCUMENT_NAMES = ("license", "licence", "notice", "attribution", "thumbs.db", "desktop.ini")


class CaptionError(ImageSetError):
    """A caption file that cannot be used."""


@dataclass(frozen=True)
class Candidate:
    """A file that may be a picture.

    Attributes:
        path: the file.
        file: relative to the folder, with forward slashes.
        sidecars: the caption files beside it.
        row: its row of a metadata file.
        repeats: how often a pass shows it: the column `repeats` of its row, else the number in
            the name of its folder where that follows kohya's `10_name`.
    """

    path: Path
    file: str
    sidecars: tuple[Path, ...] = ()
    row: MetadataRow | None = None
    repeats: int = 1

    def texts(self) -> dict[str, str]:
        """Captions that lie beside the picture, by source: `sidecar`, `metadata`.

        Raises:
            CaptionError: a caption file is not text.
        """
        found = {
            "sidecar": next((text for text in map(_read_caption, self.sidecars) if text), ""),
            "metadata": self.row.caption if self.row else "",
        }
        return {source: text for source, text in found.items() if text}


@dataclass(frozen=True)
class Listing:
    """A folder's content; everything in it is in one of the four.

    Attributes:
        candidates: what is tried as a picture, in the order of names.
        missing: rows of metadata files whose picture does not exist.
        others: caption files without a picture, documents, and hidden files, as relative names.
        lonely_captions: those of `others` that are caption files.
        misnamed: what cannot be tried as a picture since no table can hold its name, which is not
            UTF-8; the bytes that are not are written as escapes, here and in `others`.
    """

    candidates: tuple[Candidate, ...]
    missing: tuple[MetadataRow, ...] = ()
    others: tuple[str, ...] = ()
    lonely_captions: tuple[str, ...] = field(default=())
    misnamed: tuple[str, ...] = ()


def list_folder(folder: Path) -> Listing:
    """Walk a folder with its sub-folders; linked folders are followed once.

    Raises:
        ImageSetError: there is no such folder, it cannot be read, or a metadata file is
            malformed or leads out of it.
    """
    if folder.is_file():
        raise ImageSetError(f"{folder} is a file; name the folder that the pictures lie in")
    if not folder.is_dir():
        raise ImageSetError(f"{folder}: no such folder (seen from {Path.cwd()}); correct the path")
    names = {path: path.relative_to(folder).as_posix() for path in _walk(folder)}
    files = sorted((path for path in names if _shown(names[path]) == names[path]), key=names.get)
    odd = sorted(names.keys() - set(files))
    rows = _rows(files)
    pictures = [path for path in files if not _is_document(path)]
    captions = {path for path in files if path.suffix.lower() in SIDECARS}
    row_of = _row_of(pictures, rows)
    used = set()
    candidates = []
    for path in pictures:
        sidecars = tuple(p for p in map(path.with_suffix, SIDECARS) if p in captions)
        used.update(sidecars)
        name, row = names[path], row_of.get(path)
        candidates.append(Candidate(path, name, sidecars, row, _repeats(name, row)))
    known = {candidate.path for candidate in candidates} | used
    rest = [path for path in files if path not in known and path.name not in METADATA_NAMES]
    rest += [path for path in odd if _is_document(path)]
    # Not `is_file`, which on some systems holds for a name in the wrong case.
    there = names.keys() | {row.path for row in row_of.values()}
    return Listing(
        candidates=tuple(candidates),
        missing=tuple(row for path, row in rows.items() if path not in there),
        others=tuple(_shown(names[path]) for path in rest),
        lonely_captions=tuple(names[path] for path in rest if path in captions),
        misnamed=tuple(_shown(names[path]) for path in odd if not _is_document(path)),
    )


def _walk(folder: Path) -> Iterator[Path]:
    seen = set()

    def explain(error: OSError) -> None:
        raise ImageSetError(f"{error.filename} cannot be read: {error.strerror}") from error

    for place, folders, files in os.walk(folder, followlinks=True, onerror=explain):
        real = Path(place).resolve()
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place, name) for name in files)


def _shown(name: str) -> str:
    """A name as a table can hold it."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _rows(files: Sequence[Path]) -> dict[Path, MetadataRow]:
    """What the metadata files among some files say, by the path that they name."""
    rows = {}
    for name in reversed(METADATA_NAMES):  # .jsonl wins over .csv
        for file in files:
            if file.name == name:
                rows |= {row.path: row for row in read_metadata(file)}
    return rows


def _row_of(pictures: Sequence[Path], rows: Mapping[Path, MetadataRow]) -> dict[Path, MetadataRow]:
    """The row of each picture that has one.

    macOS keeps some names with their accents apart, and a table from Windows may have another
    case. A name that differs in this alone is meant where no other picture and no other row is.
    """
    found = {path: rows[path] for path in pictures if path in rows}
    left = defaultdict(lambda: ([], []))
    for kind, paths in enumerate((pictures, rows)):
        for path in paths:
            if path not in found:
                left[unicodedata.normalize("NFC", str(path)).casefold()][kind].append(path)
    for own, named in left.values():
        if len(own) == len(named) == 1:
            found[own[0]] = rows[named[0]]
    return found


def _repeats(name: str, row: MetadataRow | None) -> int:
    told = row.values.get("repeats") if row else None
    if str(told).isdecimal():
        return max(1, min(int(told), _MOST_REPEATS))
    folder = name.rpartition("/")[0].rpartition("/")[2]
    number = re.match(r"(\d{1,4})_", folder)
    return max(1, int(number[1])) if number else 1


def _is_document(path: Path) -> bool:
    return (
        path.name.startswith(".")
        or path.suffix.lower() in (*SIDECARS, *DOCUMENTS)
        or path.name.lower() in DOCUMENT_NAMES
        or (path.exists() and not path.is_file())  # sockets and pipes would block a reader
    )


def _read_caption(path: Path) -> str:
    """The text of a sidecar, with white space made single spaces."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CaptionError(f"{path.name} cannot be read: {error.strerror}") from error
    # Windows editors write UTF-16 with a byte-order mark, which leaves no doubt about it.
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        byte = f"byte 0x{data[error.start]:02x} at position {error.start}"
        raise CaptionError(f"{path.name} is not UTF-8 ({byte}); save it as UTF-8") from None
    if "\0" in text:
        raise CaptionError(f"{path.name} is no text file; write the caption anew as UTF-8")
    return " ".join(text.split())
