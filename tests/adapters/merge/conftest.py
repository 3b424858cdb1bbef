"""Small adapters, as this project knows them and as PEFT does."""

from collections.abc import Callable, Mapping

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from blockwise_lora.adapters import Adapter
from blockwise_lora.adapters.updates import LowRank

LAYERS = {"linear": "IN01", "conv": "IN02", "pointwise": "MID", "other": "OUT00"}


class Net(nn.Module):
    """Layers of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(9, 8)
        self.conv = nn.Conv2d(5, 8, 3)
        self.pointwise = nn.Conv2d(6, 10, 1)
        self.other = nn.Linear(12, 7)


@pytest.fixture
def make_adapter() -> Callable[..., Adapter]:
    """An adapter of these changes."""

    def make(updates: Mapping[str, object], sha256: str = "0" * 64) -> Adapter:
        homes = {module: LAYERS.get(module, "IN01") for module in updates}
        return Adapter(dict(updates), homes, None, {}, sha256)

    return make


@pytest.fixture
def peft_model() -> Callable[..., PeftModel]:
    """A small net with adapters of random values in PEFT's hands: name to (layers, rank, alpha)."""

    def make(**adapters: tuple[tuple[str, ...], int, float]) -> PeftModel:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            model = None
            for name, (layers, rank, alpha) in adapters.items():
                config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(layers))
                if model is None:
                    model = get_peft_model(Net(), config, adapter_name=name)
                else:
                    model.add_adapter(name, config)
            for key, parameter in model.named_parameters():
                if "lora_" in key:
                    parameter.data.normal_()
        return model

    return make


@pytest.fixture
def from_peft(make_adapter: Callable[..., Adapter]) -> Callable[..., Adapter]:
    """One of PEFT's adapters, as this project has it."""

    def read(model: PeftModel, name: str) -> Adapter:
        updates = {}
        for module in LAYERS:
            layer = getattr(model.base_model.model, module)
            if name in getattr(layer, "lora_A", {}):
                down, up = (part[name].weight.detach() for part in (layer.lora_A, layer.lora_B))
                updates[module] = LowRank(down.clone(), up.clone(), layer.scaling[name])
        return make_adapter(updates)

    return read


@pytest.fixture
def peft_deltas() -> Callable[..., dict[str, torch.Tensor]]:
    """What PEFT's `add_weighted_adapter` makes of a model's adapters: layer to change."""

    def merged(model: PeftModel, weights: list[float], rule: str, **options: object) -> dict:
        names = list(model.peft_config)
        model.add_weighted_adapter(names, weights, "merged", combination_type=rule, **options)
        layers = {module: getattr(model.base_model.model, module) for module in LAYERS}
        return {
            module: layer.get_delta_weight("merged").detach()
            for module, layer in layers.items()
            if "merged" in getattr(layer, "lora_A", {})
        }

    return merged
