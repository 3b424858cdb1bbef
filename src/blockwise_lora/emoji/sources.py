"""The emoji sets that the embedded world is made of: where they come from and their licences."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from blockwise_lora.errors import UserError


@dataclass(frozen=True)
class EmojiSet:
    """One openly licensed set of emoji drawings, published as an npm package of SVG bodies."""

    name: str
    version: str
    licence: str
    attribution: str
    style_words: str
    """How captions call the style."""

    @property
    def package(self) -> str:
        return f"@iconify-json/{self.name}"


SETS: dict[str, EmojiSet] = {
    s.name: s
    for s in (
        EmojiSet("noto", "1.2.9", "Apache-2.0", "Noto Emoji, Google Inc.", "noto"),
        EmojiSet("noto-v1", "1.2.5", "Apache-2.0", "Noto Emoji v1, Google Inc.", "blob"),
        EmojiSet("twemoji", "1.2.5", "CC-BY-4.0", "Twemoji, Twitter and contributors", "twemoji"),
        EmojiSet("emojione", "1.2.3", "CC-BY-4.0", "EmojiOne 2, Emoji One", "emojione"),
        EmojiSet("emojione-v1", "1.2.3", "CC-BY-SA-4.0", "EmojiOne 1, Emoji One", "classic"),
        EmojiSet(
            "emojione-monotone", "1.2.1", "CC-BY-4.0", "EmojiOne Monotone, Emoji One", "monotone"
        ),
        EmojiSet("openmoji", "1.2.29", "CC-BY-SA-4.0", "OpenMoji, HfG Gmuend", "openmoji"),
        EmojiSet("fluent-emoji", "1.2.7", "MIT", "Fluent Emoji, Microsoft", "fluent"),
        EmojiSet("fluent-emoji-flat", "1.2.6", "MIT", "Fluent Emoji Flat, Microsoft", "flat"),
        EmojiSet(
            "fluent-emoji-high-contrast",
            "1.2.6",
            "MIT",
            "Fluent Emoji High Contrast, Microsoft",
            "contrast",
        ),
    )
}

LABELS_PACKAGE = ("emojibase-data", "17.0.0")


def unpack_package(name: str, version: str, cache: Path) -> Path:
    """Return the unpacked npm package `name@version`, fetched with `npm pack` if it is not there.

    Raises:
        UserError: npm is not installed, or the registry did not give the package.
    """
    stem = f"{name.removeprefix('@').replace('/', '-')}-{version}"
    folder = cache / stem
    if (folder / "package").is_dir():
        return folder / "package"
    cache.mkdir(parents=True, exist_ok=True)
    archive = cache / f"{stem}.tgz"
    if not archive.exists():
        _npm_pack(f"{name}@{version}", cache)
    staging = cache / f"{stem}.partial"
    shutil.rmtree(staging, ignore_errors=True)
    with tarfile.open(archive) as tar:
        tar.extractall(staging, filter="data")  # refuses members that leave the folder
    staging.rename(folder)
    return folder / "package"


def _npm_pack(spec: str, cache: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise UserError(
            f"npm is needed once, to fetch the emoji set {spec} for pretraining. Install Node.js, "
            "or use the trained weights that the repository ships."
        )
    done = subprocess.run(
        [npm, "pack", "--silent", spec], cwd=cache, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise UserError(
            f"npm could not fetch {spec}: {done.stderr.strip() or done.stdout.strip()}. Check the "
            f"network, or put the package's .tgz file into {cache} by hand."
        )
