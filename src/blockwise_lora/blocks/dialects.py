"""What other tools call the sub-blocks of a model.

diffusers   down_blocks.1.resnets.0, down_blocks.1.attentions.0    the modules, as here
original    input_blocks.4                                         Stability's and FLUX's code
kohya       lora_unet_down_blocks_1_attentions_0                   keys of files, SD 1.x and 2.x
            lora_unet_input_blocks_4                               keys of files, SDXL and later
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from blockwise_lora.blocks.layers import SubBlock
from blockwise_lora.blocks.text_encoder import BASE

# Names that follow from no structure: by the class that diffusers gives a transformer, sub-block's
# letter to the original module list.
_TRANSFORMERS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "FluxTransformer2DModel": {"D": "double_blocks", "S": "single_blocks"},
        "SD3Transformer2DModel": {"D": "joint_blocks"},
    }
)


def original_name(block: SubBlock, denoiser: Any) -> str:
    """The module that holds the sub-block in the model's original code; "" if not known.

    Args:
        block: a sub-block of the denoiser.
        denoiser: a diffusers model.
    """
    if block.name == BASE:
        if type(denoiser).__name__ in _TRANSFORMERS:
            return "text_encoders"
        return "conditioner" if is_sdxl(denoiser) else "cond_stage_model"
    if block.name == "MID":
        return "middle_block"
    side, number = block.name.rstrip("0123456789"), int(block.name.lstrip("INOUTDS"))
    if side in ("IN", "OUT"):
        return f"{'input' if side == 'IN' else 'output'}_blocks.{number}"
    stem = _TRANSFORMERS.get(type(denoiser).__name__, {}).get(side)
    return f"{stem}.{number}" if stem else ""


def kohya_prefixes(block: SubBlock, denoiser: Any) -> tuple[str, ...]:
    """How the keys of the sub-block's layers begin in kohya's files; empty if not known.

    Args:
        block: a sub-block of the denoiser.
        denoiser: a diffusers model.
    """
    if block.name == BASE:
        if type(denoiser).__name__ == "FluxTransformer2DModel":
            return ("lora_te1", "lora_te3")[: len(block.prefixes)]  # 2 is SD3's second CLIP
        if len(block.prefixes) == 1:
            return ("lora_te",)
        return tuple(f"lora_te{i + 1}" for i in range(len(block.prefixes)))
    original = original_name(block, denoiser)
    if block.name[0] in "DS" or is_sdxl(denoiser):
        return (f"lora_unet_{original.replace('.', '_')}",) if original else ()
    return tuple(f"lora_unet_{prefix.replace('.', '_')}" for prefix in block.prefixes)


def is_sdxl(denoiser: Any) -> bool:
    """Whether a U-Net is told the picture's size, as SDXL's is; kohya's keys differ for them."""
    return getattr(denoiser.config, "addition_embed_type", None) == "text_time"
