"""What can be wrong with a picture set."""

from blockwise_lora.errors import UserError


class ImageSetError(UserError):
    """A folder of pictures, its metadata or a picture in it cannot be used."""
