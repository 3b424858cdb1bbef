"""Run by `test_killed`: a `kedro` command in a process that kills itself at a given moment.

    python kill_kedro.py step N run --pipelines training ...

`step N`: it dies in the middle of the N-th step of all trainings, between backward pass and update.
`save N`: it dies while the N-th file of states is being written, half of it on the disk.
"""

import os
import signal
import sys

from kedro.framework.cli import main

from blockwise_lora.diffusion import checkpoints
from blockwise_lora.diffusion.learner import Learner


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


if __name__ == "__main__":
    moment, number = sys.argv[1], int(sys.argv[2])
    if moment == "step":
        Learner.update = killing(Learner.update, number)
    else:
        checkpoints.write_bytes = killing(checkpoints.write_bytes, number, half)
    sys.argv = ["kedro", *sys.argv[3:]]
    main()
