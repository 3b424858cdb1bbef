"""The pictures that the repository ships for the default job: characters, styles, true pictures."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from PIL import Image

from blockwise_lora.atomic import write_bytes, write_text
from blockwise_lora.emoji.corpus import Corpus, Emoji
from blockwise_lora.emoji.sources import SETS
from blockwise_lora.emoji.splits import Family, Splits

CHARACTER_SET = "noto"
"""The hand that draws the characters: a set that the base model knows, with every family in it."""


def ship_pictures(corpus: Corpus, splits: Splits, folder: Path) -> list[Path]:
    """Write the picture folders of all dev families and styles below `folder` (data/01_raw).

    characters/<family>/  one PNG and one .txt per training member, drawn by Noto
    styles/<style>/       one PNG and one .txt per code point of the style set
    truth/<family>-<style>/  the true pictures of the test members, with metadata.jsonl

    Sealed families and styles are never written. Returns the folders.
    """
    rows = {(e.set_name, e.code): i for i, e in enumerate(corpus.emojis)}
    families = [f for f in splits.families.values() if f.role == "dev"]
    styles = [name for name, role in splits.styles.items() if role == "dev"]
    written = []
    for family in families:
        target = folder / "characters" / family.name
        written.append(_with_sidecars(corpus, _members(rows, family, family.train), target))
    for style in styles:
        members = ((rows[style, code], None) for code in splits.style_set)
        written.append(_with_sidecars(corpus, members, folder / "styles" / style))
        for family in families:
            target = folder / "truth" / f"{family.name}-{style}"
            written.append(_with_metadata(corpus, rows, family, style, target))
    write_text(folder / "ATTRIBUTION.md", attribution({CHARACTER_SET, *styles}))
    return written


def file_stem(emoji: Emoji) -> str:
    """A file name from the label: `cat with wry smile` -> `cat-with-wry-smile`."""
    kept = "".join(c if c.isalnum() else " " for c in emoji.label)
    return "-".join(kept.split())


def caption(emoji: Emoji, family: Family | None) -> str:
    """What a person would write beside the picture: class word and expression, or the label."""
    if family is not None:
        return f"{family.class_word}, {family.members[emoji.code]}"
    return emoji.label


def attribution(set_names: Iterable[str]) -> str:
    """Where drawings come from and under which licence, as Markdown."""
    lines = ["# Where these pictures come from", ""]
    for name in sorted(set_names):
        s = SETS[name]
        lines.append(
            f"- `{name}`: {s.attribution}. Licence {s.licence}. npm `{s.package}` {s.version}."
        )
    lines += [
        "",
        "Characters are drawn by Noto, styles and true pictures by the set that the folder names.",
        "Rendered to 64x64 pixels on white; nothing else was changed.",
        "",
    ]
    return "\n".join(lines)


def _members(rows: dict, family: Family, codes: Iterable[str]) -> Iterator[tuple[int, Family]]:
    return ((rows[CHARACTER_SET, code], family) for code in codes)


def _with_sidecars(
    corpus: Corpus, members: Iterable[tuple[int, Family | None]], target: Path
) -> Path:
    for row, family in members:
        emoji = corpus.emojis[row]
        write_bytes(target / f"{file_stem(emoji)}.png", _png(corpus.pixels[row]))
        write_text(target / f"{file_stem(emoji)}.txt", caption(emoji, family) + "\n")
    return target


def _with_metadata(corpus: Corpus, rows: dict, family: Family, style: str, target: Path) -> Path:
    lines = []
    for code, expression in family.test.items():
        row = rows[style, code]
        emoji = corpus.emojis[row]
        name = f"{file_stem(emoji)}.png"
        write_bytes(target / name, _png(corpus.pixels[row]))
        record = {"file_name": name, "text": f"{family.class_word}, {expression}"}
        lines.append(json.dumps(record))
    write_text(target / "metadata.jsonl", "\n".join(lines) + "\n")
    return target


def _png(pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
