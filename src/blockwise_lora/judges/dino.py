"""The DINO judge: a vision transformer trained without labels (Caron et al. 2021), by timm.

A source is a local folder (`config.json`, `model.safetensors`) or a public timm name, e.g.
`vit_small_patch16_224.dino`, the judge of DreamBooth's protocol (Ruiz et al. 2023).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import timm
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from blockwise_lora.judges.preprocess import Preprocess, batches, unit_vectors
from blockwise_lora.judges.weights import (
    JudgeError,
    download,
    fit_weights,
    move,
    read_json,
    read_weights,
    sha256_of,
)

Vector = Literal["pooled", "patches"]
"""`pooled`: the class token or the mean over patches, as the model was built. `patches`: all patch
tokens, each in its place (the dense features of Amir et al. 2021), for judges that were trained so
little that the mean says less than the tokens.
"""

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"


@dataclass(frozen=True)
class DinoJudge:
    """A frozen vision transformer.

    Attributes:
        name: the source that it was loaded from.
        sha256: of its weights file.
        model: the transformer without a classifier.
        preprocess: pictures to its input.
        device: where the model lives.
        batch_size: pictures per pass.
        vector: what stands for a picture, see `Vector`.
    """

    name: str
    sha256: str
    model: VisionTransformer
    preprocess: Preprocess
    device: str = "cpu"
    batch_size: int = 64
    vector: Vector = "pooled"

    @torch.inference_mode()
    def images(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """Unit vectors of pictures after the last norm, (n, d) float32."""
        parts = [
            self._vectors(self.preprocess(batch).to(self.device))
            for batch in batches(pictures, self.batch_size)
        ]
        return unit_vectors(torch.cat(parts))

    def _vectors(self, pixels: Tensor) -> Tensor:
        if self.vector == "pooled":
            return self.model(pixels)
        tokens = self.model.forward_features(pixels)
        return tokens[:, self.model.num_prefix_tokens :].flatten(1)

    @torch.inference_mode()
    def tokens(
        self, pictures: Sequence[Image.Image], blocks: Sequence[int]
    ) -> Iterator[list[Tensor]]:
        """Patch tokens after the given transformer blocks (0 = first), batch by batch.

        Yields:
            One (batch, patches, d) tensor per block.

        Raises:
            JudgeError: the transformer has no such block.
        """
        depth = len(self.model.blocks)
        if not blocks or not all(0 <= block < depth for block in blocks):
            raise JudgeError(
                f"style blocks {list(blocks)}: {self.name} has blocks 0 to {depth - 1}; "
                "name at least one of them"
            )
        for batch in batches(pictures, self.batch_size):
            yield self.model.forward_intermediates(
                self.preprocess(batch).to(self.device),
                indices=sorted(blocks),
                output_fmt="NLC",
                stop_early=True,
                intermediates_only=True,
            )


def load_dino(source: str | Path, device: str = "cpu", batch_size: int = 64) -> DinoJudge:
    """Load a DINO judge from a folder or by a public name.

    Raises:
        JudgeError: neither a folder nor a known public model, or its files do not fit.
    """
    folder = Path(source)
    judge = _from_folder(folder) if folder.is_dir() else _public(str(source))
    model = move(judge.pop("model"), device)
    return DinoJudge(name=str(source), model=model, device=device, batch_size=batch_size, **judge)


def _from_folder(folder: Path) -> dict[str, Any]:
    config, weights = read_json(folder / CONFIG_FILE), folder / WEIGHTS_FILE
    try:
        if config["architecture"] != "vision_transformer":
            raise ValueError("the architecture must be vision_transformer")
        mean, std, kwargs = tuple(config["mean"]), tuple(config["std"]), config["kwargs"]
        vector = config.get("vector", "pooled")
        if vector not in get_args(Vector):
            raise ValueError(f"vector is one of {get_args(Vector)}, not {vector!r}")
        preprocess = Preprocess(int(kwargs["img_size"]), mean, std)
        with torch.random.fork_rng(devices=[]):  # the initial weights are thrown away
            model = VisionTransformer(**kwargs)
    except (KeyError, TypeError, ValueError) as error:
        raise JudgeError(
            f"{folder / CONFIG_FILE} does not describe a vision transformer ({error!r}): "
            "restore the file"
        ) from error
    return {
        "model": fit_weights(model, read_weights(weights), weights),
        "preprocess": preprocess,
        "sha256": sha256_of(weights),
        "vector": vector,
    }


def _public(source: str) -> dict[str, Any]:
    if not timm.is_model_pretrained(source):
        raise JudgeError(
            f"no DINO judge at {source!r}: neither an existing folder nor a public timm model "
            "such as vit_small_patch16_224.dino"
        )
    with torch.random.fork_rng(devices=[]):
        model = timm.create_model(source, pretrained=False, num_classes=0)
    if not isinstance(model, VisionTransformer):
        raise JudgeError(f"the DINO judge {source!r} is no vision transformer: choose another one")
    look = timm.data.resolve_model_data_config(model)
    path = download(model.pretrained_cfg["hf_hub_id"], WEIGHTS_FILE, source)
    expected = model.state_dict().keys()
    weights = {k: v for k, v in read_weights(path).items() if k in expected}  # less the classifier
    size = look["input_size"][-1]
    return {
        "model": fit_weights(model, weights, path),
        "preprocess": Preprocess(size, look["mean"], look["std"], look["crop_pct"]),
        "sha256": sha256_of(path),
    }
