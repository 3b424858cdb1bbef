"""Parquet and Arrow files with a column of pictures to a folder with `metadata.jsonl`."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from blockwise_lora.atomic import replace_folder
from blockwise_lora.imagesets.errors import ImageSetError

_ENDINGS = (".parquet", ".arrow")
_TEXTS = ("text", "caption")
_AT_ONCE = 64  # rows in memory
_STAMP = ".written.json"
_SIGNATURES = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"GIF8": ".gif", b"RIFF": ".webp"}


def is_table(path: Path) -> bool:
    """Whether a path is a Parquet or Arrow file by its name."""
    return path.suffix.lower() in _ENDINGS and path.is_file()


def has_tables(path: Path) -> bool:
    """Whether a folder holds tables, directly or in its `data`."""
    return path.is_dir() and bool(_tables(path))


def write_out(path: Path, target: Path) -> Path:
    """Write the pictures of tables as files.

    Args:
        path: a table or a folder of tables. Columns: `image` (bytes, a path beside the table, or
            `datasets`' pair of both), and `text` or `caption` where there are captions.
        target: the folder; one that was written from these very tables is left as it is.

    Raises:
        ImageSetError: a table is damaged, or has no column of pictures.
    """
    tables = [path] if path.is_file() else _tables(path)
    stamp = json.dumps([[t.name, t.stat().st_size, t.stat().st_mtime_ns] for t in tables])
    if (target / _STAMP).is_file() and (target / _STAMP).read_text(encoding="utf-8") == stamp:
        return target
    with replace_folder(target) as new:
        lines = []
        for table in tables:
            for number, row in enumerate(_rows(table)):
                lines += _write_row(new, table, number, row)
        (new / "metadata.jsonl").write_text("".join(lines), encoding="utf-8", newline="\n")
        (new / _STAMP).write_text(stamp, encoding="utf-8")
    return target


def _tables(folder: Path) -> list[Path]:
    found = [*folder.glob("*"), *folder.glob("data/*")]
    return sorted(path for path in found if path.suffix.lower() in _ENDINGS and path.is_file())


def _rows(table: Path) -> Iterator[Mapping[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet

    try:
        if table.suffix.lower() == ".parquet":
            batches = pyarrow.parquet.ParquetFile(table).iter_batches(_AT_ONCE)
        else:
            # As `datasets` writes it; memory-mapped, so that no more than a batch is read.
            batches = pa.ipc.open_stream(pa.memory_map(str(table)))
        for batch in batches:
            if "image" not in batch.schema.names:
                names = ", ".join(batch.schema.names)
                raise ImageSetError(f"{table}: no column `image` among {names}; rename it")
            yield from _dicts(batch)
    except pa.ArrowException as error:
        raise ImageSetError(f"{table} cannot be read ({error}); write it again") from error


def _dicts(batch: Any) -> Iterator[Mapping[str, Any]]:
    wanted = [name for name in ("image", *_TEXTS) if name in batch.schema.names]
    for start in range(0, batch.num_rows, _AT_ONCE):
        yield from batch.select(wanted).slice(start, _AT_ONCE).to_pylist()


def _write_row(folder: Path, table: Path, number: int, row: Mapping[str, Any]) -> list[str]:
    data, ending = _content(table, row["image"])
    name = f"{table.stem}-{number:06d}{ending}"
    (folder / name).write_bytes(data)
    text = next((row[key] for key in _TEXTS if isinstance(row.get(key), str)), "")
    return [json.dumps({"file_name": name, "text": text}, ensure_ascii=False) + "\n"]


def _content(table: Path, image: Any) -> tuple[bytes, str]:
    """A picture's bytes and its file's ending; no bytes where there is no picture to be had.

    A row without a picture becomes an empty file, so that it is reported like any other.
    """
    if isinstance(image, Mapping):
        image = image.get("bytes") or image.get("path")
    if isinstance(image, str):
        folder = table.parent.resolve()
        path = (folder / image).resolve()
        # A table names files beside it; anything else on this machine is none of its business.
        image = path.read_bytes() if path.is_relative_to(folder) and path.is_file() else b""
    data = image if isinstance(image, bytes) else b""
    endings = (ending for head, ending in _SIGNATURES.items() if data.startswith(head))
    return data, next(endings, ".img")
