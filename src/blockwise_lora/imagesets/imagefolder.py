"""Image sets on disk: PNG files and `metadata.jsonl`, which `datasets.load_dataset` reads, too."""

import io
import json
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from blockwise_lora.atomic import replace_folder
from blockwise_lora.imagesets.decoding import decode, without_warnings
from blockwise_lora.imagesets.errors import ImageSetError
from blockwise_lora.imagesets.images import ImageSet, Picture, pixel_hash
from blockwise_lora.imagesets.metadata import MetadataRow, read_metadata

METADATA = "metadata.jsonl"


def read_imagefolder(folder: str | Path) -> ImageSet:
    """Read a folder of pictures with `metadata.jsonl`.

    Rows need `file_name` and may have `text`; where size and hash are missing, as in folders
    from elsewhere, they are taken from the picture. Rows that have them are checked when the
    picture is opened.

    Raises:
        ImageSetError: the folder, its metadata or a picture is missing or malformed.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ImageSetError(f"{folder}: no such folder; run the curation, or correct the path")
    metadata = folder / METADATA
    if not metadata.is_file():
        raise ImageSetError(
            f"{folder}: no {METADATA}; curate the folder, or add one line a picture such as "
            '{"file_name": "a.png", "text": "a caption"}'
        )
    pictures = tuple(_picture(row) for row in read_metadata(metadata))
    if not pictures:
        raise ImageSetError(f"{metadata}: no pictures; add some, or run the curation again")
    return ImageSet(folder, pictures)


def write_imagefolder(folder: str | Path, images: ImageSet, *, progress: bool = False) -> ImageSet:
    """Write a set as PNG files with `metadata.jsonl`; the same set gives the same bytes.

    The folder is replaced as a whole at the end, so a failure leaves the old one. A folder that
    holds anything but such a set is never replaced.

    Args:
        folder: the target.
        images: what to write.
        progress: show a bar.

    Returns:
        The set as it lies in `folder`.

    Raises:
        ImageSetError: the target holds other files or the originals; a picture has changed.
        WriteError: the target cannot be written.
    """
    folder = Path(folder)
    _check_target(folder, images)
    with without_warnings(), replace_folder(folder) as new:
        lines = []
        bar = tqdm(images.pictures, desc=f"writing {folder.name}", disable=not progress)
        for picture in bar:
            name = _png_name(picture.file_name)
            target = new / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(png_bytes(picture.open()))
            lines.append(json.dumps(_row(picture, name), ensure_ascii=False))
        (new / METADATA).write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    return read_imagefolder(folder)


def png_bytes(image: Image.Image) -> bytes:
    """Encode a picture as PNG without time stamps or other metadata: same pixels, same bytes."""
    buffer = io.BytesIO()
    Image.frombytes(image.mode, image.size, image.tobytes()).save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


def _picture(row: MetadataRow) -> Picture:
    if not row.path.is_file():
        raise ImageSetError(
            f"{row.where}: {row.file_name} does not exist; remove the row, or make the set again"
        )
    width, height, sha256 = (row.values.get(key) for key in ("width", "height", "sha256"))
    if not (type(width) is type(height) is int and isinstance(sha256, str)):
        image = decode(row.path).image
        width, height, sha256 = image.width, image.height, pixel_hash(image)
    source = row.values.get("source")
    return Picture(
        path=row.path,
        file_name=row.file_name,
        caption=row.caption,
        width=width,
        height=height,
        sha256=sha256,
        source=source if isinstance(source, str) else "",
    )


def _png_name(name: str) -> str:
    # A set read from elsewhere may hold other formats; a name must not lie about its content.
    return name if name.lower().endswith(".png") else f"{name}.png"


def _row(picture: Picture, name: str) -> dict[str, str | int]:
    return {
        "file_name": name,
        "text": picture.caption,
        "width": picture.width,
        "height": picture.height,
        "sha256": picture.sha256,
        "source": picture.source,
    }


def _check_target(folder: Path, images: ImageSet) -> None:
    """Refuse to replace a folder that holds anything but a set written here."""
    place = folder.resolve()
    for picture in images:
        if picture.framing is not None and picture.path.resolve().is_relative_to(place):
            raise ImageSetError(
                f"{folder} holds the original {picture.path}, which is only read; "
                "write to another folder"
            )
    if not folder.is_dir():
        return
    found = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    ours = {name for name in found if Path(name).name.startswith(".git")}
    if (folder / METADATA).is_file():
        rows = read_metadata(folder / METADATA)
        ours |= {METADATA, *(row.file_name for row in rows if "sha256" in row.values)}
    if found - ours:
        raise ImageSetError(
            f"{folder} holds files that are not part of a curated set, such as "
            f"{sorted(found - ours)[0]}; move them away or write to another folder"
        )
