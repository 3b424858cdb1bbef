"""Processes of commands begin and end quickly."""

import atexit
import gc
import sys

_NEW_OBJECTS = 100_000
"""Between two looks for garbage; a training step adds none."""


def lean() -> None:
    """Leave out what takes seconds of each process and is of no use to it. For commands alone.

    PEFT and diffusers import bitsandbytes wherever it is installed, and with it PyTorch's compiler:
    a fifth of every start, for 4-bit layers that nothing here has. Its optimiser is found all the
    same (diffusion/optimizers.py).

    Python looks for cycles that could be freed whenever 700 objects have been added, and imports
    add hundreds of thousands that all stay: a tenth of a short run. At its end it looks through all
    of them once more, which takes two seconds of ten; the system frees them in no time.
    """
    sys.modules.setdefault("bitsandbytes", None)
    gc.set_threshold(_NEW_OBJECTS, *gc.get_threshold()[1:])
    atexit.register(gc.freeze)
