"""Copies are found however they were changed; other pictures are not."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageOps

from blockwise_lora.imagesets.likeness import Limits, Search, looks_of


@pytest.fixture
def photo(textured):
    return textured(3, 160, 160)


def drawn(mouth, skin="#f3d2a2"):
    image = Image.new("RGB", (256, 256), "white")
    pen = ImageDraw.Draw(image)
    pen.ellipse((40, 40, 216, 216), fill=skin, outline="black", width=6)
    for x in (96, 160):
        pen.ellipse((x - 10, 92, x + 10, 122), fill="black")
    pen.arc((88, 120, 168, 190), *mouth, fill="black", width=8)
    return image.resize((128, 128), Image.Resampling.LANCZOS)


SMILE, FROWN = (20, 160), (200, 340)


def encoded(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return Image.open(buffer).convert("RGB")


def marked(image):
    layer = Image.new("L", image.size, 0)
    ImageDraw.Draw(layer).text((10, image.height - 24), "mine.com", 90, font_size=16)
    image = image.copy()
    image.paste((60, 60, 60), (0, 0, *image.size), layer)
    return image


CHANGES = {
    "jpeg": lambda im: encoded(im, format="JPEG", quality=60),
    "smaller": lambda im: im.resize([s * 6 // 10 for s in im.size], Image.Resampling.LANCZOS),
    "cropped": lambda im: im.crop((5, 3, im.width - 4, im.height - 6)),
    "framed": lambda im: ImageOps.expand(im, 12, "black"),
    "framed white": lambda im: ImageOps.expand(im, 9, "white"),
    "tinted": lambda im: Image.fromarray(np.rint(np.asarray(im) * (1, 0.92, 0.8)).astype(np.uint8)),
    "turned": lambda im: im.rotate(3, Image.Resampling.BICUBIC, fillcolor="white"),
    "marked": marked,
}


def found(original, other, **options):
    looks = [looks_of(original), looks_of(other)]
    search = Search(Limits(), looks.__getitem__, **options)
    assert search.add([0]) == {}
    return search.add([1]).get(1)


@pytest.mark.parametrize("change", CHANGES)
def test_copies_of_a_photograph_and_of_a_drawing(photo, change):
    for original in (photo, drawn(SMILE)):
        match = found(original, CHANGES[change](original))
        assert match is not None
        assert match.key == 0
        assert match.difference <= 35


def test_a_mark_that_is_most_of_what_a_plain_sky_shows_leads_nothing_astray():
    coarse = np.random.default_rng(1).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    clouds = Image.fromarray(coarse).resize((160, 160), Image.Resampling.BICUBIC)
    sky = Image.blend(Image.new("RGB", clouds.size, (140, 160, 190)), clouds, 0.2)
    layer = Image.new("L", sky.size, 0)
    ImageDraw.Draw(layer).text((8, 60), "mine.com", 140, font_size=24)
    copy = sky.copy()
    copy.paste((255, 255, 255), (0, 0, *sky.size), layer)
    assert found(sky, copy).difference > 35 / 2


def test_other_pictures_are_no_copies(photo, textured):
    assert found(photo, textured(4, 160, 160)) is None
    assert found(drawn(SMILE), drawn(FROWN)) is None
    assert found(drawn(SMILE), drawn(SMILE, "#d5ab88")) is None
    # A small and a large drawing of one thing are two pictures.
    small = Image.new("RGB", (128, 128), "white")
    small.paste(drawn(SMILE).resize((64, 64)), (32, 32))
    assert found(drawn(SMILE), small) is None


def test_mirror_images_only_when_asked(photo):
    mirrored = ImageOps.mirror(photo)
    assert found(photo, mirrored) is None
    assert found(photo, mirrored, mirrored=True).key == 0
    assert found(photo, CHANGES["turned"](mirrored), mirrored=True).key == 0


def test_of_one_batch_the_first_is_kept_and_groups_do_not_chain(photo, textured):
    copies = [photo, CHANGES["jpeg"](photo), textured(5, 160, 160), CHANGES["smaller"](photo)]
    looks = [looks_of(image) for image in copies]
    matches = Search(Limits(), looks.__getitem__).add(range(4))
    assert {copy: match.key for copy, match in matches.items()} == {1: 0, 3: 0}


def test_batches_give_what_one_batch_gives(photo, textured):
    images = [textured(seed, 96, 96) for seed in range(12)]
    images += [CHANGES["jpeg"](image) for image in images[:5]]
    looks = [looks_of(image) for image in images]
    whole = Search(Limits(), looks.__getitem__).add(range(17))
    search, parts = Search(Limits(), looks.__getitem__), {}
    for start in range(0, 17, 4):
        keys = range(start, min(start + 4, 17))
        parts |= search.add(keys)
    assert {k: m.key for k, m in whole.items()} == {k: m.key for k, m in parts.items()}
    assert {k: m.key for k, m in whole.items()} == {12 + i: i for i in range(5)}


def test_plain_pictures_match_nothing():
    assert found(Image.new("RGB", (64, 64), "white"), Image.new("RGB", (64, 64), "black")) is None


def person(skin):
    """Hair and clothes stay as they are; the face fills a small part."""
    image = Image.new("RGB", (256, 256), "white")
    pen = ImageDraw.Draw(image)
    pen.ellipse((50, 20, 206, 190), fill="#2b2118")
    pen.ellipse((84, 60, 172, 170), fill=skin)
    pen.rectangle((40, 180, 216, 256), fill="#3a6ea5")
    return image.resize((128, 128), Image.Resampling.LANCZOS)


def test_another_tone_of_skin_is_no_tint():
    # Without its white paper the one could be the other under a tint.
    assert found(person("#bf8f68"), person("#9b643d")) is None
    assert found(person("#bf8f68"), CHANGES["tinted"](person("#bf8f68"))) is not None


def test_what_must_be_turned_and_stretched_is_another_picture(photo):
    squeezed = photo.transform(
        photo.size,
        Image.Transform.AFFINE,
        (1.08, 0.06, -11, 0.06, 0.94, 0),
        Image.Resampling.BICUBIC,
    )
    assert found(photo, squeezed) is None
    assert found(photo, CHANGES["turned"](photo)) is not None


def test_a_tint_that_is_cut_off_at_white():
    """What was cut off is not lost twice: the paper is white under the tint, too."""
    original = person("#bf8f68")
    for gains in ((1.12, 0.9, 1.1), (0.92, 0.93, 1.1), (0.89, 1.13, 1.06)):
        bright = np.clip(np.rint(np.asarray(original) * gains), 0, 255).astype(np.uint8)
        assert found(original, Image.fromarray(bright)) is not None
        assert found(Image.fromarray(bright), original) is not None
    other = np.clip(np.asarray(person("#6f4f38")) * (1.12, 0.9, 1.1), 0, 255).astype(np.uint8)
    assert found(original, Image.fromarray(other)) is None


def hatched(left, top):
    """Thin lines at 64 pixels, moved by quarters of a pixel."""
    image = Image.new("RGB", (272, 272), "#e8e0d0")
    pen = ImageDraw.Draw(image)
    for n in range(-2, 14):
        pen.line((n * 22 - 30, 0, n * 22 + 60, 272), fill="#203040", width=5)
    pen.ellipse((70, 60, 200, 210), outline="#902020", width=8)
    part = image.crop((left, top, left + 256, top + 256))
    return part.resize((64, 64), Image.Resampling.LANCZOS)


def test_movements_of_half_a_pixel_count():
    for moved in ((4, 4), (5, 4), (6, 4), (6, 5), (4, 6), (8, 8)):
        assert found(hatched(4, 4), hatched(*moved)) is not None


def test_small_coloured_lines_encoded_anew():
    image = Image.new("RGB", (256, 256), "white")
    pen = ImageDraw.Draw(image)
    for n, colour in enumerate(("#d22f27", "#1e50a0", "#5c9e31", "#f1b31c", "#8967aa")):
        pen.arc((30 + 18 * n, 30 + 18 * n, 226 - 18 * n, 226 - 18 * n), 0, 300, colour, 7)
    small = image.resize((64, 64), Image.Resampling.LANCZOS)
    assert found(small, encoded(small, format="JPEG", quality=50)) is not None


def test_what_has_little_contrast_is_found_again(photo):
    faint = Image.fromarray((np.asarray(photo) // 35 + 190).astype(np.uint8))
    assert found(faint, encoded(faint, format="JPEG", quality=80)) is not None


def test_a_marked_sky_is_found_again():
    """Where little is to be seen, the mark draws the registration away."""
    y, x = np.mgrid[:160, :160] / 160
    sky = np.stack([100 + 20 * y, 140 + 20 * y + 15 * x, 200 + 8 * y], axis=2)
    sky = Image.fromarray(np.rint(sky).astype(np.uint8))
    assert found(sky, marked(sky)) is not None


def test_limits_are_checked():
    with pytest.raises(ValueError, match=r"similarity is above 0.*\n.*spread is 0 to 1"):
        Limits(similarity=0, spread=2)
