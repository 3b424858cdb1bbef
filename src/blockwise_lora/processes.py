"""Processes of commands begin and end quickly."""

import atexit
import gc
import sys


def lean() -> None:
    """Leave out what takes seconds of each process and is of no use to it. For commands alone.

    PEFT and diffusers import bitsandbytes wherever it is installed, and with it PyTorch's compiler:
    a fifth of every start, for 4-bit layers that nothing here has. Its optimiser is found all the
    same (diffusion/optimizers.py).

    At its end, Python looks through all that was imported for cycles that could be freed, which
    takes two seconds of ten; the system frees all of it in no time.
    """
    sys.modules.setdefault("bitsandbytes", None)
    atexit.register(gc.freeze)
