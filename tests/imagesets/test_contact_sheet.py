import numpy as np
from PIL import Image

from blockwise_lora.imagesets import CaptionRule, CurationConfig, contact_sheet, curate

RULE = CaptionRule("zkc", "cat face")


def test_kept_and_dropped_are_drawn(raw, textured):
    Image.new("RGB", (64, 64), (0, 200, 0)).save(raw / "green.png")
    Image.new("RGB", (20, 20), (0, 0, 200)).save(raw / "small blue.png")
    (raw / "broken.png").write_text("no picture")
    images, report = curate(raw, RULE, CurationConfig())
    sheet = contact_sheet(images, report)
    pixels = np.asarray(sheet).reshape(-1, 3).tolist()
    assert pixels.count([0, 200, 0]) == pixels.count([0, 0, 200]) == 112 * 112
    assert sheet.tobytes() == contact_sheet(images, report).tobytes()


def test_its_size_is_limited(raw, textured):
    for seed in range(20):
        textured(seed).save(raw / f"{seed:02}.png")
    images, report = curate(raw, RULE, CurationConfig())
    limited = contact_sheet(images, report, limit=8)
    assert limited.width == contact_sheet(images, report).width
    assert limited.height < contact_sheet(images, report).height


def test_names_and_captions_of_any_length_and_script(raw, textured):
    textured(0).save(raw / ("x" * 100 + ".png"))
    (raw / ("x" * 100 + ".txt")).write_text("猫の顔 " * 50, encoding="utf-8")
    contact_sheet(*curate(raw, RULE, CurationConfig()))


def test_flagged_pictures_come_first_and_say_why(raw, textured):
    for seed in range(3):
        textured(seed).save(raw / f"{seed}.png")
    Image.new("RGB", (64, 64), (0, 0, 30)).save(raw / "night.png")
    images, report = curate(raw, RULE, CurationConfig())
    assert [v.flags for v in report.kept][3] == ("dark (3)",)
    sheet = np.asarray(contact_sheet(images, report))
    first = sheet[26 : 26 + 112, 8 : 8 + 112]
    assert (first == (0, 0, 30)).all()
    orange = (np.abs(sheet.astype(int) - (190, 100, 0)).max(axis=2) < 8).any(axis=0).nonzero()[0]
    assert 8 <= orange.min() <= orange.max() < 120, "under the first picture alone"
