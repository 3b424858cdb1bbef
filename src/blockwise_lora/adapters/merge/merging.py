"""One call for all rules."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import get_args

from torch import Tensor

from blockwise_lora.adapters import Adapter
from blockwise_lora.adapters.merge.dare import Dare
from blockwise_lora.adapters.merge.errors import MergeError
from blockwise_lora.adapters.merge.klora import KLora, advantages
from blockwise_lora.adapters.merge.linear import Linear
from blockwise_lora.adapters.merge.lowrank import EXACT, Truncated, factorise, truncate
from blockwise_lora.adapters.merge.magnitude import MagnitudePrune
from blockwise_lora.adapters.merge.parts import Base, Part, Weighted, in_float32, parts_of
from blockwise_lora.adapters.merge.pick import Pick, picked
from blockwise_lora.adapters.merge.provenance import content_hash, provenance
from blockwise_lora.adapters.merge.results import BakedModel, Merged, MergedAdapter, Stepwise
from blockwise_lora.adapters.merge.summed import Sum, add
from blockwise_lora.adapters.merge.svd import Svd
from blockwise_lora.adapters.merge.ties import Ties
from blockwise_lora.adapters.merge.ziplora import ZipLora
from blockwise_lora.adapters.updates import LowRank, Update

Rule = Sum | Svd | Linear | MagnitudePrune | Ties | Dare | Pick | ZipLora | KLora
RULES: Mapping[str, type] = MappingProxyType({rule.name: rule for rule in get_args(Rule)})
_FULL_SIZE = (MagnitudePrune, Ties, Dare)
"""Rules whose results have no low rank."""


def merge(
    adapters: Sequence[Weighted], rule: Rule, *, base: Base | None = None, bake: bool = False
) -> Merged:
    """Merge adapters of any masks, ranks and methods.

    Equal arguments give equal results, to the bit.

    Args:
        adapters: two or more; one will do to bake it.
        rule: how.
        base: the model; rules of blocks, methods whose change depends on the base's weights
            (DoRA, OFT) and baking need it.
        bake: put the merge into the base's weights. A rule without low rank (magnitude_prune,
            ties, dare) whose `rank` is None does so in any case.

    Returns:
        A `Stepwise` of rule klora; a `BakedModel` where it is baked; else a `MergedAdapter`.

    Raises:
        MergeError: the adapters do not go together or not with the rule, or the base is missing.
    """
    metadata = provenance(adapters, rule)
    bake = bake or (isinstance(rule, _FULL_SIZE) and rule.rank is None)
    _check(adapters, rule, base, bake)
    if isinstance(rule, Pick):
        adapters = picked(rule, adapters, base.blocks)
    modules = sorted({module for weighted in adapters for module in weighted.adapter.updates})
    parts = {module: parts_of(module, adapters, base) for module in modules}
    parts = {module: some for module, some in parts.items() if some}
    if not parts:
        raise MergeError("nothing is left to merge: all weights are 0, or no block is taken")
    if isinstance(rule, KLora):
        shared = {module: tuple(some) for module, some in parts.items() if len(some) == 2}
        found = MappingProxyType(advantages(shared, rule.gamma))
        return Stepwise(tuple(adapters), rule, found, metadata)
    merged, errors = {}, {}
    for module, some in parts.items():
        merged[module], error = _layer(rule, module, some, bake)
        if error > EXACT:
            errors[module] = error
        if bake:
            merged[module] = _baked(base.weight(module), merged[module])
    errors = MappingProxyType(errors)
    if bake:
        return BakedModel(MappingProxyType(merged), errors, metadata)
    return MergedAdapter(_adapter(adapters, _of_one_kind(merged, base), metadata), errors)


def _check(adapters: Sequence[Weighted], rule: Rule, base: Base | None, bake: bool) -> None:
    if not adapters:
        raise MergeError("there is no adapter to merge")
    if len(adapters) == 1 and not bake:
        raise MergeError("one adapter alone is no merge: name a second one, or bake it")
    if isinstance(rule, KLora) and (len(adapters) != 2 or bake):
        raise MergeError(
            "rule klora chooses between two adapters, a content's and a style's, at each denoising "
            "step: it takes exactly two and cannot be baked"
        )
    if isinstance(rule, ZipLora) and len(rule.columns) != len(adapters):
        raise MergeError(f"rule ziplora has factors for {len(rule.columns)} adapters")
    if base is None and isinstance(rule, Pick):
        raise MergeError("rule pick needs the base model, whose blocks its masks name")
    if base is None and bake:
        remedy = "" if not isinstance(rule, _FULL_SIZE) else ", or a rank to make an adapter"
        raise MergeError(f"rule {rule.name} bakes into the base model here: name one{remedy}")


def _layer(
    rule: Rule, module: str, parts: Sequence[Part], bake: bool
) -> tuple[Update | Tensor, float]:
    """One layer's merge and its error; of full size only where it is to be baked."""
    alone = len(parts) == 1 and isinstance(rule, _FULL_SIZE) and not rule.everywhere
    combined = add(parts) if alone else rule.combine(module, parts)
    if isinstance(combined, Truncated):
        return combined.update, combined.error
    rank = getattr(rule, "rank", None)
    if rank is None and (bake or not isinstance(combined, Tensor)):
        return combined, 0.0
    if isinstance(combined, LowRank):
        fitted = truncate(combined, rank)
    elif isinstance(combined, Tensor):
        fitted = factorise(combined, rank)
    else:
        fitted = factorise(parts[0].weight * parts[0].delta(), rank)
    return fitted.update, fitted.error


def _baked(weight: Tensor, change: Update | Tensor) -> Tensor:
    weight = weight.float().cpu()
    if isinstance(change, Tensor):
        return weight + change
    return weight + in_float32(change).delta(weight if change.needs_base else None)


def _of_one_kind(updates: Mapping[str, Update], base: Base | None) -> Mapping[str, Update]:
    """The same changes, all low-rank if they are of several kinds: files hold one kind each.

    Raises:
        MergeError: a change depends on the base's weights, and there is no base.
    """
    if len({type(update) for update in updates.values()}) == 1:
        return updates
    return {
        module: update if isinstance(update, LowRank) else _low_rank(module, update, base)
        for module, update in updates.items()
    }


def _low_rank(module: str, update: Update, base: Base | None) -> LowRank:
    needed = base.weight(module) if update.needs_base and base is not None else None
    return factorise(Part(0, update, 1.0, needed).delta()).update


def _adapter(
    adapters: Sequence[Weighted], updates: Mapping[str, Update], metadata: Mapping[str, str]
) -> Adapter:
    homes = {m: b for weighted in adapters for m, b in weighted.adapter.sub_blocks.items()}
    return Adapter(
        updates=MappingProxyType(dict(updates)),
        sub_blocks=MappingProxyType({module: homes[module] for module in updates}),
        spec=None,
        metadata=MappingProxyType(dict(metadata)),
        sha256=content_hash(updates, metadata),
    )
