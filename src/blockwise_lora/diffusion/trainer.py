"""The training loop: cached pictures in, adapters and their loss curves out.

    trained = train(load_base("data/06_models/base"), images, AdapterSpec(), TrainingConfig())
    outcomes = train_many(base, [Job("shallow", images, AdapterSpec("shallow"), config), ...])

Any number of adapters of one model train in one pass, each on its own slice of the batch. A step
draws its pictures, noise levels and noise as a function of (seed, step) alone, so the result
depends on the arguments and not on what the process did before, and a run that was killed ends
with the same bits as one that was not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from blockwise_lora.adapters.attach import Attached
from blockwise_lora.adapters.spec import AdapterSpec
from blockwise_lora.adapters.words import LearnedWord
from blockwise_lora.diffusion.attached import unload
from blockwise_lora.diffusion.base import BaseModel
from blockwise_lora.diffusion.config import TrainingConfig
from blockwise_lora.diffusion.efficiency import efficient, offloaded
from blockwise_lora.diffusion.jobs import Job, members_of
from blockwise_lora.diffusion.learner import TrainingError
from blockwise_lora.diffusion.looks import ALONE, Look, Watching
from blockwise_lora.diffusion.loop import Loop, Member
from blockwise_lora.diffusion.sampling import out_of_memory
from blockwise_lora.imagesets import ImageSet


@dataclass(frozen=True)
class Trained:
    """A finished training; the adapter is in the base model.

    Attributes:
        attached: what was attached, and under which name.
        losses: of every step, each the weighted mean over its batch.
        skipped: steps whose loss or gradient was not finite, so that they changed nothing.
        data_sha256: of the pictures and captions.
        seconds: of this process's share of the training, all adapters of the pass together.
        resumed_from: steps that an earlier process had done.
        looks: at the adapter while it trained, where `validation` asks for them.
        kept: the look whose weights the adapter has; None: it has those of the last step.
        word: the trigger with its own vectors, where these were learned.
        forget: deletes the saved states, once the adapter is safe (`keep_states`).
    """

    attached: Attached
    losses: tuple[float, ...]
    skipped: int
    data_sha256: str
    seconds: float
    resumed_from: int
    looks: tuple[Look, ...] = ()
    kept: Look | None = None
    word: LearnedWord | None = None
    forget: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Failed:
    """A training that came to nothing; the others of its pass are not touched by it.

    Attributes:
        name: the job's.
        error: why, with the remedy.
    """

    name: str
    error: TrainingError


def train(
    base: BaseModel,
    images: ImageSet,
    spec: AdapterSpec,
    config: TrainingConfig,
    *,
    name: str = "adapter",
    checkpoint_dir: Path | None = None,
    cache_dir: Path | None = None,
    on_step: Callable[[int], None] | None = None,
    watching: Watching = ALONE,
    keep_states: bool = False,
) -> Trained:
    """Train one adapter, which is active at the end.

    Args and errors are those of `train_many`; a failed training raises its error.
    """
    outcomes = train_many(
        base,
        [Job(name, images, spec, config)],
        checkpoint_dir=checkpoint_dir,
        cache_dir=cache_dir,
        on_step=on_step,
        watching=watching,
        keep_states=keep_states,
    )
    return all_trained(outcomes)[0]


def train_many(
    base: BaseModel,
    jobs: Sequence[Job],
    *,
    checkpoint_dir: Path | None = None,
    cache_dir: Path | None = None,
    on_step: Callable[[int], None] | None = None,
    watching: Watching = ALONE,
    keep_states: bool = False,
) -> list[Trained | Failed]:
    """Train several adapters of one model in one pass.

    Each is what it would be if it were trained alone, but for rounding: matrix products of
    another size add up in another order. Jobs of one picture set and one configuration share
    noise, timesteps and text, and with them the work before the first block that any of them
    trains.

    Args:
        base: the model; on an error it is as before.
        jobs: what to train, under different names.
        checkpoint_dir: where states are saved to go on from; None: nowhere.
        cache_dir: where latents, embeddings and class pictures are kept for other runs; None:
            nowhere.
        on_step: called after each step with the number of steps done.
        watching: what the looks at the adapters need, and whom they are told to.
        keep_states: whether saved states stay after success, until `Trained.forget`: so that a
            full disk or a kill while the adapter is being written costs no more than one at work.

    Returns:
        For each job its outcome; all trained adapters are attached, the last one is active.

    Raises:
        MaskError: a mask does not fit the model.
        ResolutionError: the pictures' size does not.
        CaptionError: prior preservation or a learned trigger needs one, and captions lack it.
        OptimizerError: the optimiser is not installed or cannot do what is asked.
        TrainingError: no pictures, no memory, or float16 where the device lacks it.
    """
    for job in jobs:
        _check(base, job)
    done: list[Attached] = []
    try:
        with _explained(jobs), efficient(base, [job.config.efficiency for job in jobs]):
            members, adapters = members_of(base, jobs, cache_dir, done, watching)
            began = time.monotonic()
            offload = any(job.config.efficiency.offload for job in jobs)
            with offloaded(base, offload, not any(m.learns_text for m in members)):
                graphs = any(job.config.efficiency.cuda_graphs for job in jobs)
                # OFT's layers solve equations, and the host reads whether there was a solution.
                graphs &= all(job.spec.method != "oft" for job in jobs)
                loop = Loop(base, members, adapters, checkpoint_dir, watching, offload, graphs)
                loop.run(on_step)
            seconds = time.monotonic() - began
    except BaseException:
        for attached in done:
            unload(base, attached.name)
        raise
    for member in members:
        if member.learner.failure:
            unload(base, member.learner.name)
    base.vocabulary.act([jobs[-1].name])
    outcomes = [
        _outcome(base, job, attached, member, seconds, loop.forgetting(member.key))
        for job, attached, member in zip(jobs, done, members, strict=True)
    ]
    for outcome in outcomes:
        if isinstance(outcome, Trained) and not keep_states:
            outcome.forget()
    return outcomes


def all_trained(outcomes: Sequence[Trained | Failed]) -> list[Trained]:
    """Outcomes of a pass that are of use only together.

    Returns:
        The same; saved states are deleted when the last of them is to be forgotten, since those
        of an adapter count only beside those that were saved with them.

    Raises:
        TrainingError: the first failure.
    """
    trained = []
    for outcome in outcomes:
        if isinstance(outcome, Failed):
            raise outcome.error
        trained.append(outcome)
    waiting = {outcome.attached.name for outcome in trained}

    def forget(name: str) -> None:
        waiting.discard(name)
        if not waiting:
            for outcome in trained:
                outcome.forget()

    return [replace(x, forget=partial(forget, x.attached.name)) for x in trained]


def _outcome(
    base: BaseModel,
    job: Job,
    attached: Attached,
    member: Member,
    seconds: float,
    forget: Callable[[], None],
) -> Trained | Failed:
    learner = member.learner
    if learner.failure:
        return Failed(job.name, learner.failure)
    return Trained(
        attached,
        tuple(learner.losses()),
        learner.skipped(),
        job.images.sha256,
        seconds,
        member.resumed_from,
        tuple(member.watcher.looks),
        member.watcher.best,
        base.vocabulary.learned(job.name),
        forget,
    )


def _check(base: BaseModel, job: Job) -> None:
    if not len(job.images):
        raise TrainingError(f"{job.images.root}: no pictures to train on. Curate some first.")


@contextmanager
def _explained(jobs: Sequence[Job]) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if out_of_memory(error):
            several = f", {len(jobs)} adapters in a pass" if len(jobs) > 1 else ""
            fewer = " or the number of adapters (sweep.at_once)" if several else ""
            raise TrainingError(
                f"out of memory at batch size {jobs[0].config.batch_size}{several}. Lower "
                f"training.batch_size{fewer}, or set "
                f"training.efficiency.gradient_checkpointing: true; then run again."
            ) from error
        if "'Half'" in str(error):  # "... not implemented for 'Half'"
            raise TrainingError(
                f"base_model.dtype: this device cannot train in float16 "
                f"({str(error).splitlines()[0]}). Take bfloat16 or float32."
            ) from error
        raise
