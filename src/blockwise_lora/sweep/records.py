"""A sweep for programs: JSON, table rows, and one record a mask for whoever keeps records."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from blockwise_lora.judges.bootstrap import Interval
from blockwise_lora.parameters import asdict
from blockwise_lora.sweep.bank import Entry
from blockwise_lora.sweep.outcome import Kind, Outcome, row_of
from blockwise_lora.sweep.recommendation import Found
from blockwise_lora.sweep.studies import CONCEPTS, FULL, Pair, shown_blocks
from blockwise_lora.sweep.workshop import Workshop


@dataclass(frozen=True)
class MaskRecord:
    """What there is to record of one trained pair; where one mask varies, of that mask.

    Attributes:
        name: such as "character: all+in0:0".
        key: the same for the same adapters, so that a record is found again.
        tags: masks and hashes.
        parameters: of adapters and training, nested.
        scores: score to mean; `effect.<score>` against the full pair.
        losses: concept to the loss of every step, of the masks that vary.
        adapters: concept to the adapter's folder, likewise.
        sheet: the pair's pictures.
    """

    name: str
    key: str
    tags: Mapping[str, str]
    parameters: Mapping[str, Any]
    scores: Mapping[str, float]
    losses: Mapping[str, tuple[float, ...]]
    adapters: Mapping[str, Path]
    sheet: Image.Image


def mask_records(
    shop: Workshop, outcome: Outcome, draw: Callable[[Pair], Image.Image]
) -> list[MaskRecord]:
    """One record for each trained pair, in the order of the study.

    Args:
        shop: where the adapters are.
        outcome: what was found.
        draw: a pair's sheet of pictures.
    """
    return [_record(shop, outcome, pair, draw(pair)) for pair in outcome.trained]


def _record(shop: Workshop, outcome: Outcome, pair: Pair, sheet: Image.Image) -> MaskRecord:
    entries = {c: shop.entry(c, getattr(pair, c)) for c in CONCEPTS}
    varied = [c for c in CONCEPTS if getattr(pair, c) != FULL] or list(CONCEPTS)
    tags = {f"mask.{c}": getattr(pair, c) for c in CONCEPTS}
    tags |= {f"adapter.{c}.key": entries[c].key for c in CONCEPTS}
    return MaskRecord(
        name="; ".join(f"{c}: {getattr(pair, c)}" for c in varied),
        key="-".join(entries[c].key[:16] for c in CONCEPTS),
        tags=tags | {"study": outcome.study},
        parameters={c: _parameters(shop, outcome, c, entries[c]) for c in CONCEPTS},
        scores=_means(outcome, pair),
        losses={c: entries[c].losses for c in varied},
        adapters={c: entries[c].folder for c in varied},
        sheet=sheet,
    )


def _parameters(shop: Workshop, outcome: Outcome, concept: str, entry: Entry) -> dict[str, Any]:
    lesson = shop.lessons[concept]
    spec = {k: v for k, v in asdict(lesson.masked(entry.mask)).items() if v not in (None, {}, [])}
    ranks = lesson.masked(entry.mask).mask.ranks(shop.blocks, lesson.spec.rank)
    shown = shown_blocks(shop.blocks, outcome.trained)
    coarse = {block: max(ranks[sub] for sub in shop.blocks.coarse[block]) for block in shown}
    return {
        **spec,
        "rank_of": coarse,
        "training": asdict(lesson.config),
        "cost": asdict(entry.cost),
    }


def _means(outcome: Outcome, pair: Pair) -> dict[str, float]:
    row = row_of(pair)
    scores = {s: by.mean for s, by in outcome.scores[row].items()}
    scores |= {f"effect.{s}": by.mean for s, by in outcome.effects[row].items()}
    return {name: mean for name, mean in scores.items() if not math.isnan(mean)}


def to_json(outcome: Outcome, found: Found | None = None) -> dict[str, Any]:
    """Everything that the page says in numbers; what is not known is null."""
    told = {
        "study": outcome.study,
        "best": asdict(outcome.best),
        # Numbers by name, which `dvc exp show` puts side by side; it leaves lists alone.
        "best_scores": {s: _number(by.mean) for s, by in _best(outcome).items() if by.n},
        "frontier": [asdict(pair) for pair in outcome.frontier],
        "pairs": [
            {
                **asdict(pair),
                "how": kind,
                "scores": _told(outcome.scores[row_of(pair, kind)]),
                "effects": _told(outcome.effects[row_of(pair, kind)]),
            }
            for pair, kind in _all(outcome)
        ],
        "agreement": {
            concept: [
                {
                    "score": a.score,
                    "correlation": _number(a.correlation),
                    "masks": a.n,
                    "contradicted": list(a.contradicted),
                }
                for a in found_
            ]
            for concept, found_ in outcome.agreements.items()
        },
    }
    if found:
        told["recommended"] = asdict(found.recommended)
        told["confirmed"] = _told(found.confirmed.scores[row_of(found.recommended)])
        told["confirmed_effect"] = _told(found.confirmed.effects[row_of(found.recommended)])
        told["search_seconds"] = found.seconds
    return told


def to_rows(outcome: Outcome) -> list[dict[str, Any]]:
    """Flat rows: masks, how, each score with its limits."""
    rows = []
    for pair, kind in _all(outcome):
        # Not "style", which is a score as well.
        masks = {f"{concept}_mask": getattr(pair, concept) for concept in CONCEPTS}
        row: dict[str, Any] = {**masks, "how": kind, "frontier": pair in outcome.frontier}
        for score, by in outcome.scores[row_of(pair, kind)].items():
            row |= {score: by.mean, f"{score}_low": by.low, f"{score}_high": by.high}
        rows.append(row)
    return rows


def _all(outcome: Outcome) -> list[tuple[Pair, Kind]]:
    return [(p, "trained") for p in outcome.trained] + [(p, "ablated") for p in outcome.ablated]


def _best(outcome: Outcome) -> Mapping[str, Interval]:
    return outcome.scores[row_of(outcome.best)]


def _told(intervals: Mapping[str, Interval]) -> dict[str, dict[str, float | None]]:
    return {
        score: {"mean": _number(by.mean), "low": _number(by.low), "high": _number(by.high)}
        for score, by in intervals.items()
        if by.n
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
