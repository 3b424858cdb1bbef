"""The user's mistakes, told in plain words."""

import logging
import sys
from typing import Any

import click

from blockwise_lora.errors import UserError


class PlainErrors:
    """A mix-in for commands and groups: `UserError`s are shown without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; exit with status 1 after a user's mistake."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            mistake = user_error(error)
            if mistake is None:
                raise
            logging.getLogger(__name__).debug("traceback", exc_info=True)
            click.secho(f"\nError: {mistake}", fg="red", err=True)
            sys.exit(1)


class PlainCommand(PlainErrors, click.Command):
    """A command of this kind."""


def user_error(error: BaseException | None) -> UserError | None:
    """The user's mistake behind an error: Kedro wraps what datasets raise in its own."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__ or error.__context__
    return error
