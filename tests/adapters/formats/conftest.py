from collections.abc import Callable

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn

from adapter_effects import random_update
from blockwise_lora.adapters.adapter import Adapter
from blockwise_lora.adapters.formats import Names
from blockwise_lora.adapters.updates import LowRank, Orthogonal
from blockwise_lora.blocks.structure import BlockMap


@pytest.fixture(scope="session")
def xl_unet() -> UNet2DConditionModel:
    """A small U-Net of SDXL's structure: no attention at the finest level, several blocks deep."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return UNet2DConditionModel(
            sample_size=16,
            block_out_channels=(32, 32, 64),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 1, 2),
            norm_num_groups=8,
            attention_head_dim=4,
            cross_attention_dim=32,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=24 + 16,
        ).eval()


@pytest.fixture(scope="session")
def sd_unet() -> UNet2DConditionModel:
    """A small U-Net of SD 1.5's structure, the same for all tests: none may change it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return UNet2DConditionModel(
            sample_size=16,
            block_out_channels=(32, 32, 64, 64),
            norm_num_groups=8,
            attention_head_dim=4,
            cross_attention_dim=32,
        ).eval()


@pytest.fixture
def make_adapter() -> Callable[..., Adapter]:
    """An adapter with random values for some layers of a U-Net, each with its own rank and alpha.

    `every` thins the layers out, `kind` is a class of updates, `alphas` and `ranks` go round.
    """

    def make(
        unet: nn.Module,
        kind: type = LowRank,
        *,
        every: int = 5,
        ranks: tuple[int, ...] = (2, 4, 3),
        alphas: tuple[float, ...] = (1.0, 8.0, 0.3),
        dtype: torch.dtype = torch.float32,
    ) -> Adapter:
        generator = torch.Generator().manual_seed(3)
        updates, sub_blocks = {}, {}
        chosen = [*BlockMap.of(unet).layers.items()][::every]
        for i, (name, (block, layer)) in enumerate(chosen):
            rank, alpha = ranks[i % len(ranks)], alphas[i % len(alphas)]
            if kind is Orthogonal and layer.shape[2:] not in ((), (1, 1)):
                continue
            updates[name] = random_update(kind, layer, rank, alpha, generator, dtype)
            sub_blocks[name] = block.name
        metadata = {"blockwise_lora.family": Names.of(unet).family, "ss_tag": "kept"}
        return Adapter(updates, sub_blocks, None, metadata, "")

    return make
