"""The denoiser of the embedded world: Stable Diffusion 1.5's structure with narrow layers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from torch import Tensor
from tqdm import tqdm
from transformers import CLIPTextModel, CLIPTokenizer

from blockwise_lora.diffusion.objective import add_noise, loss_per_picture, min_snr_weight
from blockwise_lora.emoji.captions import draw_caption, tokenize
from blockwise_lora.emoji.clip import TEXT_WIDTH
from blockwise_lora.emoji.corpus import Corpus
from blockwise_lora.emoji.loop import LoopConfig, Trainer
from blockwise_lora.emoji.sampling import ConceptSampler
from blockwise_lora.emoji.vae import to_tensor

CAPTION_DROPOUT = 0.1
"""Share of steps without a caption, for classifier-free guidance (Ho and Salimans 2022)."""

MIN_SNR_GAMMA = 5.0
"""Hang et al. 2023: the easy, nearly clean timesteps count less."""


def build_unet(channels: tuple[int, ...] = (32, 64, 128, 192)) -> UNet2DConditionModel:
    """The U-Net of SD 1.5 (blocks, layers, attention in the same places), 12.6M parameters.

    `attention_head_dim` is the number of heads, for historical reasons. One wide head trains
    about twice as many pictures per second on a CPU as several narrow ones.
    """
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        layers_per_block=2,
        block_out_channels=channels,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=1,
        norm_num_groups=16,
    )


def build_scheduler() -> PNDMScheduler:
    """SD 1.5's own noise schedule (its `scheduler_config.json`)."""
    return PNDMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
    )


@torch.no_grad()
def encode_latents(vae: AutoencoderKL, pixels: np.ndarray, device: str) -> tuple[Tensor, Tensor]:
    """Posterior means and standard deviations, each (n, 4, 16, 16) fp32, unscaled."""
    means, deviations = [], []
    for start in tqdm(range(0, len(pixels), 64), desc="latents"):
        posterior = vae.encode(to_tensor(pixels[start : start + 64]).to(device)).latent_dist
        means.append(posterior.mean.float().cpu())
        deviations.append(posterior.std.float().cpu())
    return torch.cat(means).contiguous(), torch.cat(deviations).contiguous()


def scaling_factor(means: Tensor) -> float:
    """What brings latents to unit variance, as SD's 0.18215 does (Rombach et al. 2022, sec. G)."""
    return float(1.0 / means.std())


def train_unet(
    corpus: Corpus,
    latents: tuple[Tensor, Tensor],
    scale: float,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    config: LoopConfig,
    folder: Path,
    device: str,
) -> tuple[UNet2DConditionModel, Trainer]:
    """Train U-Net and text encoder together on cached latents; both end averaged, in place.

    Args:
        corpus: captions of the rows of `latents`.
        latents: posterior means and deviations, each (n, 4, 16, 16), unscaled.
        scale: the VAE's scaling factor.
        text_encoder: where text conditioning starts from; trained further.
        tokenizer: its tokenizer.
        config: the schedule.
        folder: where the state is kept.
        device: cpu or cuda.
    """
    torch.manual_seed(config.seed)
    unet = build_unet().to(device)
    text_encoder = text_encoder.to(device)
    trainer = Trainer("unet", {"unet": unet, "text": text_encoder}, config, folder)
    scheduler, sampler = build_scheduler(), ConceptSampler(corpus.emojis)
    means, deviations = latents

    def loss(step: int, generator: torch.Generator) -> Tensor:
        rows = sampler.draw(config.batch_size, generator)
        drop = torch.rand(len(rows), generator=generator) < CAPTION_DROPOUT
        captions = [
            "" if drop[k] else draw_caption(corpus.emojis[i], generator)
            for k, i in enumerate(rows.tolist())
        ]
        spread = torch.randn(means[rows].shape, generator=generator)
        clean = ((means[rows] + deviations[rows] * spread) * scale).to(device)
        noise = torch.randn(clean.shape, generator=generator).to(device)
        timesteps = torch.randint(0, 1000, (len(rows),), generator=generator).to(device)
        a_t = scheduler.alphas_cumprod.to(device)[timesteps]
        with torch.autocast(device, torch.bfloat16):
            hidden = text_encoder(tokenize(tokenizer, captions).to(device)).last_hidden_state
            predicted = unet(add_noise(clean, noise, a_t), timesteps, hidden).sample
        weight = min_snr_weight("epsilon", a_t, MIN_SNR_GAMMA)
        return loss_per_picture(predicted, noise, weight).mean()

    trainer.run(loss)
    trainer.export()
    return unet.eval(), trainer
