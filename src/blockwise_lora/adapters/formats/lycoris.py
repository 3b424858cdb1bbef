"""LyCORIS files: kohya's names of layers, and more methods than kohya's own scripts know.

    <layer>.lora_down.weight  lora_up.weight  [lora_mid.weight]  [dora_scale]  alpha
    <layer>.hada_w1_a  w1_b  w2_a  w2_b  [t1  t2]  alpha
    <layer>.lokr_w1 | w1_a  w1_b  lokr_w2 | w2_a  w2_b  [t2]  alpha
    <layer>.diff                                                (read only: written as a product)

The factor of an update is alpha / rank, each layer with its own. Readers that know all of it are
ComfyUI, A1111 and LyCORIS itself. (arXiv 2309.14859 describes the methods.)
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from blockwise_lora.adapters.errors import AdapterError
from blockwise_lora.adapters.formats.names import Names
from blockwise_lora.adapters.formats.peft_names import LayerContent, Numbers, kronecker_rank
from blockwise_lora.adapters.formats.sizes import check_size
from blockwise_lora.adapters.formats.unfold import unfolded
from blockwise_lora.adapters.updates import Dora, Hadamard, Kronecker, LowRank, Update
from blockwise_lora.adapters.wrapping import alpha_of

PREFIXES = ("lora_unet_", "lora_te_", "lora_te1_", "lora_te2_", "lycoris_")

_LORA = {"lora_down.weight": "lora_A.weight", "lora_up.weight": "lora_B.weight"}
_OTHERS = {
    "oft_blocks": "OFT in LyCORIS turns a layer's outputs; here, as in PEFT, it turns the inputs",
    "diff_b": "it changes biases",
    "w_norm": "it changes normalisation layers",
    "a1.weight": "GLoRA is not one of the methods here",
    "on_input": "(IA)3 is not one of the methods here",
    "rescale": "it rescales the layers' outputs",
}


def parse(tensors: Mapping[str, Tensor]) -> dict[str, LayerContent]:
    """A file's layers, under their joined names.

    A file without any alpha is of the oldest kind, where the factor is 1. Tucker's middle factor
    of a convolution is multiplied into the lower one, in float32.

    Raises:
        ValueError: the file is damaged or holds a method that is not known here.
    """
    layers: dict[str, dict[str, Tensor]] = {}
    for key, tensor in sorted(tensors.items()):
        layer, _, name = key.partition(".")
        layers.setdefault(layer, {})[name] = tensor
    scaled = {layer: own for layer, own in layers.items() if "diff" not in own}
    without = [layer for layer, own in scaled.items() if "alpha" not in own]
    if without and len(without) < len(scaled):
        raise ValueError(
            f"{without[0]} has no alpha while other layers have: its strength is not known"
        )
    return {layer: _content(layer, own) for layer, own in layers.items()}


def encode(updates: Mapping[str, Update], names: Names) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and kohya's usual metadata.

    Every layer keeps its own rank and alpha, to the bit where float32 holds its alpha. LoKr is
    written so that LyCORIS can read it back: a factor decomposed along the kernel is multiplied
    out as far as needed, and a factor of the whole goes into `w1` where LyCORIS knows none.

    Raises:
        AdapterError: OFT.
    """
    tensors: dict[str, Tensor] = {}
    for layer, update in updates.items():
        own, alpha = _tensors(layer, update)
        own["alpha"] = torch.tensor(float(alpha))
        tensors |= {f"{names.joined(layer)}.{key}": tensor for key, tensor in own.items()}
    return tensors, {"ss_network_module": "lycoris.kohya"} | dimensions(updates)


def dimensions(updates: Mapping[str, Update]) -> dict[str, str]:
    """What kohya's metadata say of rank and alpha: a number, or that there are several."""
    ranks = {update.rank for update in updates.values()}
    alphas = {alpha_of(update) for update in updates.values()}
    return {
        "ss_network_dim": str(ranks.pop()) if len(ranks) == 1 else "Dynamic",
        "ss_network_alpha": f"{alphas.pop():g}" if len(alphas) == 1 else "Dynamic",
    }


def _content(layer: str, own: Mapping[str, Tensor]) -> LayerContent:
    for name, reason in _OTHERS.items():
        if name in own:
            raise ValueError(f"{layer} has {name}: {reason}")
    if "diff" in own:
        return _whole(layer, own)
    alpha = _number(layer, own["alpha"]) if "alpha" in own else None
    rest = {_LORA.get(k, k): t for k, t in own.items() if k not in ("alpha", "dora_scale")}
    if "lora_mid.weight" in rest:
        rest = _without_mid(layer, rest)
    if "dora_scale" in own:
        rest["lora_magnitude_vector"] = _magnitude(layer, own["dora_scale"], rest)
    rank = _rank(layer, rest)
    if "lokr_w1" in rest and "lokr_w2" in rest:
        # Of two whole factors the readers take no alpha; as we write it, it is the rank.
        kept = alpha is not None and alpha == int(alpha) and 2 * alpha >= rank
        return LayerContent(rest, Numbers(1.0, int(alpha) if kept else rank))
    return LayerContent(rest, Numbers(1.0 if alpha is None else alpha / rank, rank))


def _whole(layer: str, own: Mapping[str, Tensor]) -> LayerContent:
    """A whole difference of weights, as a product with the identity, which changes no number."""
    diff = own["diff"]
    if len(own) > 1 or diff.dim() not in (2, 4):
        raise ValueError(f"{layer} has a difference of weights with more beside it, or of no shape")
    check_size(len(diff), len(diff))
    one = torch.eye(len(diff), dtype=diff.dtype).reshape(len(diff), -1, *(1,) * (diff.dim() - 2))
    return LayerContent({"lora_A.weight": diff, "lora_B.weight": one}, Numbers(1.0, len(diff)))


def _number(layer: str, tensor: Tensor) -> float:
    alpha = tensor.item() if tensor.numel() == 1 else math.nan
    if not math.isfinite(alpha) or alpha == 0:
        # kohya's scripts take 0 as the rank, ComfyUI as no effect at all.
        raise ValueError(f"{layer} has an alpha of {alpha:g}, which is no usable number")
    return alpha


def _rank(layer: str, tensors: Mapping[str, Tensor]) -> int:
    try:
        if "lora_A.weight" in tensors:
            return tensors["lora_A.weight"].shape[0] or 1
        if "hada_w1_b" in tensors:
            return tensors["hada_w1_b"].shape[0] or 1
        return kronecker_rank(tensors) or 1
    except KeyError as error:
        raise ValueError(f"{layer} lacks {error}") from None
    except IndexError:
        raise ValueError(f"{layer} has a factor that is not a matrix") from None


def _without_mid(layer: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    rest = {key: tensor for key, tensor in tensors.items() if key != "lora_mid.weight"}
    mid, down = tensors["lora_mid.weight"], rest.get("lora_A.weight")
    if down is None or down.dim() != 4 or mid.dim() != 4 or down.shape[2:].numel() != 1:
        raise ValueError(f"{layer} has a middle factor that does not go with the others")
    if mid.shape[1] != down.shape[0]:
        raise ValueError(f"{layer} has a middle factor that does not fit the lower one")
    check_size(mid.shape[0], down.shape[1], *mid.shape[2:])
    down = torch.einsum("rskl,si->rikl", mid.float(), down.float().flatten(1))
    return {key: tensor.float() for key, tensor in rest.items()} | {"lora_A.weight": down}


def _magnitude(layer: str, scale: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
    """DoRA's magnitudes in PEFT's shape."""
    up = tensors.get("lora_B.weight")
    if up is None:
        raise ValueError(f"{layer} has DoRA's magnitudes for a method other than LoRA")
    if scale.dim() != up.dim() or scale.shape[0] != up.shape[0] or scale[0].numel() != 1:
        raise ValueError(
            f"{layer} has DoRA's magnitudes by input, as LyCORIS makes them with wd_on_output "
            "off; here, as in PEFT, they are by output"
        )
    return scale.flatten() if up.dim() == 2 else scale.reshape(1, -1, 1, 1)


def _tensors(layer: str, update: Update) -> tuple[dict[str, Tensor], float]:
    """A layer's tensors and alpha."""
    if isinstance(update, LowRank):
        return {"lora_down.weight": update.down, "lora_up.weight": update.up}, alpha_of(update)
    if isinstance(update, Dora):
        own, alpha = _tensors(layer, update.low_rank)
        ones = (1 for _ in update.shape[1:])
        return own | {"dora_scale": update.magnitude.reshape(-1, *ones)}, alpha
    if isinstance(update, Hadamard):
        return update.tensors(), alpha_of(update)
    if isinstance(update, Kronecker):
        return _kronecker(update)
    raise AdapterError(
        f"{layer} is turned by OFT, which LyCORIS applies to a layer's outputs and this project, "
        "as PEFT, to its inputs: there is no such file; write format peft instead"
    )


def _kronecker(update: Kronecker) -> tuple[dict[str, Tensor], float]:
    own = {key: t for key, t in update.tensors().items() if key.startswith("lokr_w1")}
    if update.w2 is not None:
        # Only with both factors whole does LyCORIS find its way back; then it takes no alpha.
        first = update.first
        if update.scale != 1:
            first = first.float() * update.scale
        return {"lokr_w1": first, "lokr_w2": update.w2}, update.rank
    # LyCORIS takes the rank from the wrong side of a factor decomposed along the kernel.
    plain = unfolded(update)
    return own | {"lokr_w2_a": plain.w2_a, "lokr_w2_b": plain.w2_b}, alpha_of(update)
