"""What was measured of each picture does not stay in memory."""

import io
import pickle

import numpy as np
import pytest

from blockwise_lora.atomic import WriteError
from blockwise_lora.imagesets import CurationConfig
from blockwise_lora.imagesets import shelf as shelf_module
from blockwise_lora.imagesets.curation import screen_folder
from blockwise_lora.imagesets.likeness import looks_of
from blockwise_lora.imagesets.shelf import Shelf


@pytest.mark.parametrize("in_memory", [16 << 20, 20_000])
def test_looks_come_back_in_any_order(tmp_path, textured, face, monkeypatch, in_memory):
    monkeypatch.setattr(shelf_module, "_IN_MEMORY", in_memory)
    looks = [looks_of(textured(0, 90, 60)), looks_of(face()), None, looks_of(textured(1))]
    assert [len(look.views) for look in looks if look] == [1, 2, 1]
    with Shelf(tmp_path / "cache") as shelf:
        for look in looks[:2]:
            shelf.put(look.packed())
        assert (shelf[1].views == looks[1].views).all()
        for look in looks[2:]:
            shelf.put(look.packed() if look else b"")
        for number in (3, 0, 1):
            assert (shelf[number].views == looks[number].views).all()
            assert np.array_equal(shelf[number].extent, looks[number].extent)
        with pytest.raises(KeyError):
            shelf[2]
    assert not list((tmp_path / "cache").iterdir()), "nothing stays behind"


def test_a_folder_that_cannot_be_made_is_done_without(tmp_path, textured):
    (tmp_path / "file").write_text("")
    with Shelf(tmp_path / "file" / "cache") as shelf:
        shelf.put(looks_of(textured(0)).packed())
        assert len(shelf[0].views) == 1


def test_a_full_disk_names_the_remedy(tmp_path, textured):
    class Full(io.BytesIO):
        def write(self, data):
            raise OSError(28, "No space left on device")

    with Shelf(tmp_path) as shelf:
        shelf._file.close()
        shelf._file = Full()
        with pytest.raises(WriteError, match=r"No space left on device\); 14 KB of each"):
            shelf.put(looks_of(textured(0)).packed())


def test_a_screening_holds_no_pixels(raw, textured):
    for seed in range(20):
        textured(seed, 32, 32).save(raw / f"{seed}.png")
    screening = screen_folder(raw, CurationConfig(resolution=32))
    assert len(screening.subjects) == 20
    assert len(pickle.dumps(screening)) / 20 < 2500
