"""The corpus: every openly licensed emoji drawing with its caption, rendered to 64x64 pixels."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import load_file, save_file
from tqdm import tqdm

from blockwise_lora.emoji.sources import LABELS_PACKAGE, SETS, unpack_package

SIZE = 64
FLAGS_GROUP = 9
SKIN_TONES = {"1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"}


@dataclass(frozen=True)
class Emoji:
    """One drawing: a concept (code point) in the hand of one set."""

    code: str
    """Code points in hex joined by '-', without the presentation selector U+FE0F."""
    set_name: str
    label: str
    tags: tuple[str, ...]
    group: int | None
    subgroup: int | None

    @property
    def skin_toned(self) -> bool:
        return not SKIN_TONES.isdisjoint(self.code.split("-"))


@dataclass(frozen=True)
class Corpus:
    """Drawings and their pixels, row by row.

    Attributes:
        emojis: n records.
        pixels: (n, 64, 64, 3) uint8, on white.
    """

    emojis: tuple[Emoji, ...]
    pixels: np.ndarray

    def select(self, keep) -> Corpus:
        """The sub-corpus of the drawings for which `keep(emoji)` holds."""
        rows = [i for i, emoji in enumerate(self.emojis) if keep(emoji)]
        return Corpus(tuple(self.emojis[i] for i in rows), self.pixels[rows])

    def __len__(self) -> int:
        return len(self.emojis)


def code_point(text: str) -> str:
    """Normalise a code-point sequence: upper-case hex joined by '-', without U+FE0F."""
    return "-".join(part for part in text.upper().split("-") if part != "FE0F")


def render(svg: str, size: int = SIZE) -> np.ndarray:
    """Draw an SVG text on white. Returns (size, size, 3) uint8."""
    import resvg_py

    png = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size)
    drawing = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    canvas = Image.new("RGBA", (size, size), "white")
    if drawing.size != (size, size):  # a set with a drawing that is not square
        drawing.thumbnail((size, size), Image.Resampling.LANCZOS)
    offset = ((size - drawing.width) // 2, (size - drawing.height) // 2)
    canvas.alpha_composite(drawing, offset)
    return np.asarray(canvas.convert("RGB"))


def build_corpus(cache: Path, workers: int = 2) -> Corpus:
    """Return the whole corpus, rendering it on first use and reading it from `cache` afterwards.

    Args:
        cache: folder outside the work tree; packages go to `cache/packages`.
        workers: processes that render.

    Raises:
        UserError: a set cannot be fetched.
    """
    index, pixels = cache / "corpus.json", cache / "corpus.safetensors"
    if index.exists() and pixels.exists():
        return load_corpus(cache)
    drawings = list(_drawings(cache / "packages"))
    with ProcessPoolExecutor(workers) as pool:
        jobs = pool.map(render, (svg for _, svg in drawings), chunksize=64)
        rendered = np.stack(list(tqdm(jobs, total=len(drawings), desc="rendering emoji")))
    cache.mkdir(parents=True, exist_ok=True)
    save_file({"pixels": rendered}, pixels)
    index.write_text(json.dumps([asdict(emoji) for emoji, _ in drawings]), encoding="utf-8")
    return Corpus(tuple(emoji for emoji, _ in drawings), rendered)


def load_corpus(cache: Path) -> Corpus:
    """Read what `build_corpus` left in the cache."""
    rows = _read_json(cache / "corpus.json")
    emojis = tuple(Emoji(**{**row, "tags": tuple(row["tags"])}) for row in rows)
    return Corpus(emojis, load_file(cache / "corpus.safetensors")["pixels"])


def _drawings(packages: Path) -> Iterator[tuple[Emoji, str]]:
    names = _labels(packages)
    folders = {s.name: unpack_package(s.package, s.version, packages) for s in SETS.values()}
    chars = {name: _read_json(folder / "chars.json") for name, folder in folders.items()}
    # Half of the sets come with an empty chars.json; all share the same slugs.
    shared = {raw: slug for table in chars.values() for raw, slug in table.items()}
    for name, folder in folders.items():
        icons = _read_json(folder / "icons.json")
        seen = set()
        for raw, slug in sorted((chars[name] or shared).items()):
            code = code_point(raw)
            icon = icons["icons"].get(slug) or _parent(icons, slug)
            named = names.get(code)
            if icon is None or named is None or code in seen or named["group"] == FLAGS_GROUP:
                continue
            seen.add(code)
            yield Emoji(code=code, set_name=name, **named), _svg(icons, icon)


def _read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def _parent(icons: dict, slug: str) -> dict | None:
    alias = icons.get("aliases", {}).get(slug)
    return icons["icons"].get(alias["parent"]) if alias else None


def _svg(icons: dict, icon: dict) -> str:
    width = icon.get("width", icons.get("width", 16))
    height = icon.get("height", icons.get("height", 16))
    body = icon["body"].replace("currentColor", "#000")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{icon.get("left", 0)} {icon.get("top", 0)} {width} {height}">{body}</svg>'
    )


def _labels(packages: Path) -> dict[str, dict]:
    """Label, tags and groups of every code point, skin-tone variants included."""
    folder = unpack_package(*LABELS_PACKAGE, packages)
    entries = _read_json(folder / "en" / "data.json")
    names = {}
    for entry in entries:
        for e in (entry, *entry.get("skins", ())):
            names[code_point(e["hexcode"])] = {
                "label": e["label"].lower(),
                "tags": tuple(t.lower() for t in entry.get("tags", ())),
                "group": entry.get("group"),
                "subgroup": entry.get("subgroup"),
            }
    return names
