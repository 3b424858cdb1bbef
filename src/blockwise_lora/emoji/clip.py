"""The CLIP judge: a small open_clip model, trained contrastively on the corpus.

Its text tower is also where the base model's text encoder starts from (`text_encoder_from`): a
text encoder that already knows which words look alike saves hours of diffusion training.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import open_clip
import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from blockwise_lora.emoji.captions import CONTEXT_LENGTH, draw_caption, tokenize
from blockwise_lora.emoji.corpus import Corpus
from blockwise_lora.emoji.loop import LoopConfig, Trainer
from blockwise_lora.emoji.sampling import ConceptSampler

TEXT_WIDTH, TEXT_LAYERS, TEXT_HEADS = 128, 3, 2
PREPROCESS = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "size": 64}


def model_config(vocabulary: int) -> dict:
    """open_clip's `model_cfg`: a ResNet-18 at 64x64 beside a text transformer of three layers."""
    return {
        "embed_dim": 128,
        "vision_cfg": {
            "timm_model_name": "resnet18",
            "timm_model_pretrained": False,
            "timm_pool": "avg",
            "timm_proj": "linear",
            "image_size": 64,
        },
        "text_cfg": {
            "context_length": CONTEXT_LENGTH,
            "vocab_size": vocabulary,
            "width": TEXT_WIDTH,
            "heads": TEXT_HEADS,
            "layers": TEXT_LAYERS,
        },
    }


def augment(pixels: np.ndarray, generator: torch.Generator) -> Tensor:
    """Shift by up to 6 pixels and scale by 0.8 to 1.1 on white. Returns (n, 3, 64, 64) in [-1, 1].

    No mirroring and no colour change: left and right, and colours, are meanings of emoji.
    """
    pictures = (
        torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1
    )
    n = len(pictures)
    scale = 1 / (0.8 + 0.3 * torch.rand(n, generator=generator))
    shift = (torch.rand(n, 2, generator=generator) - 0.5) * (12 / 32)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = scale
    theta[:, :, 2] = shift
    grid = nn.functional.affine_grid(theta, list(pictures.shape), align_corners=False)
    # Zeros are painted outside of the picture: shift the range so that zero is white.
    return nn.functional.grid_sample(pictures - 1, grid, align_corners=False) + 1


def contrastive_loss(images: Tensor, texts: Tensor, scale: Tensor, concepts: Tensor) -> Tensor:
    """Symmetric InfoNCE (Radford et al. 2021) in which equal concepts share the target.

    Args:
        images: unit vectors, (n, d).
        texts: likewise.
        scale: inverse temperature.
        concepts: (n,) concept of each row. Several drawings of one concept may share a batch;
            calling them each other's negatives would teach the style only.
    """
    logits = scale * images @ texts.T
    same = (concepts[:, None] == concepts[None, :]).float()
    own = torch.eye(len(concepts), device=logits.device)
    target = 0.8 * own + 0.2 * same / same.sum(1, keepdim=True)
    log_rows, log_columns = logits.log_softmax(1), logits.log_softmax(0)
    return -0.5 * ((target * log_rows).sum(1).mean() + (target.T * log_columns).sum(0).mean())


def train_clip(
    corpus: Corpus, tokenizer: CLIPTokenizer, config: LoopConfig, folder: Path, device: str
) -> tuple[open_clip.CLIP, Trainer]:
    """Train the judge. Returns the averaged model and its trainer."""
    torch.manual_seed(config.seed)
    model = open_clip.CLIP(**model_config(len(tokenizer))).to(device).train()
    trainer = Trainer("clip", {"clip": model}, config, folder)
    sampler = ConceptSampler(corpus.emojis)

    def loss(step: int, generator: torch.Generator) -> Tensor:
        rows = sampler.draw(config.batch_size, generator)
        captions = [draw_caption(corpus.emojis[i], generator) for i in rows.tolist()]
        pictures = augment(corpus.pixels[rows.numpy()], generator).to(device)
        with torch.autocast(device, torch.bfloat16):
            images = model.encode_image(pictures, normalize=True)
            texts = model.encode_text(tokenize(tokenizer, captions).to(device), normalize=True)
        with torch.no_grad():
            model.logit_scale.clamp_(0, 4.6052)  # at most 100, as in CLIP
        concepts = sampler.concepts[rows].to(device)
        return contrastive_loss(images.float(), texts.float(), model.logit_scale.exp(), concepts)

    trainer.run(loss)
    trainer.export()
    _settle_batch_norm(model, corpus, config.seed)
    return model.eval(), trainer


@torch.no_grad()
def _settle_batch_norm(model: nn.Module, corpus: Corpus, seed: int) -> None:
    """Recompute the running statistics for the averaged weights, which training never saw."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over the passes below
    generator = torch.Generator().manual_seed(seed)
    model.train()
    device = next(model.parameters()).device
    for _ in range(20):
        rows = torch.randint(len(corpus), (128,), generator=generator).numpy()
        model.encode_image(augment(corpus.pixels[rows], generator).to(device))


def text_encoder_from(model: open_clip.CLIP, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """The text tower as the `CLIPTextModel` of a Stable Diffusion pipeline, equal in its output."""
    ids = tokenizer.convert_tokens_to_ids
    encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            num_hidden_layers=TEXT_LAYERS,
            num_attention_heads=TEXT_HEADS,
            max_position_embeddings=CONTEXT_LENGTH,
            hidden_act="gelu",
            projection_dim=TEXT_WIDTH,
            bos_token_id=ids("<|startoftext|>"),
            eos_token_id=ids("<|endoftext|>"),
            pad_token_id=ids("<|endoftext|>"),
        )
    )
    encoder.load_state_dict(_text_weights(model, encoder), strict=True)
    return encoder


def _text_weights(model: open_clip.CLIP, encoder: CLIPTextModel) -> dict[str, Tensor]:
    source = {k: v.detach().clone() for k, v in model.state_dict().items()}
    prefix = "text_model." if any(k.startswith("text_model.") for k in encoder.state_dict()) else ""
    embeddings = f"{prefix}embeddings"
    weights = {
        f"{embeddings}.token_embedding.weight": source["token_embedding.weight"],
        f"{embeddings}.position_embedding.weight": source["positional_embedding"],
        f"{prefix}final_layer_norm.weight": source["ln_final.weight"],
        f"{prefix}final_layer_norm.bias": source["ln_final.bias"],
    }
    if f"{embeddings}.position_ids" in encoder.state_dict():
        weights[f"{embeddings}.position_ids"] = torch.arange(CONTEXT_LENGTH)[None]
    names = {
        "ln_1": "layer_norm1",
        "ln_2": "layer_norm2",
        "attn.out_proj": "self_attn.out_proj",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
    }
    for i in range(TEXT_LAYERS):
        old, new = f"transformer.resblocks.{i}", f"{prefix}encoder.layers.{i}"
        for kind in ("weight", "bias"):
            for there, here in names.items():
                weights[f"{new}.{here}.{kind}"] = source[f"{old}.{there}.{kind}"]
            parts = source[f"{old}.attn.in_proj_{kind}"].chunk(3)
            for name, part in zip(("q_proj", "k_proj", "v_proj"), parts, strict=True):
                weights[f"{new}.self_attn.{name}.{kind}"] = part
    return weights
