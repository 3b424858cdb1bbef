"""The error of this package."""

from blockwise_lora.errors import UserError


class MergeError(UserError):
    """Adapters that cannot be merged as asked."""
