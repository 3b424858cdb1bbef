"""The loop that trains every part of the embedded world: resumable, with time left.

State is kept in safetensors and JSON (nothing is ever unpickled) in a cache folder outside the
work tree. Every step draws its randomness from a generator seeded by (seed, step), so a run that
was cut off goes on exactly where it stood.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from blockwise_lora.errors import UserError

ADAM_SLOTS = ("step", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class LoopConfig:
    """How one part is trained.

    Attributes:
        steps: optimiser steps in all.
        batch_size: pictures per step.
        learning_rate: peak of the schedule.
        warmup: steps of linear warm-up.
        decay: last share of the steps over which the rate falls to zero, linearly.
        weight_decay: AdamW's decoupled decay, on matrices only.
        ema: decay of the averaged weights that are exported; 0 exports the raw weights.
        clip: gradient norm limit.
        save_seconds: time between two saved states.
        seed: of every random draw.
    """

    steps: int
    batch_size: int
    learning_rate: float
    warmup: int = 200
    decay: float = 0.25
    weight_decay: float = 0.01
    ema: float = 0.0
    clip: float = 1.0
    save_seconds: float = 120.0
    seed: int = 0

    def rate(self, step: int) -> float:
        """Learning rate at a step: warm-up, plateau, linear decay to zero."""
        up = min(1.0, (step + 1) / max(1, self.warmup))
        down = min(1.0, (self.steps - step) / max(1.0, self.decay * self.steps))
        return self.learning_rate * min(up, down)


def step_generator(seed: int, step: int) -> torch.Generator:
    """A CPU generator of its own for each step."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) & 0x7FFF_FFFF_FFFF_FFFF)


class Trainer:
    """Optimiser, averaged weights and saved state around a function that computes a loss.

    Args:
        name: of the part, names the state file.
        modules: what is trained, by name.
        config: the schedule.
        folder: where the state is kept.
    """

    def __init__(
        self, name: str, modules: Mapping[str, nn.Module], config: LoopConfig, folder: Path
    ) -> None:
        self.name, self.config, self.folder = name, config, folder
        self.parameters = {
            f"{part}.{key}": p
            for part, module in modules.items()
            for key, p in module.named_parameters()
            if p.requires_grad
        }
        matrices = [p for p in self.parameters.values() if p.ndim > 1]
        vectors = [p for p in self.parameters.values() if p.ndim <= 1]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": config.weight_decay},
                {"params": vectors, "weight_decay": 0.0},
            ],
            lr=config.learning_rate,
            betas=(0.9, 0.98),
            foreach=True,
        )
        self.average = {k: p.detach().clone() for k, p in self.parameters.items()}
        self.step = 0
        self.seconds = 0.0

    def run(self, loss: Callable[[int, torch.Generator], Tensor]) -> None:
        """Train to the last step, going on from the saved state if there is one."""
        self._load()
        bar = tqdm(total=self.config.steps, initial=self.step, desc=self.name, smoothing=0.05)
        saved, smooth = time.monotonic(), None
        while self.step < self.config.steps:
            began = time.monotonic()
            value = self._advance(loss)
            smooth = value if smooth is None else 0.98 * smooth + 0.02 * value
            self.seconds += time.monotonic() - began
            bar.update()
            bar.set_postfix(loss=f"{smooth:.4f}", refresh=False)
            if time.monotonic() - saved > self.config.save_seconds:
                self._save()
                saved = time.monotonic()
        bar.close()
        self._save()

    def _advance(self, loss: Callable[[int, torch.Generator], Tensor]) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.rate(self.step)
        value = loss(self.step, step_generator(self.config.seed, self.step))
        value.backward()
        nn.utils.clip_grad_norm_(self.parameters.values(), self.config.clip, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad()
        number = float(value.detach())
        if number != number:
            raise UserError(
                f"{self.name}: the loss is not a number at step {self.step}. The last saved state "
                f"is kept in {self.folder}; lower learning_rate and run again."
            )
        self._average()
        self.step += 1
        return number

    @torch.no_grad()
    def _average(self) -> None:
        # A short memory at first, or the random start would be averaged in for long.
        keep = min(self.config.ema, (1 + self.step) / (10 + self.step)) if self.config.ema else 0.0
        torch._foreach_lerp_(
            list(self.average.values()), list(self.parameters.values()), 1.0 - keep
        )

    @torch.no_grad()
    def export(self) -> None:
        """Put the averaged weights into the modules."""
        for key, p in self.parameters.items():
            p.copy_(self.average[key])

    def _save(self) -> None:
        tensors = {f"weight/{k}": p.detach() for k, p in self.parameters.items()}
        tensors |= {f"average/{k}": p for k, p in self.average.items()}
        for key, p in self.parameters.items():
            for slot, tensor in self.optimizer.state.get(p, {}).items():
                tensors[f"optimizer/{slot}/{key}"] = tensor
        state = {"step": str(self.step), "seconds": str(self.seconds)}
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / f"{self.name}.partial"
        save_file({k: t.contiguous() for k, t in tensors.items()}, partial, metadata=state)
        partial.replace(self.folder / f"{self.name}.safetensors")

    @torch.no_grad()
    def _load(self) -> None:
        path = self.folder / f"{self.name}.safetensors"
        if not path.exists():
            return
        tensors = load_file(path)
        for key, p in self.parameters.items():
            p.copy_(tensors[f"weight/{key}"])
            self.average[key] = tensors[f"average/{key}"]
            self.optimizer.state[p] = {s: tensors[f"optimizer/{s}/{key}"] for s in ADAM_SLOTS}
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            state = json.loads(file.read(size))["__metadata__"]
        self.step, self.seconds = int(state["step"]), float(state["seconds"])
