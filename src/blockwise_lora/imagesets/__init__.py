"""Reading, screening, captioning and writing sets of pictures."""

from blockwise_lora.imagesets.captioning import CaptioningConfig, CaptionRule
from blockwise_lora.imagesets.config import CurationConfig
from blockwise_lora.imagesets.contact_sheet import contact_sheet
from blockwise_lora.imagesets.copies import Copies, find_copies
from blockwise_lora.imagesets.curation import caption_pictures, curate, screen_folder
from blockwise_lora.imagesets.errors import ImageSetError
from blockwise_lora.imagesets.imagefolder import read_imagefolder, write_imagefolder
from blockwise_lora.imagesets.images import ImageSet, Picture, pixel_hash
from blockwise_lora.imagesets.report import CurationReport
from blockwise_lora.imagesets.screening import Verdict

__all__ = [
    "curate",
    "screen_folder",
    "caption_pictures",
    "CaptionRule",
    "CaptioningConfig",
    "CurationConfig",
    "CurationReport",
    "Verdict",
    "contact_sheet",
    "Copies",
    "find_copies",
    "ImageSet",
    "ImageSetError",
    "Picture",
    "pixel_hash",
    "read_imagefolder",
    "write_imagefolder",
]
