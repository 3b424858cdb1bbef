"""Block-wise LoRA: train adapters on chosen blocks of a U-Net, stack them, compare."""

import logging

__version__ = "0.1.0"

# PEFT imports bitsandbytes where it is installed, which then warns of a 4-bit kernel that nothing
# here asks for.
logging.getLogger("bitsandbytes.backends").setLevel(logging.ERROR)
