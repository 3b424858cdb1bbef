"""`kedro` commands, each in a process of its own that has imported everything already.

`KedroForks` is for the tests; run as a program, this file is what it talks to: a process that has
imported all that a command may want and done nothing. Each command is a copy (a fork) of it, since
imports take longer than most of what is tested. A command may be told to kill itself half-way.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

WANTED_LATER = """
    diffusers.models.unets.unet_2d_condition diffusers.models.autoencoders.autoencoder_kl
    diffusers.schedulers.scheduling_ddpm transformers.models.clip.modeling_clip
    transformers.models.clip.tokenization_clip peft.tuners.lora mlflow mlflow.data
    mlflow.store.tracking.sqlalchemy_store kedro.framework.session kedro.framework.cli
    kedro_datasets.pandas kedro_viz.integrations.kedro.hooks blockwise_lora.tracking
    blockwise_lora.diffusion.trained blockwise_lora.datasets.image_set
    blockwise_lora.pipeline_registry
"""


class KedroForks:
    """Runs `kedro` commands; to be closed."""

    def __init__(self) -> None:
        self._server: subprocess.Popen | None = None

    def run(
        self,
        project: Path,
        environment: Mapping[str, str],
        *words: str,
        moment: str = "never",
        number: int = 0,
    ) -> tuple[int, str]:
        """Exit status and output of `kedro` with these words.

        Args:
            project: folder that it runs in.
            environment: all of its variables.
            words: such as "run", "--pipelines", "training".
            moment: `step` or `save`: it kills itself in the middle of the `number`-th step of all
                trainings, between backward pass and update, or while the `number`-th file of states
                is being written, half of it on the disk. `never`: it is left alone.
            number: see there.
        """
        if self._server is None:
            self._server = subprocess.Popen(
                [sys.executable, __file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=Path(__file__).parents[1],  # where Kedro finds how to log
            )
        with tempfile.NamedTemporaryFile(suffix=".txt") as said:
            command = [str(project), dict(environment), said.name, moment, number, words]
            print(json.dumps(command), file=self._server.stdin, flush=True)
            status = int(self._server.stdout.readline())
            return status, said.read().decode("utf-8", errors="replace")

    def close(self) -> None:
        """End the process; no command may be running."""
        if self._server is not None:
            self._server.stdin.close()
            self._server.wait(30)


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


def child(project, environment, output, moment, number, words) -> None:
    """One `kedro` command, from its arguments to its exit status."""
    from kedro.framework.cli import main

    from blockwise_lora.diffusion import checkpoints
    from blockwise_lora.diffusion.learner import Learner

    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    file = os.open(output, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.chdir(project)
    os.environ.clear()
    os.environ.update(environment)
    if moment == "step":
        Learner.update = killing(Learner.update, number)
    elif moment == "save":
        checkpoints.write_bytes = killing(checkpoints.write_bytes, number, half)
    sys.argv = ["kedro", *words]
    main()


def serve() -> None:
    """Answer each line of input, a command, by its exit status."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Kedro prints while it is imported
    for module in WANTED_LATER.split():
        importlib.import_module(module)
    for line in sys.stdin:
        process = os.fork()
        if not process:
            child(*json.loads(line))
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        print(status, file=answers, flush=True)


if __name__ == "__main__":
    serve()
