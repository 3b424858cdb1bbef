"""What a card has to do as the CPU does, for `card.py`."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import gc
import hashlib
import time
import traceback
import warnings
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import torch
from subjects import EMBEDDED, write_pictures

from blockwise_lora.adapters import AdapterSpec, trainable_parameters
from blockwise_lora.diffusion.attached import unload
from blockwise_lora.diffusion.base import BaseModel, load_base
from blockwise_lora.diffusion.config import EfficiencyConfig, TrainingConfig
from blockwise_lora.diffusion.learner import TrainingError
from blockwise_lora.diffusion.trainer import Job, train_many
from blockwise_lora.imagesets import ImageSet

METHODS = ("lora", "locon", "rslora", "dora", "loha", "lokr", "oft", "full")
GIB = 2**30


class StoppedError(Exception):
    """Stands for a kill between two steps."""


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model with pictures of its size."""

    base: BaseModel
    images: ImageSet

    def train(
        self,
        config: TrainingConfig,
        specs: Sequence[AdapterSpec] = (AdapterSpec(rank=8),),
        on_step: Callable[[int], None] | None = None,
        states: Path | None = None,
    ) -> tuple[list[tuple[float, ...]], str]:
        """Losses of each adapter, and a hash of all their weights; nothing stays attached."""
        jobs = [Job(f"a{i}", self.images, spec, config) for i, spec in enumerate(specs)]
        outcomes = train_many(self.base, jobs, on_step=on_step, checkpoint_dir=states)
        digest = hashlib.sha256()
        for job in jobs:
            for parameter in trainable_parameters(self.base.parts, job.name):
                digest.update(parameter.detach().float().cpu().numpy().tobytes())
            unload(self.base, job.name)
        return [outcome.losses for outcome in outcomes], digest.hexdigest()[:16]

    def cost(
        self, config: TrainingConfig, specs: Sequence[AdapterSpec]
    ) -> tuple[float, float, float]:
        """Milliseconds a step, the first two left out; GiB at most in these, and in all of it."""
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        marks, before = {}, 0.0

        def mark(step: int) -> None:
            nonlocal before
            if step in (2, config.steps):
                torch.cuda.synchronize()
                marks[step] = time.perf_counter()
            if step == 2:
                before = torch.cuda.max_memory_allocated() / GIB
                torch.cuda.reset_peak_memory_stats()

        self.train(config, specs, on_step=mark)
        peak = torch.cuda.max_memory_allocated() / GIB
        ms = (marks[config.steps] - marks[2]) * 1e3 / (config.steps - 2)
        return ms, peak, max(before, peak)


def configured(steps: int, batch: int, **switches: bool) -> TrainingConfig:
    """A training with some switches of `efficiency` on."""
    return TrainingConfig(
        steps=steps,
        batch_size=batch,
        log_every=1000,
        schedule=dataclasses.replace(TrainingConfig().schedule, warmup_steps=0),
        efficiency=EfficiencyConfig(**switches),
    )


def apart(first: Sequence[float], second: Sequence[float]) -> float:
    """Largest relative difference of two loss curves."""
    return max(abs(a - b) / abs(b) for a, b in zip(first, second, strict=True))


class Checks:
    """What has to hold. Each method gives what was found, and whether that is as it should be.

    Args:
        folder: for pictures and states.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.images = write_pictures(folder / "small", 64)
        self.cpu = Subject(load_base(EMBEDDED), self.images)
        self.card = self._card("float32")

    def _card(self, dtype: str) -> Subject:
        return Subject(load_base(EMBEDDED, "cuda", dtype), self.images)

    def same_losses_as_on_the_cpu(self) -> tuple[str, bool]:
        """One seed draws the same pictures, noise and timesteps everywhere."""
        config, worst = configured(4, 4), {}
        for method in METHODS:
            specs = [AdapterSpec(method=method, rank=8)]
            (here,), _ = self.card.train(config, specs)
            (there,), _ = self.cpu.train(config, specs)
            worst[method] = apart(here, there)
        found = ", ".join(f"{name} {value:.0e}" for name, value in worst.items())
        return f"relative difference over 4 steps, float32: {found}", max(worst.values()) < 1e-3

    def same_bits_twice_and_after_a_kill(self) -> tuple[str, bool]:
        """With `efficiency.deterministic`."""
        config = dataclasses.replace(configured(12, 4, deterministic=True), checkpoint_every=5)
        specs = [AdapterSpec(method="locon", rank=8), AdapterSpec("out2-out3", rank=4)]
        _, whole = self.card.train(config, specs)
        _, again = self.card.train(config, specs)

        def kill(step: int) -> None:
            if step == 7:
                raise StoppedError

        states = self.folder / "states"
        with contextlib.suppress(StoppedError):
            self.card.train(config, specs, kill, states)
        _, resumed = self.card.train(config, specs, states=states)
        return f"weights {whole}, again {again}, resumed {resumed}", whole == again == resumed

    def many_are_each_as_if_alone(self) -> tuple[str, bool]:
        """Four masks in one pass, and each by itself."""
        config = configured(6, 2)
        specs = [AdapterSpec(mask, "locon", 8) for mask in ("all", "in", "out1-out3", "mid")]
        together, _ = self.card.train(config, specs)
        alone = [self.card.train(config, [spec])[0][0] for spec in specs]
        worst = max(apart(a, b) for a, b in zip(together, alone, strict=True))
        return f"relative difference of losses over 6 steps: {worst:.0e}", worst < 1e-3

    def captured_steps_give_the_same_bits(self) -> tuple[str, bool]:
        """`efficiency.cuda_graphs`: masks, accumulation, checkpointing, and the other methods."""
        masks = [AdapterSpec(mask, "locon", 8) for mask in ("all", "in", "out1-out3", "mid")]
        found = {
            "one": self._captured([AdapterSpec(method="locon", rank=8)]),
            "four masks": self._captured(masks),
            "two turns a step": self._captured(masks[:2], accumulation=2),
            "checkpointing": self._captured(masks[:1], gradient_checkpointing=True),
        }
        for method in ("dora", "loha", "lokr", "full"):
            found[method] = self._captured([AdapterSpec(method=method, rank=8)])
        words = [
            f"{name} {'equal' if same else f'{gap:.0e}'}" for name, (same, gap) in found.items()
        ]
        return ", ".join(words), all(same for same, _ in found.values())

    def _captured(
        self, specs: Sequence[AdapterSpec], accumulation: int = 1, **switches: bool
    ) -> tuple[bool, float]:
        config = configured(8, 2, deterministic=True, **switches)
        config = dataclasses.replace(config, accumulation=accumulation)
        losses, weights = self.card.train(config, specs)
        efficiency = dataclasses.replace(config.efficiency, cuda_graphs=True)
        captured = dataclasses.replace(config, efficiency=efficiency)
        fast, same = self.card.train(captured, specs)
        return weights == same, max(apart(a, b) for a, b in zip(fast, losses, strict=True))

    def half_precision_learns_the_same(self) -> tuple[str, bool]:
        """bfloat16, and float16 with its scaled loss, beside float32."""
        config = configured(40, 4)
        (exact,), _ = self.card.train(config)
        found, fine = [], True
        for dtype in ("bfloat16", "float16"):
            (losses,), _ = self._card(dtype).train(config)
            pairs = [(a, b) for a, b in zip(losses, exact, strict=True) if a == a]
            gap = abs(sum(a - b for a, b in pairs)) / sum(b for _, b in pairs)
            found.append(f"{dtype} {gap:.1%} apart, {len(losses) - len(pairs)} steps lost")
            fine &= gap < 0.03
        return f"mean loss over 40 steps: {'; '.join(found)}", fine

    def no_step_waits_for_the_host(self) -> tuple[str, bool]:
        """PyTorch tells of each operation that makes the host wait for the card."""
        one = self._waits([AdapterSpec(rank=8)])
        several = self._waits([AdapterSpec(mask, rank=8) for mask in ("all", "out", "mid")])
        captured = self._waits([AdapterSpec(rank=8)], cuda_graphs=True)
        kinds = {"one adapter": one, "three masks": several, "captured": captured}
        words = [
            f"{name}: {sum(places.values())} waits in 17 steps" for name, places in kinds.items()
        ]
        most = (one + several + captured).most_common(4)
        return "; ".join([*words, *(f"{place} {n}" for place, n in most)]), not most

    def _waits(self, specs: Sequence[AdapterSpec], **switches: bool) -> collections.Counter[str]:
        places: collections.Counter[str] = collections.Counter()
        steps = 20

        def listen(step: int) -> None:
            if step == 2:
                torch.cuda.set_sync_debug_mode("warn")
            elif step == steps - 1:
                torch.cuda.set_sync_debug_mode("default")

        def note(message, category, filename, lineno, *rest) -> None:
            # Its own notice, that this mode is a prototype, comes once.
            if "synchroniz" in str(message) and "prototype" not in str(message):
                own = [f for f in traceback.extract_stack() if "blockwise_lora" in f.filename]
                place = f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else filename
                places[place] += 1

        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = note
            self.card.train(configured(steps, 4, **switches), specs, on_step=listen)
        torch.cuda.set_sync_debug_mode("default")
        return places

    def too_little_memory_is_told(self) -> tuple[str, bool]:
        """With the remedy, and with the last saved state kept."""
        states = self.folder / "full"
        config = dataclasses.replace(configured(6, 4), checkpoint_every=2)
        total = torch.cuda.get_device_properties(0).total_memory

        def fill(step: int) -> None:
            if step == 3:
                torch.cuda.empty_cache()
                torch.cuda.set_per_process_memory_fraction(0.01)
                torch.empty(total // 50, device="cuda")

        try:
            self.card.train(config, on_step=fill, states=states)
            return "no error", False
        except TrainingError as error:
            kept = len(list(states.glob("*.safetensors")))
            return f"{error} ({kept} state kept)", "gradient_checkpointing" in str(
                error
            ) and kept > 0
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
            torch.cuda.empty_cache()

    def text_encoder_and_trigger_learn(self) -> tuple[str, bool]:
        """Adapters in the text encoder and a learned word, with what saves memory."""
        config = configured(4, 2, gradient_checkpointing=True, channels_last=True, offload=True)
        trigger = dataclasses.replace(config.trigger_embedding, train=True, initial="cat")
        config = dataclasses.replace(config, trigger="zkc", trigger_embedding=trigger)
        (here,), _ = self.card.train(config, [AdapterSpec("all+base", rank=4)])
        (there,), _ = self.cpu.train(config, [AdapterSpec("all+base", rank=4)])
        return f"losses {apart(here, there):.0e} from the CPU's", apart(here, there) < 1e-3

    def compiled_learns_the_same(self) -> tuple[str, bool]:
        """`efficiency.compile`, by inductor and triton."""
        plain_config, config = configured(12, 4), configured(12, 4, compile=True)
        (plain,), _ = self.card.train(plain_config)
        began = time.perf_counter()
        (fast,), _ = self.card.train(config)
        seconds = time.perf_counter() - began
        return f"losses {apart(fast, plain):.0e} apart, {seconds:.0f} s", apart(fast, plain) < 1e-2

    def run(self, only: Collection[str] = ()) -> list[dict]:
        """All of them, or some; an error is a finding."""
        found = []
        for name, check in vars(type(self)).items():
            if name.startswith("_") or name == "run" or (only and name not in only):
                continue
            began = time.perf_counter()
            try:
                words, holds = check(self)
            except Exception as error:  # the other checks shall still be made
                lines = str(error).splitlines() or [""]
                words, holds = f"{type(error).__name__}: {lines[0]}", False
                traceback.print_exc()
            seconds = round(time.perf_counter() - began, 1)
            found.append({"check": name, "holds": holds, "found": words, "seconds": seconds})
            print(found[-1], flush=True)
        return found
