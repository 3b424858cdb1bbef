import numpy as np
from PIL import Image

from blockwise_lora.imagesets import CaptionRule, CurationConfig, curate
from blockwise_lora.imagesets.figures import duplicate_sheet, histograms

RULE = CaptionRule("zkc", "cat face")


def report_on(folder):
    return curate(folder, RULE, CurationConfig())[1]


def test_copies_lie_beside_their_original(raw):
    Image.new("RGB", (64, 64), (0, 200, 0)).save(raw / "a.png")
    Image.new("RGB", (64, 64), (0, 200, 0)).save(raw / "b.bmp")
    sheet = np.asarray(duplicate_sheet(report_on(raw))).reshape(-1, 3).tolist()
    assert sheet.count([0, 200, 0]) == 2 * 112 * 112


def test_a_set_without_copies_has_a_sheet_that_says_so(raw, textured):
    textured(0).save(raw / "a.png")
    (raw / "broken.png").write_text("x")
    assert duplicate_sheet(report_on(raw)).height < 300


def test_histograms_show_what_was_kept_and_what_was_dropped(raw, textured):
    textured(0).save(raw / "a.png")
    only = histograms(report_on(raw))
    assert only.size == (900, 620)
    textured(1, 20, 20).save(raw / "small.png")
    both = np.asarray(histograms(report_on(raw)))
    red = np.abs(both.astype(int) - (0xB0, 0x20, 0x20)).max(axis=2) < 8
    assert red.sum() > 100
    assert both.shape == np.asarray(only).shape
