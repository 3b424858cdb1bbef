"""PEFT's tensors and numbers, which its own directories and diffusers' files hold.

A layer's tensors are `<layer>.lora_A.weight`, `<layer>.hada_w1_a`, ...; what no tensor tells
(alpha, above all) stands in PEFT's configuration.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from blockwise_lora.adapters.formats.patterns import Patterns
from blockwise_lora.adapters.formats.sizes import check_size
from blockwise_lora.adapters.updates import Dora, Hadamard, Kronecker, LowRank, Orthogonal, Update

_KEY = re.compile(
    r"(?P<layer>.+?)\.(?P<tensor>lora_[AB]|lora_magnitude_vector|hada_(?:w[12]_[ab]|t[12])"
    r"|lokr_(?:w[12](?:_[ab])?|t2)|oft_R)(?:\.(?!weight$|bias$)(?P<adapter>[^.]+))?(?:\.weight)?"
)
_WITH_WEIGHT = ("lora_A", "lora_B", "oft_R")

# Initialisations that change the base model's weights: without that change the factors are
# another adapter's.
_CHANGE_THE_BASE = ("pissa", "olora", "corda", "lora_ga", "loftq")

# Settings under which PEFT computes something else from the same tensors, or changes more.
_UNKNOWN = (
    *("fan_in_fan_out", "lora_bias", "modules_to_save", "layer_replication", "target_parameters"),
    *("use_qalora", "use_bdlora", "kasa_config", "monteclora_config", "arrow_config"),
    *("coft", "block_share"),
)


def grouped(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Layer to its tensors under the keys of `Update.tensors`.

    Keys may lack the final `.weight`, and may hold the adapter's name, as in a model's own state.

    Raises:
        ValueError: a key is not PEFT's, or there are several adapters.
    """
    layers: dict[str, dict[str, Tensor]] = {}
    adapters = set()
    for key, tensor in sorted(tensors.items()):
        match = matched(key)
        adapters.add(match["adapter"])
        name = match["tensor"] + (".weight" if match["tensor"] in _WITH_WEIGHT else "")
        if layers.setdefault(match["layer"], {}).setdefault(name, tensor) is not tensor:
            raise ValueError(f"{match['layer']} has {name} twice")
    if len(adapters) > 1:
        raise ValueError(f"it holds several adapters: {', '.join(sorted(map(str, adapters)))}")
    return layers


def matched(key: str) -> re.Match[str]:
    """A tensor's name in its parts: layer, tensor, adapter.

    Raises:
        ValueError: it is not PEFT's.
    """
    match = _KEY.fullmatch(key)
    if match is None:
        raise ValueError(f"tensor {key} belongs to no method that is known here")
    return match


@dataclass(frozen=True)
class Numbers:
    """What a layer's tensors do not tell.

    Attributes:
        scale: factor of the update.
        rank: as configured; None where nothing is said.
        terms: see `Orthogonal`.
    """

    scale: float
    rank: int | None = None
    terms: int | None = None


@dataclass(frozen=True)
class LayerContent:
    """A layer as a file holds it: tensors under the keys of `Update.tensors`, and its numbers."""

    tensors: Mapping[str, Tensor]
    numbers: Numbers


def configured(
    layers: Mapping[str, Mapping[str, Tensor]], config: Mapping[str, object]
) -> dict[str, LayerContent]:
    """Layers of one part with their numbers by PEFT's configuration.

    Raises:
        ValueError: the configuration is damaged, does not go with the tensors, or is not
            understood here.
    """
    check(config)
    ranks, alphas = (_patterns(config, name) for name in ("rank_pattern", "alpha_pattern"))
    for layer, tensors in layers.items():
        if config.get("use_dora") and "lora_magnitude_vector" not in tensors:
            raise ValueError(f"{layer} has no magnitudes, which DoRA needs")
    return {
        layer: LayerContent(tensors, _numbers(config, ranks, alphas, layer, size_of(tensors)))
        for layer, tensors in layers.items()
    }


def _patterns(config: Mapping[str, object], setting: str) -> Patterns:
    try:
        return Patterns(config.get(setting) or {})
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"PEFT's configuration is damaged: in {setting}, {error}") from None


def _numbers(
    config: Mapping[str, object], ranks: Patterns, alphas: Patterns, layer: str, size: int
) -> Numbers:
    """A layer's numbers by PEFT's configuration.

    Args:
        config: one part's configuration, as in `adapter_config.json`.
        ranks: its `rank_pattern`.
        alphas: its `alpha_pattern`.
        layer: the layer's name within the part.
        size: the rank that the layer's tensors have.

    Raises:
        ValueError: the configuration is damaged, or means something that no update here is.
    """
    if "oft_block_size" in config:
        return Numbers(1.0, None, _terms(config))
    try:
        rank = ranks.get(layer, config["r"])
        common = config["lora_alpha"] if "lora_alpha" in config else config["alpha"]
        alpha = float(alphas.get(layer, common))
    except KeyError as error:
        raise ValueError(f"PEFT's configuration lacks {error}") from None
    except TypeError as error:
        raise ValueError(f"PEFT's configuration is damaged: {error}") from None
    if not isinstance(rank, int) or rank < 1 or not math.isfinite(alpha):
        raise ValueError(f"rank {rank!r} or alpha {alpha!r} of {layer} is not usable")
    if "lora_alpha" in config and rank != size:
        raise ValueError(f"{layer} is of rank {size}, and of {rank} by PEFT's configuration")
    return Numbers(alpha / (math.sqrt(rank) if config.get("use_rslora") else rank), rank)


def check(config: Mapping[str, object]) -> None:
    """Refuse configurations under which the tensors mean something else.

    Raises:
        ValueError: with the setting.
    """
    init = str(config.get("init_lora_weights", "")).lower()
    if init.startswith(_CHANGE_THE_BASE):
        raise ValueError(
            f"init_lora_weights is {init!r}, which changes the base model's own weights: save it "
            "anew with PEFT's path_initial_model_for_weight_conversion, which makes it plain LoRA"
        )
    for setting in _UNKNOWN:
        if config.get(setting):
            raise ValueError(f"{setting} is set, of which nothing is known here")
    if str(config.get("bias", "none")) != "none":
        raise ValueError("it changes biases, of which nothing is known here")


def made(content: LayerContent, shape: tuple[int, ...] | None, place: tuple[int, ...]) -> Update:
    """A layer's update.

    Args:
        content: the layer as its file has it.
        shape: of the weight, where it is known.
        place: the shape that the layer has in a model of the same structure, of whatever size:
            it tells the kernel.

    Raises:
        ValueError: tensors are missing or too many, or do not fit.
    """
    try:
        update = _update(content.tensors, content.numbers, shape, place)
    except KeyError as error:
        raise ValueError(f"{error} is missing") from None
    except (IndexError, RuntimeError, ZeroDivisionError) as error:
        raise ValueError(f"its tensors do not fit each other: {error}") from None
    check_size(*update.shape)
    check_size(update.rank, update.rank)
    if extra := content.tensors.keys() - update.tensors().keys():
        raise ValueError(f"{min(extra)} does not go with the others")
    return update


def _update(
    tensors: Mapping[str, Tensor],
    given: Numbers,
    shape: tuple[int, ...] | None,
    place: tuple[int, ...],
) -> Update:
    if "lora_magnitude_vector" in tensors:
        return Dora.from_tensors(tensors, given.scale)
    if any(key.startswith("lora_") for key in tensors):
        return LowRank.from_tensors(tensors, given.scale)
    if "oft_R.weight" in tensors:
        # Rotations do not tell the number of outputs: the model has to be of the very size.
        return Orthogonal.from_tensors(tensors, shape or place, given.terms)
    if any(key.startswith("hada_") for key in tensors):
        shape = shape or hadamard_shape(tensors, place[2:])
        return Hadamard.from_tensors(tensors, given.scale, shape)
    shape = shape or kronecker_shape(tensors, place[2:])
    return Kronecker.from_tensors(
        tensors, given.scale, shape, given.rank or kronecker_rank(tensors)
    )


def width_of(tensors: Mapping[str, Tensor]) -> int:
    """The number of a linear layer's inputs by its tensors; 0 where they do not tell."""
    try:
        if "lora_A.weight" in tensors:
            return tensors["lora_A.weight"].shape[1]
        if "oft_R.weight" in tensors:
            count, entries = tensors["oft_R.weight"].shape
            return count * (1 + math.isqrt(1 + 8 * entries)) // 2
        if "hada_w1_b" in tensors:
            return hadamard_shape(tensors, ())[1]
        return kronecker_shape(tensors, ())[1]
    except (KeyError, IndexError, ValueError):
        return 0


def size_of(tensors: Mapping[str, Tensor]) -> int:
    """The rank by the tensors; 0 where they do not tell."""
    if "lora_A.weight" in tensors:
        return tensors["lora_A.weight"].shape[0] if tensors["lora_A.weight"].dim() else 0
    return 0


def hadamard_shape(tensors: Mapping[str, Tensor], kernel: tuple[int, ...]) -> tuple[int, ...]:
    """The weight's shape, by LoHa's factors and the kernel.

    Raises:
        KeyError: a factor is missing.
        ValueError: they do not fit.
    """
    a, b, core = tensors["hada_w1_a"], tensors["hada_w1_b"], tensors.get("hada_t1")
    if a.dim() != 2 or b.dim() != 2:
        raise ValueError("LoHa's factors are not matrices")
    if core is not None:
        return (a.shape[1], b.shape[1], *core.shape[2:])
    return (a.shape[0], b.shape[1] // math.prod(kernel), *kernel)


def kronecker_shape(tensors: Mapping[str, Tensor], kernel: tuple[int, ...]) -> tuple[int, ...]:
    """The weight's shape, by LoKr's factors and the kernel.

    Raises:
        KeyError: a factor is missing.
        ValueError: they do not fit.
    """
    out1, in1 = _sides(tensors, "lokr_w1")
    if (core := tensors.get("lokr_t2")) is not None:
        (_, out2), (_, in2) = (tensors[f"lokr_w2_{x}"].shape for x in "ab")
        return (out1 * out2, in1 * in2, *core.shape[2:])
    out2, in2 = _sides(tensors, "lokr_w2")
    whole = tensors.get("lokr_w2")
    if whole is not None:
        # A 1x1 kernel may be stored without its two sides of length 1.
        kernel = tuple(whole.shape[2:]) or (kernel if math.prod(kernel) == 1 else ())
        return (out1 * out2, in1 * in2, *kernel)
    return (out1 * out2, in1 * in2 // math.prod(kernel), *kernel)


def kronecker_rank(tensors: Mapping[str, Tensor]) -> int:
    """The rank by LoKr's factors; where all are whole, the least for which PEFT keeps them so."""
    if "lokr_w2_b" in tensors:
        return tensors["lokr_w2_b"].shape[0]
    if "lokr_w1_b" in tensors:
        return tensors["lokr_w1_b"].shape[0]
    return max(*_sides(tensors, "lokr_w2"))


def _sides(tensors: Mapping[str, Tensor], name: str) -> tuple[int, int]:
    whole = tensors.get(name)
    a, b = (whole, whole) if whole is not None else (tensors[f"{name}_a"], tensors[f"{name}_b"])
    if a.dim() < 2 or b.dim() < 2:
        raise ValueError(f"{name} is not a matrix")
    return a.shape[0], b.shape[1]


def _terms(config: Mapping[str, object]) -> int | None:
    terms = config.get("num_cayley_neumann_terms")
    if not config.get("use_cayley_neumann"):
        return None
    if not isinstance(terms, int) or not 0 < terms < 100:
        raise ValueError(f"num_cayley_neumann_terms is {terms!r}")
    return terms
