"""One adapter in training: its weights, its optimiser, its schedule and its losses.

The trainer runs the U-Net and hands each learner the gradient of its own slice of the batch, so
several learners can share a pass; nothing here knows of the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from blockwise_lora.diffusion import optimizers
from blockwise_lora.diffusion.config import TrainingConfig
from blockwise_lora.diffusion.optimizers import Group, OptimizerError
from blockwise_lora.diffusion.scaling import HALVINGS, LossScale
from blockwise_lora.diffusion.schedule import learning_rate
from blockwise_lora.errors import UserError

_PATIENCE = 10  # steps in a row that come to nothing before a training counts as failed


class TrainingError(UserError):
    """A training that cannot go on."""


class Learner:
    """The state of one adapter's training.

    Args:
        name: for messages.
        groups: the adapter's weights, float32, by their rate.
        config: how to train.
        half: whether the model computes in float16, so that the loss has to be scaled.

    Raises:
        OptimizerError: the optimiser is not installed or cannot do what is asked, or all rates
            are 0.
    """

    def __init__(
        self, name: str, groups: Sequence[Group], config: TrainingConfig, half: bool = False
    ) -> None:
        self.name, self.config = name, config
        self.parameters = [p for group in groups for p in group.parameters]
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self.step = 0
        self.stopped = False
        # On the device, so that no step waits for the host to read its loss.
        self._losses = torch.zeros(config.steps, device=self.parameters[0].device)
        self._scale = LossScale(self._losses.device) if half else None
        self.failure: TrainingError | None = None
        self._checked = self._wasted = 0
        # What stays as it starts has gradients, too, but no part in their length.
        moving = [group for group in groups if group.rate]
        if not moving:
            raise OptimizerError(
                f"{name}: `rates` is 0 for all its blocks, so nothing would be learned. Give one "
                f"of them a rate above 0."
            )
        self._moving = [p for group in moving for p in group.parameters]
        self._rates = [group.rate for group in moving]
        self._optimizer = optimizers.make_optimizer(moving, config.optimizer)
        self._ema = config.optimizer.ema
        self._average = [p.detach().clone() for p in self.parameters] if self._ema else []

    @property
    def active(self) -> bool:
        """Whether there are steps left."""
        return self.step < self.config.steps and not self.stopped

    @property
    def look_due(self) -> bool:
        """Whether it is time to read the losses."""
        return self.step % self.config.log_every == 0 or not self.active

    @property
    def save_due(self) -> bool:
        """Whether it is time to save the state."""
        return self.step % self.config.checkpoint_every == 0

    @property
    def troubled(self) -> bool:
        """Whether the last step that was looked at came to nothing."""
        return self._wasted > 0

    def scaled(self, loss: Tensor) -> Tensor:
        """The loss whose gradient `update` takes."""
        return loss if self._scale is None else loss * self._scale.value

    @torch.no_grad()  # the average would keep the graph of all its steps
    def update(self, loss: Tensor) -> None:
        """Take a step along the gradients that the weights hold, and forget them.

        Where the loss or a gradient is not finite, weights and optimiser stay as they are, and the
        step's loss is recorded as NaN. The device decides: the host does not wait for it.

        Args:
            loss: as it was before it was `scaled`.
        """
        if self._scale:
            self._scale.unscale_([p.grad for p in self.parameters])
        limit = self.config.optimizer.max_grad_norm
        norm = nn.utils.clip_grad_norm_(self._moving, torch.inf if limit is None else limit)
        finite = norm.isfinite() & loss.isfinite()
        rate = learning_rate(self.config, self.step)
        for group, factor in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor
        optimizers.step_where(self._optimizer, finite)
        if self._scale:
            self._scale.update(finite)
        if self._ema:
            # A short memory at first, or the average would long be that of the initial weights.
            memory = min(self._ema, (1 + self.step) / (10 + self.step))
            torch._foreach_lerp_(self._average, self.parameters, 1 - memory)
        torch._foreach_zero_([p.grad for p in self.parameters])  # they may be views of a table
        self._losses[self.step] = torch.where(finite, loss.detach(), torch.nan)
        self.step += 1

    def check(self) -> float:
        """Read the losses since the last look, and return the mean of those that are finite.

        `failure` is set when the last steps, up to this one, all came to nothing.
        """
        recent = self._losses[self._checked : self.step].cpu()
        # At first the scale of a loss may be too high: steps are lost until it has come down.
        patience = _PATIENCE + (HALVINGS if self._scale else 0)
        for i, fine in enumerate(recent.isfinite().tolist(), self._checked):
            self._wasted = 0 if fine else self._wasted + 1
            if self._wasted >= min(patience, max(1, self.config.steps // 2)):
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
        """All that `restore` needs to go on exactly from here."""
        tensors = {"weights": optimizers.joined(self.parameters), "losses": self._losses}
        if self._ema:
            tensors["average"] = optimizers.joined(self._average)
        if self._scale:
            tensors |= self._scale.state()
        state = optimizers.state_of(self._optimizer)
        return tensors | {f"optimizer/{name}": tensor for name, tensor in state.items()}

    @torch.no_grad()
    def restore(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Go back to a saved state.

        Raises:
            KeyError, RuntimeError, ValueError: the state is of another training; this one may
                be half restored.
        """
        _copy(self.parameters, tensors["weights"])
        if self._ema:
            _copy(self._average, tensors["average"])
        if self._scale:
            self._scale.restore(tensors)
        state = {n: t for n, t in tensors.items() if n.startswith("optimizer/")}
        optimizers.restore(
            self._optimizer, {n.removeprefix("optimizer/"): t for n, t in state.items()}
        )
        self._losses.copy_(tensors["losses"])
        self.step, self._checked, self._wasted, self.failure = step, 0, 0, None
        self.check()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """In here the weights are those that the training would end with now."""
        own = [p.detach().clone() for p in self.parameters] if self._ema else []
        self.finish()
        try:
            yield
        finally:
            if own:
                with torch.no_grad():
                    torch._foreach_copy_(self.parameters, own)

    @torch.no_grad()
    def finish(self) -> None:
        """Put the running average, if there is one, in the weights' place."""
        if self._ema:
            torch._foreach_copy_(self.parameters, self._average)


def _copy(targets: Sequence[Tensor], values: Tensor) -> None:
    for target, part in zip(targets, optimizers.split(values, targets), strict=True):
        target.copy_(part)
