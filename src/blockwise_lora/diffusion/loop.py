"""The steps of several trainings in one pass."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from blockwise_lora.diffusion.attached import bare
from blockwise_lora.diffusion.base import BaseModel
from blockwise_lora.diffusion.batched import BatchedAdapters
from blockwise_lora.diffusion.batches import Batch, predict
from blockwise_lora.diffusion.caches import CachedSet
from blockwise_lora.diffusion.checkpoints import Checkpoints, State
from blockwise_lora.diffusion.efficiency import onloaded
from blockwise_lora.diffusion.graphs import Graphs, has_graphs
from blockwise_lora.diffusion.learner import Learner
from blockwise_lora.diffusion.looks import ALONE, Watcher, Watching
from blockwise_lora.diffusion.progress import progress
from blockwise_lora.diffusion.text import TokenIds

log = logging.getLogger(__name__)


@dataclass
class Member:
    """One adapter of the pass.

    Attributes:
        learner: its weights and optimiser.
        cached: its picture set; members with the same pictures hold the same object.
        key: hash of all that determines its result.
        watcher: looks at it while it trains.
        resumed_from: steps that an earlier process had done.
    """

    learner: Learner
    cached: CachedSet
    key: str
    watcher: Watcher
    resumed_from: int = 0

    @property
    def learns_text(self) -> bool:
        """Whether it changes what the U-Net is told of a prompt."""
        return isinstance(self.cached.text, TokenIds)

    @property
    def batch_key(self) -> tuple:
        """Equal for members that see the same batch in their next step."""
        return id(self.cached), self.learner.config, self.learner.step


class Loop:
    """Trains members until each has done its steps.

    Args:
        base: the model.
        members: what trains.
        adapters: the same ones, attached to the model's U-Net.
        checkpoint_dir: where states are saved to go on from; None: nowhere.
        watching: says what is kept with a state, and is told when one is found.
        offload: whether text encoders and VAE have to be brought back for a look.
        graphs: whether passes become CUDA graphs, on devices that have them.
    """

    def __init__(
        self,
        base: BaseModel,
        members: Sequence[Member],
        adapters: BatchedAdapters,
        checkpoint_dir: Path | None = None,
        watching: Watching = ALONE,
        offload: bool = False,
        graphs: bool = False,
    ) -> None:
        self.watching, self.offload = watching, offload
        self._graphs = Graphs(base.device) if graphs and has_graphs(base.device) else None
        self.base, self.members, self.adapters = base, list(members), adapters
        keys = [member.key for member in members]
        self._checkpoints = Checkpoints(checkpoint_dir, keys) if checkpoint_dir else None
        self._owed = False
        self._kept: set[str] = set()  # of members that have ended, and are saved so

    def run(self, on_step: Callable[[int], None] | None = None) -> None:
        """Take all steps, from where saved states stand.

        A member whose loss is no number any more stays in the pass, with its weights as they
        are, so that the others' arithmetic does not change; only when no other is left, it ends.

        Args:
            on_step: called after each step with the number of steps done.
        """
        self._resume()
        learners = [member.learner for member in self.members]
        total = max(x.config.steps for x in learners)
        done = max(x.step for x in learners)
        with progress([x.name for x in learners], total, done) as bar, self.adapters.installed():
            while any(x.active and not x.failure for x in learners):
                active = [member for member in self.members if member.learner.active]
                self.step(active)
                bar.update()
                for member in active:
                    self._look(member)
                save = self._due(active)
                if save or any(x.look_due for x in learners):
                    losses = [member.learner.check() for member in active]
                    bar.set_postfix(loss=f"{sum(losses) / len(losses):.4f}", refresh=False)
                if save:
                    self._save()
                if on_step:
                    on_step(max(x.step for x in learners))
        self._graphs = None  # and with them their memory
        for member in self.members:
            member.learner.finish()
            member.watcher.keep_best()
        self.adapters.write_back()

    def forgetting(self, key: str) -> Callable[[], None]:
        """What deletes the saved states of one member; it does not keep the loop alive."""
        return partial(self._checkpoints.remove, [key]) if self._checkpoints else lambda: None

    def step(self, active: Sequence[Member]) -> None:
        """One step of each member."""
        losses: dict[str, list[Tensor]] = {member.learner.name: [] for member in active}
        for turn in range(max(member.learner.config.accumulation for member in active)):
            here = [m for m in active if turn < m.learner.config.accumulation]
            for members, batches in self._passes(here, turn):
                for member, loss in zip(members, self._pass(members, batches), strict=True):
                    losses[member.learner.name].append(loss)
        for member in active:
            member.learner.update(torch.stack(losses[member.learner.name]).mean())

    def _passes(
        self, members: Sequence[Member], turn: int
    ) -> Iterator[tuple[list[Member], list[Batch]]]:
        """Members with their batches of this turn, in as many passes as it takes.

        In one pass are batches of one shape, and of those that no other member sees only such as
        begin to be trained in the same block: the backward pass of one batch would else run on,
        for nothing, to where that of another ends.
        """
        batches: dict[tuple, Batch] = {}
        begins: dict[tuple, int] = {}
        order = {m.key: self.adapters.order(m.learner.name) for m in members}
        for member in sorted(members, key=lambda member: order[member.key], reverse=True):
            key = member.batch_key
            if key not in batches:
                batches[key] = self._batch(member, turn)
            begins[key] = order[member.key]
        passes: dict[tuple, list[Member]] = {}
        for member in sorted(members, key=lambda member: order[member.key]):
            key = member.batch_key
            passes.setdefault((batches[key].shape, begins[key]), []).append(member)
        for together in passes.values():
            yield together, [batches[member.batch_key] for member in together]

    def _batch(self, member: Member, turn: int) -> Batch:
        config, step = member.learner.config, member.learner.step
        batch = Batch.of(self.base, member.cached, config, step * config.accumulation + turn)
        if not batch.taught:
            return batch
        with bare(self.base):
            return batch.taught_by(self.base)

    def _pass(self, members: Sequence[Member], batches: Sequence[Batch]) -> list[Tensor]:
        """Forward and backward; batches that are one object are shared. Returns the losses."""
        distinct = list({id(batch): batch for batch in batches}.values())
        if batches[0].learns_text:  # to each adapter the same caption means something else
            distinct, sources = list(batches), [*range(len(batches))]
        else:
            sources = [distinct.index(batch) for batch in batches]
        compute = partial(self._forward_and_back, members, sources)
        if self._graphs is None or batches[0].learns_text:
            return compute(distinct)
        key = tuple(m.learner.name for m in members), tuple(sources)
        gradients = [p.grad for m in members for p in m.learner.parameters]
        return self._graphs.run(key, distinct, gradients, compute)

    def _forward_and_back(
        self, members: Sequence[Member], sources: Sequence[int], batches: Sequence[Batch]
    ) -> list[Tensor]:
        names, rows = [m.learner.name for m in members], batches[0].shape[0]
        with self.adapters.acting(names, sources, rows):
            answers = predict(self.base, batches).split(rows)
            losses = [batches[i].loss(answer) for i, answer in zip(sources, answers, strict=True)]
            # Each adapter's weights meet its own loss alone, so the sum gives each its gradient.
            shares = [
                member.learner.scaled(loss / member.learner.config.accumulation)
                for member, loss in zip(members, losses, strict=True)
            ]
            sum(shares).backward()
        # Were their history still there when the next pass is captured, it would be part of it.
        return [loss.detach() for loss in losses]

    def _look(self, member: Member) -> None:
        if not member.watcher.due:
            return
        with (
            member.learner.averaged(),
            self.adapters.alone(member.learner.name),
            self.base.vocabulary.only([member.learner.name]),
            onloaded(self.base, self.offload, not any(m.learns_text for m in self.members)),
        ):
            member.watcher.look()

    def _due(self, active: Sequence[Member]) -> bool:
        """Whether to save: at someone's interval, and what ended while others go on."""
        learners = [member.learner for member in active]
        if not self._checkpoints or not any(x.active for x in learners):
            return False
        late = self._owed and any(x.look_due for x in learners)
        return late or any(x.save_due or not x.active for x in learners)

    def _save(self) -> None:
        """Save, unless a loss is no number now: then the last good state stays for the time."""
        going = [member.learner for member in self.members if member.learner.active]
        self._owed = any(x.troubled and not x.failure for x in going)
        if self._owed or all(x.failure for x in going):
            return
        notes, states = self.watching.notes(), {}
        for member in self.members:
            if member.key in self._kept:
                continue
            learner = member.learner
            tensors, failed = learner.state() | member.watcher.state(), bool(learner.failure)
            ended = not learner.active
            states[member.key] = State(learner.step, tensors, notes, failed, ended)
        self._checkpoints.save(states)
        self._kept = {member.key for member in self.members if not member.learner.active}

    def _resume(self) -> None:
        saved = self._checkpoints.load() if self._checkpoints else {}
        for member in self.members:
            if state := saved.get(member.key):
                member.learner.restore(state.step, state.tensors)
                member.watcher.restore(state.tensors)
                member.resumed_from = state.step
                if not member.learner.active:
                    self._kept.add(member.key)
                self.watching.on_resume(state.notes)
                log.info(
                    "%s: going on from the state saved at step %d", member.learner.name, state.step
                )
