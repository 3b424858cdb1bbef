"""The single file that ComfyUI, A1111 and kohya's scripts load.

Their formula is W + strength * alpha / rank * up @ down, with alpha stored for every layer. Not
every reader applies every layer's alpha (diffusers misses those of q, k, v and out), so all
layers get one and the same alpha and the true scale goes into `up`:

    up = B * (scale * rank / alpha)        for which alpha / rank * up = scale * B
"""

from collections import Counter
from collections.abc import Mapping

import torch

from blockwise_lora.adapters.updates import LowRank


def to_single_file(
    updates: Mapping[str, LowRank],
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and kohya's usual metadata for the adapted layers of a U-Net.

    Layers are named after diffusers' modules (`lora_unet_down_blocks_0_...`), which is how the
    readers know SD 1.x and 2.x.

    Args:
        updates: full module name to its update.

    Returns:
        `lora_down.weight`, `lora_up.weight` and `alpha` of every layer, and the metadata.
    """
    # The commonest true alpha, so that most layers keep their values to the bit.
    common = Counter(f.scale * f.rank for f in updates.values()).most_common(1)[0][0]
    stored = torch.tensor(common, dtype=torch.float32)
    alpha = stored.item()  # as readers will find it
    tensors = {}
    for name, layer in updates.items():
        key = "lora_unet_" + name.replace(".", "_")
        tensors[f"{key}.lora_down.weight"] = layer.down
        tensors[f"{key}.lora_up.weight"] = layer.up * (layer.scale * layer.rank / alpha)
        tensors[f"{key}.alpha"] = stored
    ranks = {f.rank for f in updates.values()}
    return tensors, {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(ranks.pop()) if len(ranks) == 1 else "Dynamic",
        "ss_network_alpha": f"{alpha:g}",
    }
