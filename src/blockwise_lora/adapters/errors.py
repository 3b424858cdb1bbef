"""The error of this package."""

from blockwise_lora.errors import UserError


class AdapterError(UserError):
    """An adapter that cannot be attached, written or read."""
