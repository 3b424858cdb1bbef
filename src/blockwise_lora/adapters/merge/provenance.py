"""What a merge's metadata says: which adapters, by hash, and by which rule."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence

from torch import Tensor

from blockwise_lora.adapters.merge.parts import Weighted
from blockwise_lora.adapters.metadata import FAMILY
from blockwise_lora.adapters.tensorfile import encode
from blockwise_lora.adapters.updates import Update

MERGE = "blockwise_lora.merge"


def provenance(adapters: Sequence[Weighted], rule: object) -> dict[str, str]:
    """The metadata: rule and parameters; adapters with name, hash, mask and weight; base's family.

    It has no times and no paths, so that equal merges make equal files.
    """
    parameters = {f.name: _plain(getattr(rule, f.name)) for f in dataclasses.fields(rule)}
    parents = [
        {
            "name": weighted.name,
            "sha256": weighted.adapter.sha256,
            "mask": None if weighted.adapter.spec is None else weighted.adapter.spec.blocks,
            "weight": _plain(weighted.weight),
        }
        for weighted in adapters
    ]
    entry = {"rule": rule.name, "parameters": parameters, "adapters": parents}
    # Files of other tools name the layers by it.
    families = {weighted.adapter.metadata.get(FAMILY) for weighted in adapters} - {None}
    family = {FAMILY: families.pop()} if len(families) == 1 else {}
    return {MERGE: json.dumps(entry, sort_keys=True)} | family


def content_hash(updates: Mapping[str, Update], metadata: Mapping[str, str]) -> str:
    """What takes the place of a file's hash until an adapter is written."""
    tensors = {f"{m}.{key}": t for m, u in updates.items() for key, t in u.tensors().items()}
    scales = json.dumps({module: update.scale for module, update in updates.items()})
    return hashlib.sha256(encode(tensors, {**metadata, "scales": scales})).hexdigest()


def _plain(value: object) -> object:
    """Values as JSON; a table of tensors by its hash."""
    if isinstance(value, Mapping) and any(isinstance(v, Tensor) for v in value.values()):
        digest = hashlib.sha256()
        for name, tensor in sorted(value.items()):
            digest.update(name.encode())
            digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value
