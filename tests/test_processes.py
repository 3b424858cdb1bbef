import subprocess
import sys

# What is registered first runs last.
CODE = """
import atexit, gc, sys
atexit.register(lambda: print(gc.get_freeze_count()))
import torch
import blockwise_lora.settings, blockwise_lora.diffusion.trainer
from blockwise_lora.diffusion.config import OptimizerConfig
from blockwise_lora.diffusion.optimizers import Group, make_optimizer
assert sys.modules["bitsandbytes"] is None
assert "torch._inductor.compile_fx" not in sys.modules
weights = torch.nn.Parameter(torch.ones(8, 8))
make_optimizer([Group((weights,))], OptimizerConfig("adamw8bit"))
assert sys.modules["bitsandbytes"] is not None
assert gc.get_threshold()[0] == 100_000
"""


def test_a_kedro_process_imports_no_compiler_and_ends_without_looking_through_all():
    """Bitsandbytes is hidden from all but its optimiser."""
    done = subprocess.run([sys.executable, "-c", CODE], check=True, stdout=subprocess.PIPE)
    assert int(done.stdout.split()[-1]) > 100_000
