"""What training an adapter of a full-size model takes of a card's memory, by counting.

    python benchmarks/memory.py

Nothing is measured: the models are built without weights on the meta device, parameters are
counted, and so is what autograd keeps of a forward pass with fused attention, which keeps no matrix
of weights. What autocast keeps in float32 is not seen: on a card SD 1.5 took 1.17 GiB for each
picture (results/card.md) where 0.86 are counted. What CUDA and its libraries take for themselves,
about 1 GiB, and what the allocator loses, about a tenth, come on top.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from subjects import SDXL
from torch import Tensor
from torch.nn import functional

from blockwise_lora.adapters import AdapterSpec, attach, trainable_parameters
from blockwise_lora.diffusion.footprint import BYTES_PER_TRAINED, kept_bytes
from blockwise_lora.diffusion.quiet import quiet_libraries

SD15 = {"cross_attention_dim": 768, "attention_head_dim": 8}
VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}
# CLIP ViT-L's text model, and SDXL's second one (OpenCLIP ViT-bigG).
TEXT = {"sd15": 123_060_480, "sdxl": 123_060_480 + 694_659_840}
GIB = 2**30


class FusedAttention(torch.autograd.Function):
    """What flash attention keeps, where there are no numbers to attend with."""

    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Keeps what goes in and out, and a sum for each row."""
        answer = torch.empty_like(query)
        rows = torch.empty(query.shape[:-1], dtype=torch.float32, device=query.device)
        ctx.save_for_backward(query, key, value, answer, rows)
        return answer


def row(name: str, config: dict, side: int, spec: AdapterSpec) -> dict[str, float]:
    """GiB of each part."""
    with torch.device("meta"), quiet_libraries():
        unet, vae = UNet2DConditionModel(**config), AutoencoderKL(**VAE)
    weights = sum(p.numel() for p in unet.parameters())
    attach(unet, spec, "a", torch.Generator().manual_seed(0))
    with quiet_libraries():
        unet.to(torch.bfloat16)
    trained = sum(p.numel() for p in trainable_parameters(unet, "a"))
    latents = torch.randn(1, 4, side // 8, side // 8, device="meta", dtype=torch.bfloat16)
    text = torch.randn(1, 77, config["cross_attention_dim"], device="meta", dtype=torch.bfloat16)
    time = torch.zeros(1, device="meta", dtype=torch.int64)
    added = None
    if "addition_embed_type" in config:
        added = {
            "text_embeds": torch.randn(1, 1280, device="meta", dtype=torch.bfloat16),
            "time_ids": torch.zeros(1, 6, device="meta", dtype=torch.bfloat16),
        }

    def forward() -> torch.Tensor:
        return unet(latents, time, encoder_hidden_states=text, added_cond_kwargs=added).sample

    plain = kept_bytes(unet, forward)
    unet.train()
    unet.enable_gradient_checkpointing()
    checkpointed = kept_bytes(unet, forward)
    return {
        "U-Net": 2 * weights / GIB,
        "text": 2 * TEXT[name] / GIB,
        "VAE": 4 * sum(p.numel() for p in vae.parameters()) / GIB,
        "adapter": BYTES_PER_TRAINED * trained / GIB,
        "activations": plain / GIB,
        "checkpointed": checkpointed / GIB,
    }


def main() -> None:
    """Print the table."""
    functional.scaled_dot_product_attention = lambda q, k, v, **_: FusedAttention.apply(q, k, v)
    rows = {
        "SD 1.5, 512 px, LoRA 16": ("sd15", SD15, 512, AdapterSpec(rank=16)),
        "SD 1.5, 512 px, LoCon 16": ("sd15", SD15, 512, AdapterSpec(method="locon", rank=16)),
        "SDXL, 1024 px, LoRA 16": ("sdxl", SDXL, 1024, AdapterSpec(rank=16)),
        "SDXL, 1024 px, LoCon 16": ("sdxl", SDXL, 1024, AdapterSpec(method="locon", rank=16)),
    }
    for i, (title, arguments) in enumerate(rows.items()):
        parts = row(*arguments)
        if not i:
            print("| GiB |", " | ".join(parts), "|")
            print("|---" * (len(parts) + 1) + "|")
        print(f"| {title} |", " | ".join(f"{value:.1f}" for value in parts.values()), "|")


if __name__ == "__main__":
    main()
