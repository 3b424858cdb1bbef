"""One adapter in training: its weights, its optimiser, its schedule and its losses.

The trainer runs the U-Net and hands each learner the gradient of its own slice of the batch, so
several learners can share a pass; nothing here knows of the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from blockwise_lora.diffusion.config import TrainingConfig
from blockwise_lora.errors import UserError

_PATIENCE = 10  # steps in a row that come to nothing before a training counts as failed


class TrainingError(UserError):
    """A training that cannot go on."""


class Learner:
    """The state of one adapter's training.

    Args:
        name: for messages.
        parameters: the adapter's weights, float32.
        config: how to train.
    """

    def __init__(
        self, name: str, parameters: Sequence[nn.Parameter], config: TrainingConfig
    ) -> None:
        self.name, self.config = name, config
        self.parameters = list(parameters)
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self.step = 0
        # On the device, so that no step waits for the host to read its loss.
        self._losses = torch.zeros(config.steps, device=self.parameters[0].device)
        self.failure: TrainingError | None = None
        self._checked = self._wasted = 0
        self._optimizer = torch.optim.AdamW(
            self.parameters,
            lr=config.learning_rate,
            betas=config.betas,
            weight_decay=config.weight_decay,
            fused=self.parameters[0].device.type in ("cpu", "cuda"),
        )

    @property
    def active(self) -> bool:
        """Whether there are steps left."""
        return self.step < self.config.steps

    @property
    def look_due(self) -> bool:
        """Whether it is time to read the losses."""
        return self.step % self.config.log_every == 0 or not self.active

    @property
    def save_due(self) -> bool:
        """Whether it is time to save the state."""
        return self.step % self.config.checkpoint_every == 0

    def update(self, loss: Tensor) -> None:
        """Take a step along the gradients that the weights hold, and forget them.

        Where the loss or a gradient is not finite, weights and optimiser stay as they are, and the
        step's loss is recorded as NaN. The device decides: the host does not wait for it.
        """
        norm = nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm)
        finite = norm.isfinite() & loss.isfinite()
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(self.config, self.step)
        # The fused optimisers take this from mixed precision: 1 stands for "skip".
        self._optimizer.grad_scale, self._optimizer.found_inf = None, (~finite).float()
        self._optimizer.step()
        torch._foreach_zero_([p.grad for p in self.parameters])  # they may be views of a table
        self._losses[self.step] = torch.where(finite, loss.detach(), torch.nan)
        self.step += 1

    def check(self) -> float:
        """Read the losses since the last look, and return the mean of those that are finite.

        `failure` is set when the last steps, up to this one, all came to nothing.
        """
        recent = self._losses[self._checked : self.step].cpu()
        for i, fine in enumerate(recent.isfinite().tolist(), self._checked):
            self._wasted = 0 if fine else self._wasted + 1
            if self._wasted >= min(_PATIENCE, max(1, self.config.steps // 2)):
                self.failure = self.failure or self._explain(i + 1 - self._wasted)
        self._checked = self.step
        return float(recent.nanmean())

    def skipped(self) -> int:
        """Steps that changed nothing, since loss or gradient were not finite."""
        return int((~self._losses[: self.step].isfinite()).sum())

    def _explain(self, step: int) -> TrainingError:
        return TrainingError(
            f"{self.name}: the loss is not a finite number from step {step} of "
            f"{self.config.steps} on, so nothing can be learned. Lower training.learning_rate "
            f"(now {self.config.learning_rate:g}), or train in float32 or bfloat16 "
            f"(base_model.dtype). No adapter is written."
        )

    def losses(self) -> list[float]:
        """The loss of every step so far."""
        return self._losses[: self.step].tolist()

    def state(self) -> dict[str, Tensor]:
        """All that `restore` needs to go on exactly from here.

        Values that belong to the weights one by one are joined to one vector, so that it does not
        matter into how many vectors the weights are cut.
        """
        state = self._optimizer.state
        tensors = {"weights": _joined(self.parameters), "losses": self._losses}
        for slot in state[self.parameters[0]]:
            values = [state[p][slot] for p in self.parameters]
            joined = all(v.shape == p.shape for v, p in zip(values, self.parameters, strict=True))
            parts = {slot: _joined(values)} if joined else {f"{slot}/0": values[0]}
            tensors |= {f"optimizer/{name}": part for name, part in parts.items()}
        return tensors

    @torch.no_grad()
    def restore(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Go back to a saved state.

        Raises:
            KeyError, RuntimeError, ValueError: the state is of another training; this one may
                be half restored.
        """
        for parameter, part in zip(self.parameters, self._cut(tensors["weights"]), strict=True):
            parameter.copy_(part)
        slots: dict[int, dict[str, Tensor]] = {i: {} for i in range(len(self.parameters))}
        for name, tensor in tensors.items():
            if name.startswith("optimizer/"):
                _, slot, *common = name.split("/")
                parts = [tensor.clone() for _ in slots] if common else self._cut(tensor)
                for i, part in enumerate(parts):
                    slots[i][slot] = part
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": slots, "param_groups": groups})
        self._losses.copy_(tensors["losses"])
        self.step, self._checked, self._wasted, self.failure = step, 0, 0, None
        self.check()

    def _cut(self, joined: Tensor) -> list[Tensor]:
        parts = joined.split([p.numel() for p in self.parameters])
        return [part.view(p.shape) for part, p in zip(parts, self.parameters, strict=True)]


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([part.detach().flatten() for part in parts])


def learning_rate(config: TrainingConfig, step: int) -> float:
    """The rate of a step: a linear rise over `warmup_steps`, then the chosen schedule.

    Args:
        config: peak, warm-up and schedule.
        step: from 0.
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / (config.warmup_steps + 1)
    done = (step - config.warmup_steps) / (config.steps - config.warmup_steps)
    factor = {
        "constant": 1.0,
        "linear": 1.0 - done,
        "cosine": (1.0 + math.cos(math.pi * done)) / 2,
    }[config.schedule]
    return config.learning_rate * factor
