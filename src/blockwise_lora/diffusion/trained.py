"""A finished adapter with all that is to be known about it, ready to be written."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from blockwise_lora.adapters import Adapter, AdapterSpec, save_adapter
from blockwise_lora.diffusion.base import BaseModel
from blockwise_lora.diffusion.checkpoints import configuration_hash
from blockwise_lora.diffusion.config import TrainingConfig
from blockwise_lora.diffusion.trainer import Trained
from blockwise_lora.parameters import asdict

_LIBRARIES = ("blockwise-lora", "torch", "diffusers", "transformers", "peft")
_CONFIGURATION = "blockwise_lora.configuration"


@dataclass(frozen=True)
class TrainedAdapter:
    """What training hands to storage.

    Attributes:
        base: which holds the adapter.
        trained: the training's outcome.
        config: how it was trained.
        words: more for the file's metadata, e.g. trigger and class word.
    """

    base: BaseModel
    trained: Trained
    config: TrainingConfig
    words: Mapping[str, str]

    @property
    def spec(self) -> AdapterSpec:
        """What the adapter is."""
        return self.trained.attached.spec

    @property
    def configuration(self) -> str:
        """See `configuration_hash_of`."""
        return configuration_hash_of(
            self.base, self.trained.data_sha256, self.spec, self.config, self.words
        )

    def metadata(self) -> dict[str, str]:
        """What the file says of the adapter's making: no times, so equal runs give equal bytes."""
        ours = {
            "training": json.dumps(asdict(self.config), sort_keys=True),
            "seed": str(self.config.seed),
            "data_sha256": self.trained.data_sha256,
            "base_model": self.base.name,
            "base_model_sha256": self.base.sha256,
            "base_model_dtype": str(self.base.dtype).removeprefix("torch."),
            "versions": json.dumps({name: importlib.metadata.version(name) for name in _LIBRARIES}),
            **self.words,
        }
        return {f"blockwise_lora.{key}": value for key, value in ours.items()} | {
            _CONFIGURATION: self.configuration
        }

    def write(self, folder: Path) -> None:
        """Write the adapter's files into `folder`.

        Raises:
            AdapterError: the weights are not finite.
            WriteError: the folder cannot be written.
        """
        attached = self.trained.attached
        save_adapter(
            folder, self.base.parts, attached.name, spec=attached.spec, metadata=self.metadata()
        )
        if self.trained.word:
            self.trained.word.write(folder, self.metadata())
        for look in self.trained.looks:
            for number, picture in enumerate(look.pictures):
                place = folder / "looks" / f"{look.step:06}-{number:02}.png"
                place.parent.mkdir(exist_ok=True)
                picture.save(place)


def configuration_hash_of(
    base: BaseModel,
    data_sha256: str,
    spec: AdapterSpec,
    config: TrainingConfig,
    words: Mapping[str, str],
) -> str:
    """Hash of all that is decided before a training: equal hashes make equal adapters."""
    return configuration_hash(
        spec=spec.to_json(),
        training=config.decisive,
        data=data_sha256,
        base=base.sha256,
        dtype=str(base.dtype),
        words=dict(words),
    )


def configuration_of(adapter: Adapter) -> str | None:
    """The hash that `TrainedAdapter.configuration` was when a file was written."""
    return adapter.metadata.get(_CONFIGURATION)
