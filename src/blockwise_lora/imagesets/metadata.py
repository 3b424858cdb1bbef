"""`metadata.jsonl` and `metadata.csv`, as Hugging Face's imagefolder has them."""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from blockwise_lora.imagesets.errors import ImageSetError

METADATA_NAMES = ("metadata.jsonl", "metadata.csv")


@dataclass(frozen=True)
class MetadataRow:
    """One picture's row.

    Attributes:
        path: the picture; inside the folder of the metadata file, but it may not exist.
        file_name: as the file has it, relative to the metadata file, with forward slashes.
        values: the other columns.
        where: metadata file and line, for messages.
    """

    path: Path
    file_name: str
    values: dict[str, Any]
    where: str

    @property
    def caption(self) -> str:
        """The column `text`, else `caption`, else nothing."""
        for column in ("text", "caption"):
            value = self.values.get(column)
            if isinstance(value, str) and value.strip():
                return " ".join(value.split())
        return ""


def read_metadata(file: Path) -> list[MetadataRow]:
    """Read one metadata file.

    Raises:
        ImageSetError: not UTF-8, a malformed line, a missing or double `file_name`, or one that
            leads out of the folder. Lines are named.
    """
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        byte = f"byte 0x{error.object[error.start]:02x} at position {error.start}"
        raise ImageSetError(f"{file}: not UTF-8 ({byte}); save it as UTF-8") from None
    except OSError as error:
        raise ImageSetError(f"{file}: cannot be read: {error.strerror}") from error
    parse = _csv_lines if file.suffix.lower() == ".csv" else _json_lines
    rows, seen = [], {}
    for line, values in parse(file, text):
        where = f"{file}, line {line}"
        name = values.pop("file_name", None)
        if not isinstance(name, str) or not name.strip():
            raise ImageSetError(f"{where}: no `file_name`; every row names its picture")
        if name in seen:
            raise ImageSetError(
                f"{where}: {name} has a row already, line {seen[name]}; keep one of them"
            )
        seen[name] = line
        rows.append(MetadataRow(inside(file.parent, name, where), name, values, where))
    return rows


def inside(folder: Path, name: str, where: str) -> Path:
    """The file that a metadata file names, which must lie below its own folder.

    Raises:
        ImageSetError: the name is absolute, has `..`, or passes through a link that leaves.
    """
    parts = PurePosixPath(name), PureWindowsPath(name)
    absolute = any(p.is_absolute() or p.drive or p.root for p in parts)
    if absolute or ".." in parts[1].parts or "\0" in name:
        raise ImageSetError(
            f"{where}: file_name {name!r} leads out of the folder; names are relative to the "
            "metadata file and have no `..`"
        )
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ImageSetError(
            f"{where}: {name} is a link out of the folder, to {path.resolve()}; put a copy of "
            "the picture there (under DVC: `dvc config cache.type reflink,copy`)"
        )
    return path


def _json_lines(file: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    # Not splitlines: a caption may hold U+2028 and other separators that JSON does not escape.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
            # JSON can escape half a character, as of an emoji that was cut through.
            json.dumps(values, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = ascii(error.object[error.start])
            raise ImageSetError(
                f"{file}, line {number}: {half} is half a character; write the name or text anew"
            ) from None
        except (json.JSONDecodeError, RecursionError) as error:
            raise ImageSetError(
                f"{file}, line {number}: not JSON ({error}); each line is one object such as "
                '{"file_name": "a.png", "text": "a caption"}'
            ) from None
        if not isinstance(values, dict):
            raise ImageSetError(f"{file}, line {number}: expected an object, got {line[:40]!r}")
        yield number, values


def _csv_lines(file: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        for values in reader:
            yield reader.line_num, {str(key): value for key, value in values.items()}
    except csv.Error as error:
        raise ImageSetError(f"{file}, line {reader.line_num}: not CSV ({error})") from None
