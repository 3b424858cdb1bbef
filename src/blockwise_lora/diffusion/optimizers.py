"""Optimisers by name, and their state as tensors.

All of them take float32 weights and a rate that is set before each step. AdamW is fused: it takes
the decision to leave a step out from the device. The others have to be asked not to step at all.
"""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from blockwise_lora.diffusion.config import OptimizerConfig
from blockwise_lora.errors import UserError


class OptimizerError(UserError):
    """An optimiser that is not installed, or cannot do what is asked."""


@dataclass(frozen=True, eq=False)
class Group:
    """Weights that share a rate.

    Attributes:
        parameters: float32.
        rate: as a multiple of `learning_rate`.
    """

    parameters: tuple[nn.Parameter, ...]
    rate: float = 1.0


def make_optimizer(groups: Sequence[Group], config: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimiser that the configuration names.

    Args:
        groups: what it changes; none is empty.
        config: name and values.

    Raises:
        OptimizerError: it is not installed, or cannot give groups rates of their own.
    """
    parts = [{"params": list(group.parameters)} for group in groups]
    common = {"lr": 1.0, "weight_decay": config.weight_decay}  # the rate is set before each step
    if config.name == "adafactor":
        from transformers.optimization import Adafactor

        return Adafactor(parts, scale_parameter=False, relative_step=False, **common)
    common["betas"] = config.betas
    if config.name == "adamw8bit":
        return _extra("bitsandbytes").optim.AdamW8bit(parts, **common)
    if config.name == "prodigy":
        if len({group.rate for group in groups}) > 1:
            raise OptimizerError(
                "training.optimizer.name: prodigy finds one rate for all weights, so blocks cannot "
                "have rates of their own, nor a learned trigger. Leave `rates` out and give "
                "trigger_embedding the adapter's learning_rate, or take adamw."
            )
        with contextlib.redirect_stdout(io.StringIO()):  # it prints how it decays
            return _extra("prodigyopt").Prodigy(
                parts, use_bias_correction=True, safeguard_warmup=True, **common
            )
    fused = parts[0]["params"][0].device.type in ("cpu", "cuda")
    return torch.optim.AdamW(parts, fused=fused, **common)


def step_where(optimizer: torch.optim.Optimizer, finite: Tensor) -> None:
    """Take a step, or none where `finite` is false: weights and state stay as they are.

    Args:
        optimizer: of `make_optimizer`.
        finite: a boolean scalar, on the device. Only a fused optimiser can decide there; for the
            others the host waits.
    """
    if optimizer.defaults.get("fused"):
        # It takes this from mixed precision: 1 stands for "skip".
        optimizer.grad_scale, optimizer.found_inf = None, (~finite).float()
        optimizer.step()
    elif finite:
        optimizer.step()


def state_of(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """All that `restore` needs, as tensors.

    Values that belong to the weights one by one are joined to one vector, so that it does not
    matter into how many vectors the weights are cut.
    """
    parameters = _parameters(optimizer)
    tensors = {
        f"group/{i}/{key}": _number(value)
        for i, group in enumerate(optimizer.param_groups)
        for key, value in group.items()
        if type(value) in (int, float) and key != "lr"
    }
    for slot in dict.fromkeys(slot for p in parameters for slot in optimizer.state[p]):
        tensors |= _packed(slot, [(p, optimizer.state[p].get(slot)) for p in parameters])
    return tensors


def restore(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `state_of` gave.

    Raises:
        KeyError, RuntimeError, IndexError: the state is of another optimiser.
    """
    parameters = _parameters(optimizer)
    for name, tensor in tensors.items():
        kind, key, *rest = name.split("/")
        if kind == "group":
            optimizer.param_groups[int(key)][rest[0]] = tensor.item()
        elif kind == "number":
            for parameter in parameters:
                optimizer.state[parameter][key] = tensor.item()
        elif kind == "each":
            parameter = parameters[int(rest[0])]
            optimizer.state[parameter][key] = tensor.to(parameter.device, copy=True)
        else:
            cut = split(tensor, parameters) if kind == "joined" else [tensor] * len(parameters)
            for parameter, part in zip(parameters, cut, strict=True):
                optimizer.state[parameter][key] = part.to(parameter.device, copy=True)


def joined(parts: Sequence[Tensor]) -> Tensor:
    """All values, one tensor's after the other's."""
    return torch.cat([part.detach().flatten() for part in parts])


def split(values: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Undo `joined`.

    Raises:
        RuntimeError: the number of values is another.
    """
    parts = values.split([tensor.numel() for tensor in like])
    return [part.view(tensor.shape) for part, tensor in zip(parts, like, strict=True)]


def _parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _packed(slot: str, pairs: Sequence[tuple[nn.Parameter, Any]]) -> dict[str, Tensor]:
    """One slot of all weights, as few tensors as may be; a value is None where there is none."""
    values = [value for _, value in pairs]
    if not all(isinstance(value, Tensor) for value in values):
        if len(set(map(type, values))) == 1 and len(set(values)) == 1:
            return {f"number/{slot}": _number(values[0])}
    elif all(value.dim() and value.shape == p.shape for p, value in pairs):
        if len({value.dtype for value in values}) == 1:
            return {f"joined/{slot}": joined(values)}
    elif all(value.dim() == 0 and value.equal(values[0]) for value in values):
        return {f"common/{slot}": values[0]}
    return {f"each/{slot}/{i}": value for i, value in enumerate(values) if value is not None}


def _number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64 if type(value) is float else torch.int64)


def _extra(package: str) -> Any:
    if package == "bitsandbytes" and sys.modules.get(package, package) is None:
        del sys.modules[package]  # hidden from the others who would import it, by processes.py
    try:
        return __import__(package)
    except ImportError as error:
        raise OptimizerError(
            f"training.optimizer.name: needs the package {package}, which is not installed. "
            f"pip install 'blockwise-lora[optimizers]', or take adamw."
        ) from error
