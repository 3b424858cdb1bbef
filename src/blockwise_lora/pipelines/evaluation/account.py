"""How the compared pictures came about: adapters, losses, commands, settings, provenance."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from blockwise_lora.parameters import asdict, typed
from blockwise_lora.pipelines.command import kedro_run

if TYPE_CHECKING:
    import pandas as pd

    from blockwise_lora.adapters import Adapter
    from blockwise_lora.diffusion.combination import CombinationConfig
    from blockwise_lora.pipelines.evaluation.config import EvaluationConfig
    from blockwise_lora.pipelines.evaluation.evidence import Evidence, OpenedSet
    from blockwise_lora.report.charts import BlockStrip, LossCurve
    from blockwise_lora.report.page import AdapterCard

CONCEPTS = ("character", "style")
LIBRARIES = ("blockwise-lora", "torch", "diffusers", "peft", "open_clip_torch", "timm")
_PREFIX = re.compile(r"(down|up)_blocks\.(\d+)")

Adapters = Mapping[tuple[str, str], "Adapter"]
"""By variant and concept."""


def load_adapters(
    found: Mapping[str, Callable[[], Adapter]], variants: Sequence[str]
) -> dict[tuple[str, str], Adapter]:
    """The compared variants' adapters that exist: pictures may have come without them."""
    keys = ((v, c) for v in variants for c in CONCEPTS)
    return {(v, c): found[f"{v}/{c}"]() for v, c in keys if f"{v}/{c}" in found}


def title(adapters: Adapters) -> str:
    """The page's title, with the character's name where it is known."""
    names = {
        a.metadata.get("blockwise_lora.class_word", "")
        for (_, concept), a in adapters.items()
        if concept == "character"
    }
    named = ": " + names.pop() if len(names) == 1 and "" not in names else ""
    return f"Block-wise LoRA, character and style{named}"


def cards(adapters: Adapters) -> tuple[AdapterCard, ...]:
    """What each adapter was trained as."""
    from blockwise_lora.report.page import AdapterCard

    ranks = {key: _coarse_ranks(adapter) for key, adapter in adapters.items()}
    touched = {block for table in ranks.values() for block in table}
    depth = 1 + max((_depth(block) for block in touched), default=0)
    blocks = (*(f"in{i}" for i in range(depth)), "mid", *(f"out{i}" for i in range(depth)))
    if "base" in touched:
        blocks = ("base", *blocks)
    return tuple(
        AdapterCard(
            variant,
            concept,
            adapter.spec.blocks,
            _details(adapter),
            _strip(blocks, ranks[variant, concept]),
            adapter.sha256,
        )
        for (variant, concept), adapter in adapters.items()
    )


def loss_curves(
    found: Mapping[str, Callable[[], pd.DataFrame]], variants: Sequence[str]
) -> tuple[LossCurve, ...]:
    """Losses of the compared variants' trainings that exist."""
    from blockwise_lora.report.charts import LossCurve

    curves = []
    for variant in variants:
        for concept in CONCEPTS:
            if f"{variant}/{concept}" in found:
                frame = found[f"{variant}/{concept}"]()
                steps, losses = (tuple(frame[column].astype(float)) for column in ("step", "loss"))
                curves.append(LossCurve(variant, concept, steps, losses))
    return tuple(curves)


def commands(
    compared: Sequence[str], adapters: Adapters, variants: Mapping[str, Any], environment: str
) -> tuple[str, ...]:
    """Commands that make what the page shows, one a variant and one for the comparison."""
    making = "curation,training,combination"
    given = {v: {"variant": v} | _overrides(v, adapters, variants) for v in compared}
    lines = (kedro_run(environment, making, given[variant]) for variant in compared)
    return (*lines, kedro_run(environment, "evaluation"))


def settings(adapters: Adapters, evidence: Evidence, config: EvaluationConfig) -> dict[str, str]:
    """Settings of training, sampling and judging, in words, as the files of each variant tell."""
    seeds = sorted({sample.seed for sample in evidence.samples})
    judges = config.judge_config()
    table = {"seeds": ", ".join(map(str, seeds))}
    for name, describe in (("sampling", _sampling), ("strengths", _strengths)):
        told = {variant: describe(c) for variant, c in evidence.combinations.items()}
        table |= _grouped(name, told)
    table["judges"] = (
        f"CLIP {judges.clip}, DINO {judges.dino}, style from its blocks "
        f"{', '.join(map(str, judges.style_blocks))}"
    )
    for concept in CONCEPTS:
        trainings = {
            variant: _training(adapter.metadata.get("blockwise_lora.training"))
            for (variant, whose), adapter in adapters.items()
            if whose == concept
        }
        table |= _grouped(f"training, {concept}", trainings)
    return table


def provenance(
    adapters: Adapters, learned: Mapping[str, OpenedSet], judges: Mapping[str, str]
) -> dict[str, str]:
    """Commit, hashes and versions that the page's numbers rest on.

    Args:
        adapters: whose files name their base model.
        learned: curated sets by concept.
        judges: name of each judge to the hash of its weights.
    """
    table = {"commit": _commit()}
    bases = {
        f"{a.metadata.get('blockwise_lora.base_model', '?')}, sha256 "
        f"{a.metadata.get('blockwise_lora.base_model_sha256', '?')}"
        for a in adapters.values()
    }
    table["base model"] = "; ".join(sorted(bases)) or "unknown"
    table |= {f"{name}'s pictures": f"sha256 {s.images.sha256}" for name, s in learned.items()}
    table |= {f"{name} judge": f"sha256 {sha}" for name, sha in judges.items()}
    table["versions"] = ", ".join(f"{n} {importlib.metadata.version(n)}" for n in LIBRARIES)
    return table


def _coarse_ranks(adapter: Adapter) -> dict[str, tuple[int, ...]]:
    """Ranks by coarse block (in0 ... mid ... out3), from what the file says of its blocks."""
    table: dict[str, set[int]] = {}
    for entry in json.loads(adapter.metadata["blockwise_lora.blocks"]).values():
        coarse = {_coarse(prefix) for prefix in entry["modules"]}
        for block in coarse:
            table.setdefault(block, set()).update(entry["ranks"])
    return {block: tuple(sorted(ranks)) for block, ranks in table.items()}


def _coarse(prefix: str) -> str:
    if prefix.startswith("text_encoder"):
        return "base"
    found = _PREFIX.match(prefix)
    if not found:
        return "mid"
    return ("in" if found[1] == "down" else "out") + found[2]


def _depth(block: str) -> int:
    """Index of a coarse block; a U-Net has as many blocks down as up."""
    return int(re.sub(r"\D", "", block) or 0)


def _strip(blocks: tuple[str, ...], ranks: Mapping[str, tuple[int, ...]]) -> BlockStrip:
    from blockwise_lora.report.charts import BlockStrip

    return BlockStrip(blocks, tuple(ranks.get(block, ()) for block in blocks))


def _details(adapter: Adapter) -> str:
    spec = adapter.spec
    values = sum(tensor.numel() for tensor in adapter.state.values())
    alpha = spec.rank if spec.alpha is None else spec.alpha
    return f"{spec.method}, rank {spec.rank}, alpha {alpha:g}, {values:,} values"


def _overrides(variant: str, adapters: Adapters, variants: Mapping[str, Any]) -> dict[str, Any]:
    """What an adapter was trained as beyond its variant's definition, as `--params` takes it."""
    from blockwise_lora.adapters import AdapterSpec

    found = {}
    for concept in CONCEPTS:
        adapter = adapters.get((variant, concept))
        defined = (variants.get(variant) or {}).get(concept)
        if adapter is None or defined is None:
            continue
        plain = {k: v for k, v in defined.items() if k != "training"}
        expected = asdict(typed(AdapterSpec, plain, f"variants.{variant}.{concept}"))
        told = asdict(adapter.spec)
        found |= {f"{concept}.{k}": v for k, v in told.items() if v != expected[k]}
    return found


def _grouped(name: str, told: Mapping[str, str]) -> dict[str, str]:
    """One line where all variants have the same words, else one for each of those that do."""
    groups: dict[str, list[str]] = {}
    for variant, text in told.items():
        groups.setdefault(text, []).append(variant)
    if len(groups) == 1:
        return {name: next(iter(groups))}
    return {f"{name} ({', '.join(variants)})": text for text, variants in groups.items()}


def _sampling(combination: CombinationConfig) -> str:
    sampling = combination.sampling
    return f"{sampling.scheduler}, {sampling.steps} steps, guidance {sampling.guidance_scale:g}"


def _strengths(combination: CombinationConfig) -> str:
    """Strengths, and what else there is of schedules and merging."""
    words = [f"{c} {getattr(combination.strengths, c)}" for c in CONCEPTS]
    told = asdict(combination)
    plain = asdict(type(combination)())
    for group in ("schedules", "merge"):
        words += [f"{group}.{k} {v}" for k, v in told[group].items() if v != plain[group][k]]
    return ", ".join(words)


def _training(text: str | None) -> str:
    values = json.loads(text or "{}")
    shown = ("steps", "batch_size", "learning_rate", "schedule", "seed")
    return ", ".join(f"{key.replace('_', ' ')} {values[key]}" for key in shown if key in values)


def _commit() -> str:
    """The code's commit, and whether files differ from it."""
    try:
        said = [
            subprocess.run(
                ["git", *arguments], capture_output=True, text=True, timeout=20, check=True
            ).stdout.strip()
            for arguments in (["rev-parse", "HEAD"], ["status", "--porcelain", "-uno"])
        ]
    except (OSError, subprocess.SubprocessError):  # no git, or a copy without a repository
        return "unknown"
    return said[0] + (" and uncommitted changes" if said[1] else "")
