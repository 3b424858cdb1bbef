"""Sub-folders that count alike, and pictures that are too much alike."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from blockwise_lora.imagesets.config import CurationConfig
from blockwise_lora.imagesets.likeness import Looks
from blockwise_lora.imagesets.likeness.looks import SIDE
from blockwise_lora.imagesets.screening import Screened

_FEWEST = 8  # pictures; below this nothing can be said to dominate
_MOST = 1000  # pictures, spread over the set, that say it of all
_SHARE = 0.6  # of the pictures
_GROUND_NEAR = 24  # 0 to 255, of two mean border colours
_POSE_NEAR = 0.9  # cosine of two outlines


def balanced(pictures: Sequence[Screened], config: CurationConfig) -> list[Screened]:
    """Show pictures of small sub-folders more often, so that each sub-folder counts alike.

    A picture is shown at most `most_repeats` times: one that is alone in its folder would
    otherwise be learnt by heart. The number in a folder's name (`10_cat`) is a person's and stays.
    """
    kept = [p for p in pictures if p.verdict.kept]
    counts = Counter(_folder(p) for p in kept)
    if not config.balance or len(counts) < 2:
        return list(pictures)
    largest = max(counts.values())
    return [
        p
        if not p.verdict.kept or p.candidate.repeats != 1
        else _repeated(p, min(config.most_repeats, round(largest / counts[_folder(p)])))
        for p in pictures
    ]


def dominance(pictures: Sequence[Screened], looks_of: Callable[[int], Looks]) -> list[str]:
    """Warnings where one background or one pose makes up most of the set, in words.

    Args:
        pictures: those that were dropped do not count.
        looks_of: the looks of the picture at a place among them.
    """
    kept = [place for place, picture in enumerate(pictures) if picture.verdict.kept]
    kept = kept[:: -(-len(kept) // _MOST) or 1]
    if len(kept) < _FEWEST:
        return []
    views = [looks_of(place).views[0] for place in kept]
    found = []
    grounds = np.stack([_ground(view) for view in views])
    near = np.abs(grounds[:, None] - grounds).max(axis=2) <= _GROUND_NEAR
    if (share := near.mean(axis=1).max()) > _SHARE:
        red, green, blue = grounds[near.mean(axis=1).argmax()].astype(int)
        found.append(
            f"{share:.0%} of the pictures have the same background, "
            f"#{red:02x}{green:02x}{blue:02x}, which the adapter will learn; add pictures with "
            "others, or train with masks"
        )
    outlines = np.stack([_outline(view) for view in views])
    alike = (outlines @ outlines.T) >= _POSE_NEAR
    if (share := alike.mean(axis=1).max()) > _SHARE:
        found.append(
            f"{share:.0%} of the pictures show the subject in the same pose and place, which the "
            "adapter will learn; add pictures with others"
        )
    return found


def _folder(picture: Screened) -> str:
    return picture.candidate.file.rpartition("/")[0]


def _repeated(picture: Screened, repeats: int) -> Screened:
    return replace(picture, verdict=replace(picture.verdict, repeats=max(1, repeats)))


def _ground(view: np.ndarray) -> np.ndarray:
    """Median colour of a view's border, (3,)."""
    edge = np.concatenate([view[0], view[-1], view[:, 0], view[:, -1]])
    return np.median(edge, axis=0)


def _outline(view: np.ndarray) -> np.ndarray:
    """Unit vector of where a view differs from its background, without its mean."""
    view = view.astype(np.float32)
    differs = np.abs(view - _ground(view)).max(axis=2)
    coarse = differs.reshape(SIDE // 4, 4, SIDE // 4, 4).mean(axis=(1, 3)).ravel()
    coarse = coarse - coarse.mean()
    return coarse / max(float(np.linalg.norm(coarse)), 1e-6)
