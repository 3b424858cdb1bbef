"""What is in an adapter file, in short."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from blockwise_lora.adapters import metadata as about
from blockwise_lora.adapters.adapter import Adapter
from blockwise_lora.adapters.formats.names import ordered
from blockwise_lora.adapters.formats.reading import Format, Source
from blockwise_lora.adapters.updates import Dora, Hadamard, Kronecker, LowRank, Orthogonal, Update
from blockwise_lora.blocks.transformer import block_of

_METHODS = {Dora: "DoRA", Hadamard: "LoHa", Kronecker: "LoKr", Orthogonal: "OFT"}
_FAMILIES = {
    "sd1": "the structure of Stable Diffusion 1.x",
    "sd2": "the structure of Stable Diffusion 2.x",
    "sdxl": "the structure of SDXL",
}
_SAID = ("blockwise_lora.base_model", "ss_sd_model_name", "ss_base_model_version")


@dataclass(frozen=True)
class BlockSummary:
    """One sub-block that an adapter touches.

    Attributes:
        block: the sub-block's name.
        layers: number of layers changed in it.
        ranks: that occur there, rising.
        norm: Frobenius norm of the change of all its weights; None where that depends on the
            base's weights and those are not at hand.
    """

    block: str
    layers: int
    ranks: tuple[int, ...]
    norm: float | None


@dataclass(frozen=True)
class Summary:
    """What is in an adapter file.

    Attributes:
        format: of the file.
        base: the base model as far as it is known; "" where nothing is.
        methods: of the layers; LoCon is LoRA that changes convolutions with a kernel, too.
        mask: that it was trained with; "" where the file does not say.
        layers: number of layers changed.
        values: number of values stored.
        types: of these.
        scales: that occur, rising.
        blocks: in the model's order.
        sha256: of the file.
    """

    format: Format
    base: str
    methods: tuple[str, ...]
    mask: str
    layers: int
    values: int
    types: tuple[str, ...]
    scales: tuple[float, ...]
    blocks: tuple[BlockSummary, ...]
    sha256: str


def summarise(source: Source, weights: Mapping[str, Tensor] | None = None) -> Summary:
    """Summarise an adapter.

    Args:
        source: the adapter and its format.
        weights: layer to the base model's weight, for methods whose change depends on it.

    Raises:
        ValueError: a weight is of another shape than the adapter's.
    """
    adapter, updates = source.adapter, source.adapter.updates
    tensors = [tensor for update in updates.values() for tensor in update.tensors().values()]
    grouped: dict[str, dict[str, Update]] = {}
    for layer, update in updates.items():
        grouped.setdefault(adapter.sub_blocks[layer], {})[layer] = update
    return Summary(
        format=source.format,
        base=_base(adapter),
        methods=_methods(list(updates.values())),
        mask=adapter.metadata.get(about.MASK, ""),
        layers=len(updates),
        values=sum(tensor.numel() for tensor in tensors),
        types=tuple(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors})),
        scales=tuple(sorted({update.scale for update in updates.values()})),
        blocks=tuple(_block(name, grouped[name], weights) for name in ordered(grouped)),
        sha256=adapter.sha256,
    )


def bars(summary: Summary, width: int = 30) -> list[str]:
    """A line for each block: name, layers, ranks, norm, and a bar as long as the norm is large."""
    top = max((block.norm or 0.0 for block in summary.blocks), default=0.0)
    cells = [("block", "layers", "ranks", "norm", "")]
    for block in summary.blocks:
        ranks = ", ".join(map(str, block.ranks))
        norm = "-" if block.norm is None else f"{block.norm:.3g}"
        cells.append((block.block, str(block.layers), ranks, norm, _bar(block.norm, top, width)))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        f"{name:<{widths[0]}}  {layers:>{widths[1]}}  {ranks:>{widths[2]}}  "
        f"{norm:>{widths[3]}}  {bar}".rstrip()
        for name, layers, ranks, norm, bar in cells
    ]


def _bar(norm: float | None, top: float, width: int) -> str:
    """In eighths of a character."""
    eighths = round(8 * width * norm / top) if norm and top else 0
    whole, rest = divmod(eighths, 8)
    return "█" * whole + ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")[rest]


def _block(
    name: str, updates: Mapping[str, Update], weights: Mapping[str, Tensor] | None
) -> BlockSummary:
    ranks = tuple(sorted({update.rank for update in updates.values()}))
    return BlockSummary(name, len(updates), ranks, _norm(updates, weights))


def _norm(updates: Mapping[str, Update], weights: Mapping[str, Tensor] | None) -> float | None:
    square = 0.0
    for layer, update in updates.items():
        weight = None
        if update.needs_base:
            weight = (weights or {}).get(layer)
            if weight is None:
                return None
            if tuple(weight.shape) != tuple(update.shape):
                raise ValueError(f"{layer} is of another size in the base model")
        square += update.norm(weight) ** 2
    return math.sqrt(square)


def _methods(updates: Sequence[Update]) -> tuple[str, ...]:
    found = {_METHODS[type(update)] for update in updates if not isinstance(update, LowRank)}
    low = [update for update in updates if isinstance(update, LowRank)]
    if low:
        spatial = any(math.prod(update.shape[2:]) > 1 for update in low)
        found.add("LoCon" if spatial else "LoRA")
    return tuple(sorted(found))


def _base(adapter: Adapter) -> str:
    """The name that the file gives, and the structure that it is for."""
    said = next((adapter.metadata[key] for key in _SAID if adapter.metadata.get(key)), "")
    family = _FAMILIES.get(adapter.metadata.get(about.FAMILY, ""), "")
    if any(map(block_of, adapter.updates)):
        family = "a transformer (FLUX, Stable Diffusion 3)"
    return ", ".join(part for part in (said, family) if part)
