"""The single file of kohya's scripts, which A1111 and ComfyUI read, too: LoRA and LoCon.

Their formula is W + strength * alpha / rank * up @ down, with alpha stored for every layer. Not
every reader applies every layer's alpha (diffusers misses those of q, k, v and out), so all
layers get one and the same alpha and the true scale goes into `up`:

    up = B * (scale * rank / alpha)        for which alpha / rank * up = scale * B

Where all layers have one alpha, nothing is rescaled. LyCORIS's files hold every alpha as it is.
"""

from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor

from blockwise_lora.adapters.errors import AdapterError
from blockwise_lora.adapters.formats.lycoris import dimensions
from blockwise_lora.adapters.formats.names import Names
from blockwise_lora.adapters.updates import LowRank, Update


def encode(updates: Mapping[str, Update], names: Names) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and kohya's usual metadata.

    Returns:
        `lora_down.weight`, `lora_up.weight` and `alpha` of every layer, and the metadata.

    Raises:
        AdapterError: a method other than LoRA and LoCon.
    """
    for layer, update in updates.items():
        if not isinstance(update, LowRank):
            raise AdapterError(
                f"{layer} is changed by {type(update).__name__}, and kohya's own format is for "
                "LoRA and LoCon alone: write format lycoris or peft instead"
            )
    alpha = _common_alpha(updates)
    tensors: dict[str, Tensor] = {}
    for layer, update in updates.items():
        key, factor = names.joined(layer), update.scale * update.rank / alpha.item()
        tensors[f"{key}.lora_down.weight"] = update.down
        # A factor that is 1 but for the rounding of alpha / rank would only cost bits.
        exact = abs(factor - 1) < 1e-12
        tensors[f"{key}.lora_up.weight"] = update.up if exact else update.up.float() * factor
        tensors[f"{key}.alpha"] = alpha
    return tensors, dimensions(updates) | {
        "ss_network_module": "networks.lora",
        "ss_network_alpha": f"{alpha.item():g}",
    }


def _common_alpha(updates: Mapping[str, LowRank]) -> Tensor:
    """The commonest true alpha, so that most layers keep their values to the bit."""
    true = [torch.tensor(x.scale * x.rank, dtype=torch.float32).item() for x in updates.values()]
    alphas = Counter(alpha for alpha in true if alpha).most_common(1)
    # As float32, which is how readers will find it.
    return torch.tensor(alphas[0][0] if alphas else 1.0, dtype=torch.float32)
