"""How much memory does a large set take, and what does a second run touch?

    python benchmarks/streaming.py                     # 5,000, 20,000 and 100,000 pictures
    python benchmarks/streaming.py --counts 2000 --folder /big/disk

Generated pictures of 96 pixels, all different, are screened, captioned and written, by a process
of its own for each number of pictures. Then one picture in a hundred is replaced, and another
process does it again. Results: benchmarks/results/streaming.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sqlite3
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from blockwise_lora.atomic import write_text
from blockwise_lora.imagesets import (
    CaptioningConfig,
    CaptionRule,
    CurationConfig,
    caption_pictures,
    screen_folder,
    write_imagefolder,
)

RESULTS = Path(__file__).parent / "results"
SIDE = 96  # pixels
IN_A_FOLDER = 1000


@dataclass(frozen=True)
class Outcome:
    """One run over one folder.

    Attributes:
        pictures: in the folder.
        replaced: of them, since the last run.
        measured: decoded and measured by this run.
        kept: in the finished set.
        peak: memory of the process up to the end of each step, MB; "worker": of the largest one.
        seconds: of each step.
    """

    pictures: int
    replaced: int
    measured: int
    kept: int
    peak: dict[str, float]
    seconds: dict[str, float]


def draw(folder: Path, numbers: range, seed: int) -> None:
    """Write pictures of coarse random patterns, which resemble each other by chance only."""
    for number in numbers:
        rng = np.random.default_rng((seed, number))
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        path = folder / f"{number // IN_A_FOLDER:03}" / f"{number:06}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(path, compress_level=1)


def curated(folder: Path, replaced: int) -> Outcome:
    """Curate `folder`/raw into `folder`/set, as the pipeline does."""
    cache, peak, seconds, began = folder / "cache", {}, {}, time.monotonic()
    known = measured(cache)

    def done(step: str) -> None:
        peak[step] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        seconds[step] = time.monotonic() - began - sum(seconds.values())

    done("start")
    screening = screen_folder(folder / "raw", CurationConfig(), cache=cache)
    done("screening")
    captioner = CaptioningConfig().captioner(CaptionRule("zkc", "pattern"))
    images, report = caption_pictures(screening, captioner)
    done("captioning")
    write_imagefolder(folder / "set", images)
    done("writing")
    peak["worker"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    new = measured(cache) - known
    return Outcome(len(report.verdicts), replaced, new, len(images), peak, seconds)


def measured(cache: Path) -> int:
    """How many pictures' measures are kept."""
    if not (cache / "measures.sqlite").exists():
        return 0
    with closing(sqlite3.connect(cache / "measures.sqlite")) as database:
        return database.execute("SELECT count(*) FROM measures").fetchone()[0]


def in_process(function, *arguments):
    """In a process of its own, so that the peak is this run's."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def measure(folder: Path, count: int) -> list[Outcome]:
    """A first and a second run over `count` pictures."""
    draw(folder / "raw", range(count), seed=0)
    first = in_process(curated, folder, 0)
    changed = range(0, count, 100)
    for number in changed:
        draw(folder / "raw", range(number, number + 1), seed=1)
    return [first, in_process(curated, folder, len(changed))]


def markdown(outcomes: list[Outcome]) -> str:
    """The table for people."""
    head = ("pictures", "replaced", "measured", "kept", *(f"peak, {n}" for n in outcomes[0].peak))
    head += tuple(f"s, {step}" for step in outcomes[0].seconds if step != "start")
    lines = [
        "# Curation of many pictures",
        "",
        f"`python benchmarks/streaming.py`: pictures of {SIDE} pixels; peaks in MB, of the process",
        "up to the end of each step and of the largest of its workers.",
        "",
        "| " + " | ".join(head) + " |",
        "|---" * len(head) + "|",
    ]
    for one in outcomes:
        counts = (one.pictures, one.replaced, one.measured, one.kept)
        seconds = [value for step, value in one.seconds.items() if step != "start"]
        cells = (f"{value:.0f}" for value in (*counts, *one.peak.values(), *seconds))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--counts", nargs="+", type=int, default=[5_000, 20_000, 100_000])
    parser.add_argument("--folder", help="where there is room for the pictures")
    options = parser.parse_args()
    outcomes: list[Outcome] = []
    for count in options.counts:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            outcomes += measure(Path(folder), count)
        print(markdown(outcomes), flush=True)
        write_text(RESULTS / "streaming.md", markdown(outcomes))
        rows = [asdict(outcome) for outcome in outcomes]
        write_text(RESULTS / "streaming.json", json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
