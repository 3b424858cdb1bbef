"""An adapter in PEFT's words.

Its layers are not made from this, but diffusers and PEFT ask for it, and files say it to them. It
is written in the one way that is right for masks: full module names as targets, and each deviating
rank and alpha under the anchored, escaped module name. An unanchored key also matches longer
names, and a bare block prefix matches nothing.
"""

import re
from collections import Counter
from collections.abc import Mapping

from peft import LoHaConfig, LoKrConfig, LoraConfig, OFTConfig, PeftConfig

from blockwise_lora.adapters.updates import Dora, Hadamard, LowRank, Orthogonal, Update
from blockwise_lora.adapters.wrapping import alpha_of


def peft_config(updates: Mapping[str, Update]) -> PeftConfig:
    """PEFT's configuration for updates of one kind; what most of them share is its default.

    It is made anew on each call, since PEFT rewrites the configurations that it is given.
    """
    targets, kind = list(updates), next(iter(updates.values()))
    if isinstance(kind, Orthogonal):
        size = Counter(update.rank for update in updates.values()).most_common(1)[0][0]
        exact = {"use_cayley_neumann": kind.terms is not None}
        if kind.terms is not None:
            exact["num_cayley_neumann_terms"] = kind.terms
        return OFTConfig(oft_block_size=size, target_modules=targets, **exact)
    ranks = {name: update.rank for name, update in updates.items()}
    alphas = {name: alpha_of(update) for name, update in updates.items()}
    rank, alpha = (Counter(x.values()).most_common(1)[0][0] for x in (ranks, alphas))
    common = {
        "r": rank,
        "target_modules": targets,
        "rank_pattern": {anchored(name): r for name, r in ranks.items() if r != rank},
        # Without this a layer of another rank would keep the common alpha, and change its scale.
        "alpha_pattern": {anchored(name): a for name, a in alphas.items() if a != alpha},
    }
    if isinstance(kind, LowRank | Dora):
        return LoraConfig(lora_alpha=alpha, use_dora=isinstance(kind, Dora), **common)
    return (LoHaConfig if isinstance(kind, Hadamard) else LoKrConfig)(alpha=alpha, **common)


def anchored(module_name: str) -> str:
    """The pattern by which PEFT finds this module and no other."""
    return "^" + re.escape(module_name)
