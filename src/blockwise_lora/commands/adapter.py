"""`adapter`: what can be done with masks and adapter files outside of a run.

The module `adapter_NAME.py` beside this one holds the subcommand NAME, a click command of that
name. It is imported when the command is called or helped with, and leaves torch and its kin to
its functions, so that `--help` answers at once.
"""

import pkgutil
from importlib import import_module

import click

from blockwise_lora import commands
from blockwise_lora.commands.plain import PlainErrors

_PREFIX = "adapter_"


class AdapterGroup(PlainErrors, click.Group):
    """A group whose members are the modules beside this one."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The subcommands' names, sorted."""
        names = (module.name for module in pkgutil.iter_modules(commands.__path__))
        return sorted(name.removeprefix(_PREFIX) for name in names if name.startswith(_PREFIX))

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import one subcommand; None where there is none of the name."""
        if name not in self.list_commands(ctx):
            return None
        module = import_module(f"{commands.__name__}.{_PREFIX}{name}")
        return getattr(module, name)


@click.group(cls=AdapterGroup, context_settings={"help_option_names": ["-h", "--help"]})
def adapter() -> None:
    """Look into masks, blocks and adapter files; convert and merge them."""
