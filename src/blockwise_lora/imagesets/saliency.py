"""Where a picture's subject is: what differs most from the rest of it.

Frequency-tuned saliency (Achanta et al., "Frequency-tuned salient region detection", CVPR 2009):
a place is salient by how far its colour is from the picture's mean, both in Lab, after small
details were smoothed away. The focal point is the centre of mass of what is clearly salient.
"""

import numpy as np
from PIL import Image, ImageFilter

_SIDE = 64  # pixels of the longer side, where details are gone
_CLEAR = 2.0  # times the mean saliency, as in the paper


def focal_point(image: Image.Image) -> tuple[float, float]:
    """The subject's centre as (x, y), each from 0 to 1; the picture's own where nothing stands out.

    Args:
        image: RGB.
    """
    small = image.copy()
    small.thumbnail((_SIDE, _SIDE), Image.Resampling.BOX)
    lab = np.asarray(small.filter(ImageFilter.GaussianBlur(1)).convert("LAB"), np.float32)
    # Pillow keeps a and b as signed bytes.
    lab[..., 1:] = (lab[..., 1:] + 128) % 256
    salient = ((lab - lab.mean(axis=(0, 1))) ** 2).sum(axis=2)
    salient[salient < _CLEAR * salient.mean()] = 0
    total = salient.sum()
    if total <= 0:
        return 0.5, 0.5
    height, width = salient.shape
    x = (salient.sum(axis=0) @ (np.arange(width) + 0.5)) / total / width
    y = (salient.sum(axis=1) @ (np.arange(height) + 0.5)) / total / height
    return round(float(x), 3), round(float(y), 3)
