"""How fast are copies found? Beside imagehash and imagededup, on two cores, for curation.py.

Each tool runs as its own documentation says, in a process of its own that has imported all it
needs: this project over all cores, imagehash in a plain loop on one core (its README knows no
other), imagededup with its own processes. Rounds take turns, medians count. Wall time is what the
user waits for, and tells of what else the machine does; processor seconds, children included, tell
what the work costs.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

from PIL import Image

HASH_BITS = 8  # of 64; what both peers' documentation takes for near-duplicates is 5 to 10
ONE_IN = 10  # pictures is there a second time, as a JPEG
_TURNS = (None, *Image.Transpose)  # eight ways to lay a picture, none the copy of another


def ours(files: list[Path]) -> int:
    """Decode, describe and compare."""
    from blockwise_lora.imagesets import find_copies

    return len(find_copies(files).originals)


def our_curation(files: list[Path]) -> int:
    """The same, with all else that is measured of a picture before it is trained on."""
    from blockwise_lora.imagesets import CurationConfig, screen_folder

    pictures = screen_folder(files[0].parent, CurationConfig(upscale=True)).pictures
    return sum(not picture.verdict.kept for picture in pictures)


def imagehash_plainly(files: list[Path]) -> int:
    """A perceptual hash for each file, then every pair."""
    import imagehash

    hashes = []
    for file in files:
        with Image.open(file) as image:
            hashes.append(imagehash.phash(image))
    return sum(a - b <= HASH_BITS for i, a in enumerate(hashes) for b in hashes[:i])


def imagededup_phash(files: list[Path]) -> int:
    """Its PHash with its defaults."""
    from imagededup.methods import PHash

    logging.disable(logging.INFO)
    hasher = PHash(verbose=False)
    found = hasher.find_duplicates(image_dir=files[0].parent, max_distance_threshold=HASH_BITS)
    return sum(map(len, found.values()))


TOOLS: dict[str, Callable[[list[Path]], int]] = {
    "this project": ours,
    "imagehash, plainly": imagehash_plainly,
    "imagededup, PHash": imagededup_phash,
    "this project, whole curation": our_curation,
}


def timed(images: dict[str, tuple[list[Image.Image], str]], folder: Path, rounds: int) -> dict:
    """Pictures for each second and for each processor second, by set and tool.

    Args:
        images: name to pictures and the ending of their files.
        folder: empty, for the files.
        rounds: of each tool on each set.
    """
    warm = folder / "warm"
    warm.mkdir()
    for number in range(2):
        Image.effect_noise((64, 64), 90).convert("RGB").save(warm / f"{number}.png")
    result = {}
    for name, (pictures, ending) in images.items():
        count = _save(pictures, folder / name, ending)
        runs: dict[str, list[tuple[float, float]]] = {tool: [] for tool in TOOLS}
        for _ in range(rounds):
            for tool, found in runs.items():
                found.append(_run(tool, warm, folder / name))
        result[f"{name}, {count} files"] = {
            tool: [count / median(seconds) for seconds in zip(*found, strict=True)]
            for tool, found in runs.items()
        }
        print(name, result[f"{name}, {count} files"], flush=True)
    return result


def turned(images: list[Image.Image]) -> Iterator[Image.Image]:
    """Each picture turned and mirrored: as many pictures more, none a copy."""
    for turn in _TURNS:
        yield from (image if turn is None else image.transpose(turn) for image in images)


def _save(images: list[Image.Image], folder: Path, ending: str) -> int:
    folder.mkdir()
    for number, image in enumerate(images):
        image.save(folder / f"{number:05}.{ending}")
        if number % ONE_IN == 0:
            image.save(folder / f"{number:05}-copy.jpg", quality=70)
    return len(list(folder.iterdir()))


def _run(tool: str, warm: Path, folder: Path) -> tuple[float, float]:
    command = [sys.executable, "-P", __file__, tool, str(warm), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{tool}: {done.stderr[-2000:]}")
    return tuple(json.loads(done.stdout.splitlines()[-1]))


def _one(tool: str, warm: Path, folder: Path) -> None:
    TOOLS[tool](sorted(warm.iterdir()))  # imports are no part of it
    files = sorted(folder.iterdir())
    began, processor = time.perf_counter(), _processor_seconds()
    TOOLS[tool](files)
    print(json.dumps([time.perf_counter() - began, _processor_seconds() - processor]))


def _processor_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


if __name__ == "__main__":
    _one(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
