"""Kedro's settings for this project."""

from blockwise_lora.hooks import ParameterHooks, TrackingHooks
from blockwise_lora.processes import lean

lean()

HOOKS = (ParameterHooks(), TrackingHooks())

# An environment's file changes single values inside a parameter group, not the whole group.
CONFIG_LOADER_ARGS = {
    "base_env": "base",
    "default_run_env": "local",
    "merge_strategy": {"parameters": "soft"},
}
