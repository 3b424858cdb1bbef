"""Kedro's settings for this project."""

import sys

from blockwise_lora.hooks import ParameterHooks, TrackingHooks

# PEFT and diffusers import bitsandbytes wherever it is installed, and with it PyTorch's compiler: a
# fifth of every start, for 4-bit layers that nothing here has. Its optimiser is found all the same
# (diffusion/optimizers.py).
sys.modules.setdefault("bitsandbytes", None)

HOOKS = (ParameterHooks(), TrackingHooks())

# An environment's file changes single values inside a parameter group, not the whole group.
CONFIG_LOADER_ARGS = {
    "base_env": "base",
    "default_run_env": "local",
    "merge_strategy": {"parameters": "soft"},
}
