"""`kedro` commands, each in a process of its own that has imported everything already.

`KedroForks` is for the tests; run as a program, this file is what it talks to: a process that has
imported all that a command may want and done nothing. Each command is a copy (a fork) of it, since
imports take longer than most of what is tested. A command may be told to kill itself half-way.
What programs that call `kedro` run is forked likewise, if they find it in `KedroForks.programs`.
"""

import gc
import importlib
import json
import os
import signal
import socket
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


# A program called `kedro` that hands its words and its streams on to the process that forks.
KEDRO = """#!{python} -S
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as asked:
    asked.connect({address!r})
    words = json.dumps([os.getcwd(), dict(os.environ), "never", 0, sys.argv[1:]])
    socket.send_fds(asked, [words.encode() + b"\\n"], [1, 2])
    sys.exit(int(asked.makefile().readline()))
"""


class KedroForks:
    """Runs `kedro` commands; to be closed.

    Attributes:
        programs: a folder for the front of PATH. In it lies a `kedro` for programs that call it,
            such as `dvc repro`.
    """

    def __init__(self, folder: Path) -> None:
        """Make what is needed in a folder, whose path must be short, as sockets' paths are."""
        self._address = str(folder / "asked")
        self._server: subprocess.Popen | None = None
        self._programs = folder / "programs"
        self._programs.mkdir()
        program = self._programs / "kedro"
        program.write_text(KEDRO.format(python=sys.executable, address=self._address))
        program.chmod(0o755)

    @property
    def programs(self) -> Path:
        self._begin()
        return self._programs

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
        self._begin()
        command = json.dumps([str(project), dict(environment), moment, number, words])
        with tempfile.TemporaryFile() as said, socket.socket(socket.AF_UNIX) as asked:
            asked.connect(self._address)
            socket.send_fds(asked, [command.encode() + b"\n"], [said.fileno(), said.fileno()])
            status = int(asked.makefile().readline())
            said.seek(0)
            return status, said.read().decode("utf-8", errors="replace")

    def close(self) -> None:
        """End the process; no command may be running."""
        if self._server is not None:
            self._server.terminate()
            self._server.wait(30)

    def _begin(self) -> None:
        if self._server is None:
            self._server = subprocess.Popen(
                [sys.executable, __file__, self._address],
                stdout=subprocess.PIPE,
                text=True,
                cwd=Path(__file__).parents[1],  # where Kedro finds how to log
            )
            assert self._server.stdout.readline() == "ready\n"


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


def child(project, environment, moment, number, words) -> None:
    """One `kedro` command, from its arguments to its exit status."""
    from kedro.framework.cli import main

    from blockwise_lora.diffusion import checkpoints
    from blockwise_lora.diffusion.learner import Learner

    os.chdir(project)
    os.environ.clear()
    os.environ.update(environment)
    if moment == "step":
        Learner.update = killing(Learner.update, number)
    elif moment == "save":
        checkpoints.write_bytes = killing(checkpoints.write_bytes, number, half)
    sys.argv = ["kedro", *words]
    main()


def serve(address: str) -> None:
    """Answer each connection, a line and the streams of a command, by its exit status."""
    ready = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Kedro prints while it is imported
    for module in WANTED_LATER.split():
        importlib.import_module(module)
    gc.freeze()  # else each copy looks through all of it when it ends, for three seconds
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen()
        print("ready", file=ready, flush=True)
        while True:
            asked, _ = listening.accept()
            with asked:
                asked.sendall(f"{forked(asked)}\n".encode())


def forked(asked: socket.socket) -> int:
    """Exit status of the command that is asked for."""
    line, streams, _, _ = socket.recv_fds(asked, 1 << 16, 2)
    while not line.endswith(b"\n"):
        line += asked.recv(1 << 16)
    process = os.fork()
    if not process:
        for stream, given in enumerate(streams, 1):
            os.dup2(given, stream)
        child(*json.loads(line))
    for stream in streams:
        os.close(stream)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


if __name__ == "__main__":
    serve(sys.argv[1])
