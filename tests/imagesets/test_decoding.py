import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageFilter

from blockwise_lora.imagesets.decoding import DecodeError, decode


def saved(folder, image, name, **options):
    path = folder / name
    image.save(path, **options)
    return path


def half_red(width=40, height=20):
    image = Image.new("RGB", (width, height), (0, 0, 255))
    image.paste((255, 0, 0), (0, 0, width // 2, height))
    return image


def pixel(decoded, x, y):
    return decoded.image.getpixel((x, y))


def bomb(path, width, height):
    """A PNG of a few bytes that claims to be enormous."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 1000)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )
    return path


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.webp", "a.gif", "a.tiff", "a.ppm", "a.tga"])
def test_lossless_formats(tmp_path, name):
    options = {"lossless": True} if name == "a.webp" else {}
    decoded = decode(saved(tmp_path, half_red(), name, **options))
    assert decoded.image.mode == "RGB"
    assert (pixel(decoded, 5, 5), pixel(decoded, 35, 5)) == ((255, 0, 0), (0, 0, 255))
    assert decoded.notes == ()


@pytest.mark.parametrize("name", ["a.jpg", "a.avif"])
def test_lossy_formats(tmp_path, name):
    red, green, blue = pixel(decode(saved(tmp_path, half_red(), name)), 5, 5)
    assert red > 230
    assert max(green, blue) < 30


def test_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise to see it upright
    decoded = decode(saved(tmp_path, half_red(), "a.png", exif=exif))
    assert decoded.image.size == (20, 40)
    assert (pixel(decoded, 5, 5), pixel(decoded, 5, 35)) == ((255, 0, 0), (0, 0, 255))
    assert decoded.notes == ("rotated by EXIF",)


def test_a_half_turn_is_noted_though_the_size_stays(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3
    decoded = decode(saved(tmp_path, half_red(), "a.png", exif=exif))
    assert pixel(decoded, 35, 5) == (255, 0, 0)
    assert decoded.notes == ("rotated by EXIF",)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparency_lies_on_the_background(tmp_path, mode):
    image = Image.new("RGBA", (20, 20), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 10, 20))
    if mode == "PA":
        path = saved(tmp_path, image.quantize(4), "a.png")
    else:
        path = saved(tmp_path, image.convert(mode), "a.png")
    decoded = decode(path, background="#ffcc00")
    assert (pixel(decoded, 5, 5), pixel(decoded, 15, 5)) == ((0, 0, 0), (255, 204, 0))
    assert "transparency flattened" in decoded.notes


def test_one_transparent_colour(tmp_path):
    for mode, key in (("L", 7), ("RGB", (7, 7, 7))):
        decoded = decode(saved(tmp_path, Image.new(mode, (9, 9), key), "a.png", transparency=key))
        assert pixel(decoded, 4, 4) == (255, 255, 255)


def test_half_transparent_is_blended(tmp_path):
    decoded = decode(saved(tmp_path, Image.new("RGBA", (9, 9), (0, 0, 0, 128)), "a.png"))
    assert pixel(decoded, 4, 4) == (127, 127, 127)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    ramp = np.array([[0, 257, 128 * 257, 65535]], np.uint16)
    decoded = decode(saved(tmp_path, Image.fromarray(ramp), "a.png"))
    assert np.asarray(decoded.image)[0, :, 0].tolist() == [0, 1, 128, 255]
    assert decoded.notes == ("16 bits to 8 bits",)


def test_floating_point(tmp_path):
    values = np.array([[0, 0.5, 1, np.nan]], np.float32)
    decoded = decode(saved(tmp_path, Image.fromarray(values), "a.tiff"))
    assert np.asarray(decoded.image)[0, :, 0].tolist() == [0, 128, 255, 0]


def test_cmyk_lab_bilevel_and_palette(tmp_path):
    red = half_red()
    decoded = decode(saved(tmp_path, red.convert("CMYK"), "a.jpg", quality=95))
    assert pixel(decoded, 5, 5)[0] > 240
    assert pixel(decoded, 5, 5)[2] < 15
    assert decoded.notes == ("CMYK to RGB",)
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    lab = ImageCms.profileToProfile(red, *profiles, outputMode="LAB")
    decoded = decode(saved(tmp_path, lab, "a.tiff"))
    assert pixel(decoded, 5, 5)[0] > 250
    assert pixel(decoded, 5, 5)[1] < 10
    assert pixel(decode(saved(tmp_path, red.convert("P"), "p.png")), 5, 5) == (255, 0, 0)
    assert pixel(decode(saved(tmp_path, Image.new("1", (9, 9), 1), "b.png")), 4, 4) == (255,) * 3


def test_colours_of_another_profile_are_converted(tmp_path):
    # The sRGB profile with red and green exchanged, under another name: (255, 0, 0) is green.
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, green = profile.index(b"rXYZ"), profile.index(b"gXYZ")
    profile[red : red + 4], profile[green : green + 4] = b"gXYZ", b"rXYZ"
    swapped = bytes(profile).replace("sRGB".encode("utf-16-be"), "Swap".encode("utf-16-be"))
    swapped = swapped.replace(b"sRGB built", b"Swap built")
    decoded = decode(saved(tmp_path, half_red(), "a.png", icc_profile=swapped))
    assert decoded.notes == ("ICC profile to sRGB",)
    assert pixel(decoded, 5, 5)[1] > 200
    assert pixel(decoded, 5, 5)[0] < 60


def test_srgb_profile_changes_nothing_and_a_broken_one_is_noted(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    decoded = decode(saved(tmp_path, half_red(), "a.png", icc_profile=profile))
    assert (pixel(decoded, 5, 5), decoded.notes) == ((255, 0, 0), ())
    decoded = decode(saved(tmp_path, half_red(), "b.png", icc_profile=b"nonsense"))
    assert pixel(decoded, 5, 5) == (255, 0, 0)
    assert decoded.notes == ("unusable ICC profile ignored",)


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp", "a.tiff"])
def test_first_frame_of_an_animation(tmp_path, name):
    frames = [Image.new("RGB", (20, 20), c) for c in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    options = {"lossless": True} if name == "a.webp" else {}
    path = saved(tmp_path, frames[0], name, save_all=True, append_images=frames[1:], **options)
    decoded = decode(path)
    assert pixel(decoded, 5, 5) == (255, 0, 0)
    assert decoded.notes == ("first of 3 frames",)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bomb_is_refused_from_its_header(tmp_path):
    with pytest.raises(DecodeError, match=r"20000x8000 is more than 100 megapixels") as caught:
        decode(bomb(tmp_path / "a.png", 20_000, 8_000), max_megapixels=100)
    assert (caught.value.reason, caught.value.number) == ("too large", 160)
    for side in (30_000, 2**31 - 1):
        with pytest.raises(DecodeError) as caught:
            decode(bomb(tmp_path / "b.png", side, side), max_megapixels=50)
        assert caught.value.reason == "too large"


@pytest.mark.parametrize(
    ("content", "reason", "detail"),
    [
        (b"", "not an image", "empty"),
        (b"hello", "not an image", "no known picture format"),
        (b"<?xml version='1.0'?><svg/>", "not an image", "SVG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "not an image", "no known"),
        (b"\x89PNG\r\n\x1a\n", "damaged", "truncated"),
    ],
)
def test_not_an_image(tmp_path, content, reason, detail):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DecodeError, match=r"a\.png: ") as caught:
        decode(tmp_path / "a.png")
    assert caught.value.reason == reason
    assert detail in caught.value.detail


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF"])
def test_truncated(tmp_path, kind):
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, kind)
    (tmp_path / "a").write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    with pytest.raises(DecodeError) as caught:
        decode(tmp_path / "a")
    assert caught.value.reason == "damaged"
    assert "export it again" in caught.value.detail


def test_a_missing_file_is_unreadable(tmp_path):
    with pytest.raises(DecodeError, match="unreadable: No such file"):
        decode(tmp_path / "gone.png")


def test_a_part_of_the_size_is_enough_where_asked(tmp_path, textured):
    image = textured(0, 600, 400).filter(ImageFilter.GaussianBlur(2))
    for name, size in (("a.jpg", (150, 100)), ("a.png", (600, 400))):
        image.save(tmp_path / name)
        small = decode(tmp_path / name, at_least=70).image
        assert small.size == size
        assert decode(tmp_path / name).image.size == (600, 400)
    # And it is the same picture, as if it had been shrunk afterwards.
    expected = np.asarray(decode(tmp_path / "a.jpg").image.reduce(4), float)
    drafted = np.asarray(decode(tmp_path / "a.jpg", at_least=70).image, float)
    assert np.abs(drafted - expected).mean() < 2
    image.resize((100, 60)).save(tmp_path / "small.jpg")
    assert decode(tmp_path / "small.jpg", at_least=70).image.size == (100, 60)
