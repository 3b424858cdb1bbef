"""Errors that are the user's to mend, as opposed to bugs."""


class UserError(Exception):
    """A mistake in files, parameters or the machine that the user can put right.

    The message is shown as it is: it says what is wrong, where (file or parameter), and what
    to do about it. Each package derives its own, so that callers can tell them apart.
    """
