"""Timing the trainer and diffusers' way, for `training.py`."""

from __future__ import annotations

import dataclasses
import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from diffusers_style import DiffusersStyle, Noise

from blockwise_lora.adapters import AdapterSpec, detach
from blockwise_lora.diffusion.base import BaseModel
from blockwise_lora.diffusion.batches import Batch
from blockwise_lora.diffusion.caches import CachedSet
from blockwise_lora.diffusion.config import EfficiencyConfig, TrainingConfig
from blockwise_lora.diffusion.draws import draw
from blockwise_lora.diffusion.graphs import has_graphs
from blockwise_lora.diffusion.learner import Learner
from blockwise_lora.diffusion.trainer import Job, train_many
from blockwise_lora.imagesets import ImageSet

MASKS = {
    "all": "all",
    "in": "in",
    "out": "out",
    "in0-out1 (character)": "in0-out1",
    "out2-out3 (style)": "out2-out3",
    "mid": "mid",
    "out3": "out3",
}
GROUP = ("all", "in0-out1", "out", "out1-out3", "out2-out3", "mid+out0", "out0-out1", "out3")
WARM_UP = 2
"""Steps before the timed ones: on CUDA the second is captured."""


@dataclass(frozen=True)
class Clock:
    """What time is read off."""

    device: torch.device

    @property
    def of_process(self) -> bool:
        """Whether it stands while other processes run."""
        return self.device.type == "cpu" and torch.get_num_threads() == 1

    def now(self) -> float:
        """Seconds, once the device has done all that it was told."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.process_time() if self.of_process else time.perf_counter()


class Bench:
    """A model, pictures for it, and ways to train on them."""

    def __init__(self, base: BaseModel, images: ImageSet, method: str, rank: int, steps: int):
        self.base, self.images, self.method, self.steps = base, images, method, steps
        self.clock = Clock(base.device)
        self._spec = AdapterSpec("all", method, rank)

    def config(self, batch: int, seed: int = 0, *, graphs: bool = True) -> TrainingConfig:
        """Both loops' configuration: constant rate, independent noise levels.

        Args:
            batch: pictures.
            seed: of the draws.
            graphs: `efficiency.cuda_graphs`, which only this trainer knows, and only on CUDA.
        """
        plain = TrainingConfig()
        return dataclasses.replace(
            plain,
            steps=self.steps + WARM_UP,
            batch_size=batch,
            seed=seed,
            schedule=dataclasses.replace(plain.schedule, decay="constant"),
            noise=dataclasses.replace(plain.noise, timesteps="uniform"),
            efficiency=EfficiencyConfig(cuda_graphs=graphs),
        )

    def spec(self, mask: str) -> AdapterSpec:
        """An adapter of some blocks."""
        return dataclasses.replace(self._spec, blocks=mask)

    def ours(
        self,
        masks: Sequence[str],
        batch: int,
        seeds: Sequence[int] | None = None,
        *,
        graphs: bool = True,
    ) -> float:
        """Seconds a step of this trainer, with an adapter for each mask."""
        seeds = seeds or [0] * len(masks)
        jobs = [
            Job(f"a{i}", self.images, self.spec(mask), self.config(batch, seed, graphs=graphs))
            for i, (mask, seed) in enumerate(zip(masks, seeds, strict=True))
        ]
        with self._measured() as (mark, result):
            train_many(self.base, jobs, on_step=mark)
        for job in jobs:
            detach(self.base.unet, job.name)
        return result[0]

    def theirs(self, mask: str, batch: int) -> float:
        """Seconds a step of the example's loop."""
        with self._measured() as (mark, result):
            loop = DiffusersStyle(self.base, self.images, self.spec(mask), self.config(batch))
            for step in range(self.steps + WARM_UP):
                loop.step()
                mark(step + 1)
        loop.close()
        return result[0]

    @contextmanager
    def _measured(self) -> Iterator[tuple[Callable[[int], None], list[float]]]:
        gc.collect()
        began, result = 0.0, []

        def mark(step: int) -> None:
            nonlocal began
            if step == WARM_UP:
                began = self.clock.now()
            elif step == self.steps + WARM_UP:
                result.append((self.clock.now() - began) / self.steps)

        yield mark, result

    def memory_ratio(self, batch: int) -> float:
        """Memory of one step, this trainer's over the example's.

        On CUDA the peak. On a CPU, where the allocator's peaks say little, what the forward pass
        keeps for the backward pass, the model's own weights left out.
        """
        config = dataclasses.replace(self.config(batch), steps=1)
        with self._memory() as ours:
            train_many(self.base, [Job("a", self.images, self.spec("all"), config)])
        detach(self.base.unet, "a")
        loop = DiffusersStyle(self.base, self.images, self.spec("all"), config)
        with self._memory() as theirs:
            loop.step()
        loop.close()
        return ours[0] / theirs[0]

    @contextmanager
    def _memory(self) -> Iterator[list[int]]:
        gc.collect()
        result: list[int] = []
        if self.clock.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            yield result
            result.append(torch.cuda.max_memory_allocated())
            return
        weights = {p.untyped_storage().data_ptr() for p in self.base.unet.parameters()}
        kept: dict[int, int] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            yield result
        result.append(sum(kept.values()))

    def loss_difference(self, batch: int) -> float:
        """Relative difference of both loops' first loss, from the same noise."""
        config = self.config(batch)
        cached = CachedSet.of(self.base, self.images, config)
        (shelf,) = cached.shelves
        levels = len(self.base.scheduler.alphas_cumprod)
        draws = draw(config, 0, shelf.order, shelf.shape, levels)
        loop = DiffusersStyle(self.base, self.images, self.spec("all"), config)
        given = Noise(draws.rows, draws.timesteps, draws.noise, draws.latent_noise)
        their_loss = loop.loss(given).item()
        loop.close()
        first = Batch.of(self.base, cached, config, 0)
        assert torch.equal(first.timesteps.cpu(), draws.timesteps)
        (outcome,) = train_many(
            self.base,
            [Job("a", self.images, self.spec("all"), dataclasses.replace(config, steps=1))],
        )
        detach(self.base.unet, "a")
        return abs(outcome.losses[0] - their_loss) / their_loss

    def stages(self, batch: int) -> dict[str, float]:
        """Where a step's time goes, in both loops, in milliseconds."""
        loop = DiffusersStyle(self.base, self.images, self.spec("all"), self.config(batch))
        spent: dict[str, float] = {}
        names = {"read": "read files", "encode_pictures": "VAE", "encode_captions": "text encoder"}
        for name, label in names.items():
            setattr(loop, name, self._timed(getattr(loop, name), f"diffusers: {label}", spent))
        loop.step()
        spent.clear()
        began = self.clock.now()
        for _ in range(self.steps):
            loop.step()
        whole = (self.clock.now() - began) * 1e3 / self.steps
        loop.close()
        spent = {name: seconds * 1e3 / self.steps for name, seconds in spent.items()}
        spent["diffusers: U-Net, optimiser"] = whole - sum(spent.values())
        return spent | self._own_stages(batch)

    def _own_stages(self, batch: int) -> dict[str, float]:
        spent: dict[str, float] = {}
        update, batch_of = Learner.update, Batch.__dict__["of"]
        Learner.update = self._timed(update, "ours: clip, optimiser", spent)
        Batch.of = staticmethod(self._timed(Batch.of, "ours: draw, noise", spent))
        try:
            whole = self.ours(["all"], batch) * 1e3
        finally:
            Learner.update, Batch.of = update, batch_of
        spent = {name: seconds * 1e3 / (self.steps + WARM_UP) for name, seconds in spent.items()}
        return spent | {"ours: U-Net": whole - sum(spent.values())}

    def _timed(self, function: Callable, name: str, spent: dict[str, float]) -> Callable:
        def timed(*args):
            began = self.clock.now()
            result = function(*args)
            spent[name] = spent.get(name, 0.0) + self.clock.now() - began
            return result

        return timed


def against_diffusers(bench: Bench, batches: Sequence[int], rounds: int) -> list[dict]:
    """Pictures a second and memory of both loops."""
    rows = []
    for batch in batches:
        pairs, captured = [], []
        for _ in range(rounds):
            pairs.append((bench.ours(["all"], batch, graphs=False), bench.theirs("all", batch)))
            captured += [bench.ours(["all"], batch)] if has_graphs(bench.base.device) else []
        ours, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
        row = {
            "method": bench.method,
            "batch": batch,
            "ours_pictures_s": batch / ours,
            "diffusers_pictures_s": batch / theirs,
            "speed_ratio": statistics.median(b / a for a, b in pairs),
            "memory_ratio": bench.memory_ratio(batch),
        }
        if captured:
            row["captured_pictures_s"] = batch / statistics.median(captured)
            row["captured_ratio"] = statistics.median(
                theirs / ours for ours, (_, theirs) in zip(captured, pairs, strict=True)
            )
        rows.append(row)
        print(row, flush=True)
    return rows


def by_mask(bench: Bench, batch: int, rounds: int) -> dict[str, float]:
    """Step time relative to all blocks."""
    times = [{name: bench.ours([m], batch) for name, m in MASKS.items()} for _ in range(rounds)]
    return {name: statistics.median(t[name] / t["all"] for t in times) for name in MASKS}


def many_at_once(bench: Bench, batches: Sequence[int], rounds: int, count: int) -> list[dict]:
    """Separate runs over one pass: one mask with different seeds, and different masks."""
    rows = []
    for batch in batches:
        seeds, masks = [], []
        for _ in range(rounds):
            single = {m: bench.ours([m], batch) for m in dict.fromkeys(GROUP[:count])}
            together = bench.ours(["all"] * count, batch, seeds=range(count))
            seeds.append(count * single["all"] / together)
            masks.append(sum(single.values()) / bench.ours(GROUP[:count], batch))
        rows.append(
            {
                "batch": batch,
                "seeds": statistics.median(seeds),
                "masks": statistics.median(masks),
            }
        )
        print(rows[-1], flush=True)
    return rows
