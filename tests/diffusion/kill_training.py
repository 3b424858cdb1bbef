"""Run by `test_resume`: trains in processes that kill themselves at a given moment.

    python kill_training.py BASE PICTURES

Each line of the input is one process: `CHECKPOINTS OUT JOBS [step N | save N]`. `step N`: it dies
in the middle of step N, between backward pass and update. `save N`: it dies while the N-th file of
states is being written, half of it on the disk. The answer is a line with its exit status and the
steps from which each job went on.
"""

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from blockwise_lora import atomic
from blockwise_lora.adapters import AdapterSpec, trainable_parameters
from blockwise_lora.diffusion.base import BaseModel, load_base
from blockwise_lora.diffusion.config import TrainingConfig, TriggerEmbeddingConfig
from blockwise_lora.diffusion.learner import Learner
from blockwise_lora.diffusion.trainer import Job, train_many
from blockwise_lora.imagesets import ImageSet, read_imagefolder

SPECS = {
    "a": AdapterSpec("mid+out2", "locon", 2),
    "b": AdapterSpec("out1-out3", "lora", 3),
    "c": AdapterSpec("out3", "locon", 2),
    "s": AdapterSpec("out2", "locon", 2),
    "t": AdapterSpec("mid+base", "lora", 2),
}
CONFIG = TrainingConfig(steps=7, batch_size=2, learning_rate=1e-2, checkpoint_every=2)
LEARN = TriggerEmbeddingConfig(True, tokens=2, learning_rate=1e-2, initial="cat")
CONFIGS = {
    "s": replace(CONFIG, steps=3),
    "t": replace(CONFIG, trigger="zkc", trigger_embedding=LEARN),
}


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_in_step(number: int) -> None:
    update = Learner.update

    def killing(self, loss):
        if self.step + 1 == number:
            kill()
        update(self, loss)

    Learner.update = killing


def kill_in_save(number: int) -> None:
    fdopen, count = os.fdopen, 0

    def halved(handle, mode):
        nonlocal count
        count += 1
        if count < number:
            return fdopen(handle, mode)
        file = fdopen(handle, mode)

        class Half:
            def __enter__(self):
                return self

            def __exit__(self, *error):
                file.close()

            def write(self, data):
                file.write(data[: len(data) // 2])
                file.flush()
                kill()

        return Half()

    atomic.os.fdopen = halved


def train(base: BaseModel, images: ImageSet, checkpoints: str, out: str, jobs: str) -> None:
    outcomes = train_many(
        base,
        [Job(name, images, SPECS[name], CONFIGS.get(name, CONFIG)) for name in jobs],
        checkpoint_dir=Path(checkpoints),
    )
    tensors = {}
    for name, outcome in zip(jobs, outcomes, strict=True):
        values = trainable_parameters(base.parts, name)
        tensors |= {f"{name}{i}": p.detach().contiguous() for i, p in enumerate(values)}
        if outcome.word:
            tensors[f"{name}/word"] = outcome.word.vectors[0]
        tensors[f"{name}/losses"] = torch.tensor(outcome.losses)
    save_file(tensors, out)
    print(*(outcome.resumed_from for outcome in outcomes), end=" ", flush=True)


def main(base: str, pictures: str) -> None:
    model, images = load_base(base), read_imagefolder(Path(pictures))
    for line in sys.stdin:
        checkpoints, out, jobs, *moment = line.split()
        # A copy of this process, which has loaded everything, but has trained nothing.
        child = os.fork()
        if not child:
            if moment:
                {"step": kill_in_step, "save": kill_in_save}[moment[0]](int(moment[1]))
            train(model, images, checkpoints, out, jobs)
            os._exit(0)
        print("status", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
