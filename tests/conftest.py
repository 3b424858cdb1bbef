"""Fixtures that several packages' tests share."""

import atexit
import gc
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

# Heavy imports wait for the fixtures that need them, so that tests without a model start at once.
if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel
    from fsspec import AbstractFileSystem

    from blockwise_lora.diffusion.base import BaseModel
    from kedro_forks import KedroForks

# On tensors this small, threads cost more in waiting for each other than they save, above all
# where several tests run at once. It has to be said before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

atexit.register(gc.freeze)  # as `processes.lean`


@pytest.fixture(scope="session")
def kedro_forks() -> "Iterator[KedroForks]":
    """Runs `kedro` commands without waiting for their imports."""
    from kedro_forks import KedroForks

    with tempfile.TemporaryDirectory() as folder:
        forks = KedroForks(Path(folder))
        yield forks
        forks.close()


@pytest.fixture
def make_unet() -> "Callable[..., UNet2DConditionModel]":
    """A factory of small U-Nets of exactly SD 1.5's structure: same blocks, same module names."""
    import torch
    from diffusers import UNet2DConditionModel

    def make(seed: int = 0, **changes: object) -> UNet2DConditionModel:
        config = {
            "sample_size": 16,
            "block_out_channels": (32, 32, 64, 64),
            "norm_num_groups": 8,
            "attention_head_dim": 4,
            "cross_attention_dim": 32,
        }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return UNet2DConditionModel(**(config | changes)).eval()

    return make


@pytest.fixture
def tiny_unet(make_unet: "Callable[..., UNet2DConditionModel]") -> "UNet2DConditionModel":
    """A new small U-Net with the same weights every time; tests may change it."""
    return make_unet()


@pytest.fixture(scope="session")
def judge_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of small CLIP and DINO judges with random weights, in the shipped files' format."""
    import open_clip
    import torch
    from safetensors.torch import save_file
    from timm.models.vision_transformer import VisionTransformer

    from blockwise_lora.emoji.captions import CONTEXT_LENGTH, train_tokenizer

    root = tmp_path_factory.mktemp("judges")
    clip, dino = root / "clip", root / "dino"
    tokenizer = train_tokenizer(["cat face, grinning", "dog, in a zkc style"], clip)
    look = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    vision = {"layers": 2, "width": 64, "head_width": 32, "patch_size": 16, "image_size": 64}
    text = {"context_length": CONTEXT_LENGTH, "vocab_size": len(tokenizer), "width": 32}
    text |= {"heads": 2, "layers": 2}
    model_cfg = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}
    kwargs = {"img_size": 64, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 3}
    kwargs |= {"num_classes": 0}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        clip_model, dino_model = open_clip.CLIP(**model_cfg), VisionTransformer(**kwargs)
    clip_config = {"model_cfg": model_cfg, "preprocess_cfg": look | {"size": 64}}
    dino_config = {"architecture": "vision_transformer", "kwargs": kwargs, **look}
    dino.mkdir()
    (clip / "open_clip_config.json").write_text(json.dumps(clip_config))
    (dino / "config.json").write_text(json.dumps(dino_config))
    save_file(clip_model.half().state_dict(), clip / "open_clip_model.safetensors")
    save_file(dino_model.half().state_dict(), dino / "model.safetensors")
    return {"clip": clip, "dino": dino}


@pytest.fixture(scope="session")
def tiny_base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole Stable Diffusion folder with random weights: 16 px pictures, 8x8 latents."""
    from tiny_base import write_tiny_base

    return write_tiny_base(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def loaded_tiny_base(tiny_base_folder: Path) -> "BaseModel":
    """The model of `tiny_base_folder`, loaded once: tests leave its U-Net as they found it."""
    from blockwise_lora.diffusion.base import load_base

    return load_base(tiny_base_folder)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The default job takes longest: begun last, it would keep one worker long after the others."""
    items.sort(key=lambda item: "test_default_job" not in item.nodeid)


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """A server of S3's protocol on this machine."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> "Iterator[AbstractFileSystem]":
    """An empty bucket of the name `bucket`, which addresses s3://bucket/... lead to."""
    import fsspec

    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3 = fsspec.filesystem("s3", skip_instance_cache=True)
    s3.mkdir("bucket")
    yield s3
    s3.rm("bucket", recursive=True)
    type(s3).clear_instance_cache()
