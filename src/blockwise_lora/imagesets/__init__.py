"""Reading, screening, captioning and writing sets of pictures."""

from blockwise_lora.imagesets.errors import ImageSetError
from blockwise_lora.imagesets.imagefolder import read_imagefolder, write_imagefolder
from blockwise_lora.imagesets.images import ImageSet, Picture, pixel_hash

__all__ = [
    "ImageSet",
    "ImageSetError",
    "Picture",
    "pixel_hash",
    "read_imagefolder",
    "write_imagefolder",
]
