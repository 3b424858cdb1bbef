"""Image sets on disk: PNG files and `metadata.jsonl`, which `datasets.load_dataset` reads, too.

A picture's mask lies in `masks/` under the picture's own name. Pictures in folders that are named
as kohya's trainer has them, `10_name`, get their caption beside them, where it looks for it: one
folder serves diffusers' scripts, `datasets` and kohya's trainer.
"""

import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from PIL import Image
from tqdm import tqdm

from blockwise_lora.atomic import replace_folder
from blockwise_lora.imagesets.card import CARD, METADATA, is_card
from blockwise_lora.imagesets.crew import in_chunks
from blockwise_lora.imagesets.decoding import DecodeError, decode, without_warnings
from blockwise_lora.imagesets.errors import ImageSetError
from blockwise_lora.imagesets.folder import SIDECARS
from blockwise_lora.imagesets.images import ImageSet, Mask, Picture, pixel_hash
from blockwise_lora.imagesets.metadata import MetadataRow, inside, read_metadata

MASKS = "masks"
# What Finder and Windows' Explorer leave in every folder that they show.
LITTER = (".ds_store", "thumbs.db", "desktop.ini")


@dataclass(frozen=True)
class OutputConfig:
    """The parameter group `output`.

    Attributes:
        layout: `flat`, or `kohya`: folders such as `10_zkc cat face`, each picture with its
            caption beside it.
        repeats: the number in these folders' names, of a picture that counts once.

    Raises:
        ValueError: a value is out of its range.
    """

    layout: Literal["flat", "kohya"] = "flat"
    repeats: int = 10

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise ValueError(f"repeats is at least 1, not {self.repeats}")


def read_imagefolder(folder: str | Path) -> ImageSet:
    """Read a folder of pictures with `metadata.jsonl`.

    Rows need `file_name` and may have `text`, `repeats` and `mask_file_name`; where size and
    hash are missing, as in folders from elsewhere, they are taken from the picture. Rows that
    have them are checked when the picture is opened.

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
    pictures = tuple(_picture(row, folder) for row in read_metadata(metadata))
    if not pictures:
        raise ImageSetError(f"{metadata}: no pictures; add some, or run the curation again")
    card = folder / CARD
    text = card.read_text(encoding="utf-8", errors="replace") if is_card(card) else ""
    return ImageSet(folder, pictures, text)


def write_imagefolder(folder: str | Path, images: ImageSet, *, progress: bool = False) -> ImageSet:
    """Write a set as PNG files with `metadata.jsonl`; the same set gives the same bytes.

    The folder is replaced as a whole at the end, so a failure leaves the old one. A folder that
    holds anything but such a set is never replaced. Pictures that are in the old folder already
    are taken from there, so that their originals are not opened again.

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
    columns = _columns(images)
    with replace_folder(folder) as new:
        lines = [
            json.dumps(_row(picture, _png_name(picture.file_name), columns), ensure_ascii=False)
            for picture in images
        ]
        work = partial(_write_pictures, old=folder, new=new)
        with tqdm(total=len(images), desc=f"writing {folder.name}", disable=not progress) as bar:
            for count in in_chunks(work, images.pictures):
                bar.update(count)
        (new / METADATA).write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
        if images.card:
            (new / CARD).write_text(images.card, encoding="utf-8", newline="\n")
    return read_imagefolder(folder)


def in_kohya_folders(images: ImageSet, name: str, repeats: int) -> ImageSet:
    """The same set with its pictures in folders such as `10_zkc cat face`.

    Args:
        images: a set.
        name: what stands behind the number, trigger and class word as a rule.
        repeats: how often a pass through the set shows a picture whose own `repeats` is 1.
    """
    words = re.sub(r"[^\w \-]+", " ", name)
    stem = " ".join(words.split()) or "pictures"
    return replace(
        images,
        pictures=tuple(
            replace(p, file_name=f"{p.repeats * repeats}_{stem}/{p.file_name}") for p in images
        ),
    )


def png_bytes(image: Image.Image) -> bytes:
    """Encode a picture as PNG without time stamps or other metadata: same pixels, same bytes."""
    buffer = io.BytesIO()
    Image.frombytes(image.mode, image.size, image.tobytes()).save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


def _write_pictures(pictures: Sequence[Picture], old: Path, new: Path) -> int:
    """Write pictures and what belongs to each into a folder; how many they are."""
    with without_warnings():
        for picture in pictures:
            name = _png_name(picture.file_name)
            image = _known(old / name, "RGB", picture.sha256) or picture.open()
            _write(new / name, png_bytes(image))
            if _in_kohya_folder(name):
                # Its scripts look for .caption unless they are told .txt, as most people do.
                for suffix in SIDECARS:
                    _write((new / name).with_suffix(suffix), f"{picture.caption}\n".encode())
            if picture.mask:
                known = _known(old / MASKS / name, "L", picture.mask.sha256)
                _write(new / MASKS / name, png_bytes(known or picture.open_mask()))
    return len(pictures)


def _known(path: Path, mode: str, sha256: str) -> Image.Image | None:
    """The picture of an old set, where it has the very pixels that are asked for."""
    if not path.is_file():
        return None
    try:
        image = decode(path).image.convert(mode)
    except DecodeError:
        return None
    return image if pixel_hash(image) == sha256 else None


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _picture(row: MetadataRow, folder: Path) -> Picture:
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
        repeats=_repeats(row),
        mask=_mask(row, folder, (width, height)),
    )


def _repeats(row: MetadataRow) -> int:
    repeats = row.values.get("repeats", 1)
    if type(repeats) is not int or repeats < 1:
        raise ImageSetError(f"{row.where}: repeats is a whole number from 1 on, not {repeats!r}")
    return repeats


def _mask(row: MetadataRow, folder: Path, size: tuple[int, int]) -> Mask | None:
    name, sha256 = row.values.get("mask_file_name"), row.values.get("mask_sha256")
    if not isinstance(name, str) or not name:
        return None
    path = inside(folder, name, row.where)
    if isinstance(sha256, str):
        return Mask(path, sha256)
    mask = decode(path, "black").image.convert("L")
    if mask.size != size:
        raise ImageSetError(f"{row.where}: the mask {name} is not as large as its picture")
    return Mask(path, pixel_hash(mask))


def _png_name(name: str) -> str:
    # A set read from elsewhere may hold other formats; a name must not lie about its content.
    return name if name.lower().endswith(".png") else f"{name}.png"


def _in_kohya_folder(name: str) -> bool:
    return re.match(r"\d+_", PurePosixPath(name).parent.name) is not None


def _columns(images: ImageSet) -> tuple[str, ...]:
    """Columns that only some sets need; all rows have them, or `datasets` would not read them."""
    repeats = ("repeats",) if any(picture.repeats != 1 for picture in images) else ()
    masks = ("mask_file_name", "mask_sha256") if any(p.mask for p in images) else ()
    return repeats + masks


def _row(picture: Picture, name: str, columns: tuple[str, ...]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "file_name": name,
        "text": picture.caption,
        "width": picture.width,
        "height": picture.height,
        "sha256": picture.sha256,
        "source": picture.source,
    }
    more = {
        "repeats": picture.repeats,
        "mask_file_name": f"{MASKS}/{name}" if picture.mask else None,
        "mask_sha256": picture.mask.sha256 if picture.mask else None,
    }
    return row | {column: more[column] for column in columns}


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
    if found - _ours(folder, found):
        raise ImageSetError(
            f"{folder} holds files that are not part of a curated set, such as "
            f"{sorted(found - _ours(folder, found))[0]}; move them away or write to another folder"
        )


def _ours(folder: Path, found: set[str]) -> set[str]:
    """The files of a folder that `write_imagefolder` wrote, git keeps, or nobody will miss."""
    ours = {name for name in found if _is_harmless(PurePosixPath(name).name)}
    if not (folder / METADATA).is_file():
        return ours
    for row in read_metadata(folder / METADATA):
        if "sha256" not in row.values:
            continue
        ours |= {METADATA, row.file_name}
        if row.values.get("mask_sha256"):
            ours.add(str(row.values.get("mask_file_name")))
        if _in_kohya_folder(row.file_name):
            path = PurePosixPath(row.file_name)
            ours |= {path.with_suffix(suffix).as_posix() for suffix in SIDECARS}
    return ours | {CARD} if is_card(folder / CARD) else ours


def _is_harmless(name: str) -> bool:
    return name.startswith(".git") or name.lower() in LITTER
