"""Run by `test_killed`: `kedro` commands, each in a process of its own, which may kill itself.

    python kill_kedro.py

Each line of the input is one process: `OUTPUT MOMENT NUMBER run --pipelines training ...`, where
OUTPUT is a file for what it says. `step N`: it dies in the middle of the N-th step of all
trainings, between backward pass and update. `save N`: it dies while the N-th file of states is
being written, half of it on the disk. `never 0`: it is left alone. The answer is its exit status.

The processes are copies of this one, which has imported everything and done nothing, since imports
take longer than what is tested here.
"""

import importlib
import os
import signal
import sys

from kedro.framework.cli import main

from blockwise_lora.diffusion import checkpoints
from blockwise_lora.diffusion.learner import Learner

WANTED_LATER = """
    diffusers.models.unets.unet_2d_condition diffusers.models.autoencoders.autoencoder_kl
    diffusers.schedulers.scheduling_ddpm transformers.models.clip.modeling_clip
    transformers.models.clip.tokenization_clip peft.tuners.lora mlflow mlflow.data
    mlflow.store.tracking.sqlalchemy_store kedro.framework.session kedro_datasets.pandas
    kedro_viz.integrations.kedro.hooks blockwise_lora.tracking blockwise_lora.diffusion.trained
    blockwise_lora.datasets.image_set blockwise_lora.pipeline_registry
"""


def killing(function, number, before=lambda *arguments: None):
    """The function, which dies in its N-th call."""
    calls = 0

    def counted(*arguments):
        nonlocal calls
        calls += 1
        if calls == number:
            before(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments)

    return counted


def half(path, data):
    """What an atomic write has done half-way."""
    (path.parent / f".{path.name}.half").write_bytes(data[: len(data) // 2])


def run(output: str, moment: str, number: int, command: list[str]) -> None:
    """The child: one `kedro` command, from its arguments to its exit status."""
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(file, stream)
    if moment == "step":
        Learner.update = killing(Learner.update, number)
    elif moment == "save":
        checkpoints.write_bytes = killing(checkpoints.write_bytes, number, half)
    sys.argv = ["kedro", *command]
    main()


if __name__ == "__main__":
    for module in WANTED_LATER.split():
        importlib.import_module(module)
    for line in sys.stdin:
        output, moment, number, *command = line.split()
        child = os.fork()
        if not child:
            run(output, moment, int(number), command)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
