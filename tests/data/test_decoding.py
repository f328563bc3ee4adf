"""Image files of every type of pixel become the 8-bit RGB that follows from their values."""

from __future__ import annotations

import os
import random
import warnings

import numpy as np
import pytest
from PIL import Image, ImageOps

from image_helpers import png_bytes, tiff_bytes
from ssltool.data.decoding import TURNS, decode, read_header
from ssltool.data.opening import CorruptImage
from ssltool.data.pixels import PixelRules
from ssltool.errors import SSLToolError

WIDE = np.random.default_rng(0).integers(0, 65536, (9, 7, 4), dtype=np.uint16)
BYTES = np.random.default_rng(1).integers(0, 256, (9, 7, 4), dtype=np.uint8)
TWELVE_BITS = PixelRules(value_range=(0, 4095))


def scaled(values: np.ndarray, low: float = 0, high: float = 65535) -> np.ndarray:
    """The closed form: the range ``low`` to ``high`` on 0 to 255, rounded."""
    return np.rint((values.astype(float).clip(low, high) - low) / (high - low) * 255)


def on_white(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return np.rint((colours * alpha + 255 * (255 - alpha)) / 255)


@pytest.fixture
def decoded(tmp_path):
    """What a file with these bytes is decoded into: ``decoded(data, rules) -> (H, W, 3)``."""

    def make(data: bytes, rules: PixelRules = PixelRules(), name: str = "image") -> np.ndarray:  # noqa: B008
        path = tmp_path / name
        path.write_bytes(data)
        image = decode(str(path), rules)
        assert image.mode == "RGB"
        assert read_header(str(path), rules).size == image.size
        return np.asarray(image).astype(int)

    return make


@pytest.fixture
def encoded(tmp_path):
    def make(image: Image.Image, suffix: str, **options) -> bytes:
        path = tmp_path / f"encoded{suffix}"
        image.save(path, **options)
        return path.read_bytes()

    return make


# Types


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
def test_16_bit_grey_is_scaled_by_65535(decoded, encoded, suffix):
    grey = WIDE[..., 0]
    assert (decoded(encoded(Image.fromarray(grey), suffix)) == scaled(grey)[..., None]).all()


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_tiff_keeps_all_bits_in_both_byte_orders(decoded, order, channels):
    values = WIDE[..., :channels].astype(f"{order}u2")
    assert (decoded(tiff_bytes(values)) == scaled(values)).all()
    assert (decoded(tiff_bytes(values), TWELVE_BITS) == scaled(values, 0, 4095)).all()


@pytest.mark.parametrize("differences", [False, True])
@pytest.mark.parametrize("compression", ["lzw", "deflate"])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_16_bit_tiff_keeps_all_bits_when_compressed(decoded, order, compression, differences, channels):
    values = WIDE[..., :channels].astype(f"{order}u2")
    data = tiff_bytes(values, extra=2, compression=compression, differences=differences)
    for rules, high in {PixelRules(): 65535, TWELVE_BITS: 4095}.items():
        colours = scaled(values[..., :3], 0, high)
        expected = on_white(colours, scaled(values[..., 3:])) if channels == 4 else colours
        assert (decoded(data, rules) == expected).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_png_keeps_all_bits(decoded, channels):
    values = WIDE[..., :channels]
    assert (decoded(png_bytes(values)) == scaled(values)).all()
    assert (decoded(png_bytes(values), TWELVE_BITS) == scaled(values, 0, 4095)).all()


def test_16_bit_alpha_is_a_share_whatever_the_range_of_the_colours(decoded):
    colours, alpha = WIDE[..., :3], scaled(WIDE[..., 3:])
    assert (decoded(png_bytes(WIDE)) == on_white(scaled(colours), alpha)).all()
    assert (decoded(png_bytes(WIDE), TWELVE_BITS) == on_white(scaled(colours, 0, 4095), alpha)).all()


def test_pgm_is_scaled_by_its_own_maximum(decoded):
    grey = WIDE[..., 0] >> 4
    assert (decoded(b"P5 7 9 4095\n" + grey.astype(">u2").tobytes()) == scaled(grey, 0, 4095)[..., None]).all()
    assert (decoded(b"P5 7 9 100\n" + (BYTES[..., 0] % 101).tobytes()).max()) == 255


def test_ppm_whose_lower_bits_pillow_drops_refuses_a_range(decoded):
    data = b"P6 7 9 65535\n" + WIDE[..., :3].astype(">u2").tobytes()
    assert np.abs(decoded(data) - scaled(WIDE[..., :3])).max() <= 1
    with pytest.raises(SSLToolError, match=r"--value-range .*PNG"):
        decoded(data, TWELVE_BITS)


@pytest.mark.parametrize("dtype", ["<i4", "<i2", "<u4"])
def test_integers_without_a_range_name_the_flag(decoded, dtype):
    values = (WIDE[..., :1] // 4).astype(dtype)
    with pytest.raises(SSLToolError, match=r"image .*integer .*--value-range"):
        decoded(tiff_bytes(values))
    assert (decoded(tiff_bytes(values), TWELVE_BITS) == scaled(values, 0, 4095)).all()


@pytest.mark.parametrize("compression", ["none", "lzw", "deflate"])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<i4", ">i4", "<u4", "<i2", ">i2"])
def test_tiff_of_other_types_is_read_in_both_byte_orders_and_compressed(decoded, dtype, compression):
    values = (WIDE[..., :1] // 4).astype(dtype)
    read = decoded(tiff_bytes(values, compression=compression), TWELVE_BITS)
    assert (read == scaled(values, 0, 4095)).all()


def test_big_endian_unsigned_32_bits_are_not_called_corrupt(decoded):
    with pytest.raises(SSLToolError, match="big-endian 32-bit unsigned") as caught:
        decoded(tiff_bytes(WIDE[..., :1].astype(">u4")))
    assert not isinstance(caught.value, CorruptImage)


def test_unsigned_integers_beyond_2_to_the_31_do_not_wrap(decoded):
    values = WIDE[..., :1].astype("<u4") << 16
    assert (decoded(tiff_bytes(values), PixelRules(value_range=(0, 65535 * 2.0**16))) == scaled(WIDE[..., :1])).all()


def test_floats_are_in_0_to_1_or_name_the_flag(decoded):
    values = (WIDE[..., :1] / 65535).astype("<f4")
    assert (decoded(tiff_bytes(values)) == np.rint(values.astype(float) * 255)).all()
    for wrong in (values * 3, values - 1):
        with pytest.raises(SSLToolError, match=r"outside 0 to 1.*--value-range"):
            decoded(tiff_bytes(wrong))
    doubled = decoded(tiff_bytes(values * 2), PixelRules(value_range=(0, 2)))
    assert (doubled == np.rint(values.astype(float) * 255)).all()


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_floats_that_are_no_numbers_are_refused(decoded, wrong):
    values = np.full((4, 4, 1), 0.5, "<f4")
    values[1, 2] = wrong
    with pytest.raises(SSLToolError, match="image contains NaN"):
        decoded(tiff_bytes(values), PixelRules(value_range=(0, 1)))


def test_tiff_whose_0_is_white_is_inverted(decoded):
    values = WIDE[..., :1].astype("<u2")
    assert (decoded(tiff_bytes(values, white_is_zero=True)) == 255 - scaled(values)).all()


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "CMYK", "YCbCr", "LAB"])
def test_8_bit_images_are_as_pillow_converts_them(decoded, encoded, mode):
    image = Image.fromarray(BYTES[..., :3]).convert(mode) if mode != "LAB" else Image.fromarray(BYTES[..., :3], "LAB")
    data = encoded(image, ".tif")
    expected = np.asarray(image.convert("RGB"))
    for rules in (PixelRules(), TWELVE_BITS, PixelRules(raw=True)):
        assert (decoded(data, rules) == expected).all()


@pytest.mark.parametrize(
    "values",
    [
        np.zeros((4, 4, 5), "<u1"),
        np.zeros((4, 4, 7), "<u2"),
        np.zeros((4, 4, 2), "<u2"),
        np.zeros((4, 4, 1), "<f8"),
        np.zeros((4, 4, 3), "<f4"),
    ],
    ids=lambda values: f"{values.shape[2]} x {values.dtype}",
)
def test_tiff_of_other_channels_or_types_is_not_called_corrupt(decoded, values):
    with pytest.raises(SSLToolError, match=r"channel.*cannot be read; save it") as caught:
        decoded(tiff_bytes(values))
    assert not isinstance(caught.value, CorruptImage) and "\n" not in str(caught.value)


def test_16_bit_channels_in_planes_are_refused(decoded):
    with pytest.raises(SSLToolError, match="planes"):
        decoded(tiff_bytes(WIDE[..., :3].astype("<u2"), planes=2))


def test_channel_without_a_meaning_is_left_out_and_told(tmp_path):
    path = tmp_path / "image.tif"
    path.write_bytes(tiff_bytes(BYTES, extra=0))
    assert read_header(str(path)).unnamed
    assert (np.asarray(decode(str(path))) == BYTES[..., :3]).all()


# Transparency


def test_alpha_is_composited_on_the_background(decoded, encoded):
    colours, alpha = BYTES[..., :3].astype(float), BYTES[..., 3:].astype(float)
    data = encoded(Image.fromarray(BYTES), ".png")
    assert (decoded(data) == on_white(colours, alpha)).all()
    red = np.rint((colours * alpha + np.array([255, 0, 0]) * (255 - alpha)) / 255)
    assert (decoded(data, PixelRules(background=(255, 0, 0))) == red).all()
    assert (decoded(data, PixelRules(raw=True)) == colours).all()


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_hidden_colours_do_not_show(decoded, encoded, suffix):
    hidden = BYTES.copy()
    hidden[..., 3] = 0
    options = {"lossless": True, "exact": True} if suffix == ".webp" else {}
    assert (decoded(encoded(Image.fromarray(hidden), suffix, **options)) == 255).all()


def test_every_way_to_be_transparent_is_found(decoded, encoded, tmp_path):
    grey = Image.fromarray(BYTES[..., :2])  # LA
    palette = Image.fromarray(BYTES[..., 0] % 2, "P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    half = np.array([[10, 20, 30, 0], [40, 50, 60, 128]], np.uint8)
    associated = Image.new("PA", (7, 9), (0, 0))
    alpha = BYTES[..., 1:2].astype(float)
    assert (decoded(encoded(grey, ".png")) == on_white(BYTES[..., :1].astype(float), alpha)).all()
    assert (decoded(encoded(associated, ".tif")) == 255).all()
    expected = on_white(half[:, :3].astype(float), half[:, 3:].astype(float))[BYTES[..., 0] % 2]
    assert (decoded(encoded(palette, ".png", transparency=bytes([0, 128]))) == expected).all()
    one = np.where(BYTES[..., :1] % 2 == 0, 255, [40, 50, 60])
    assert (decoded(encoded(palette, ".gif", transparency=0)) == one).all()
    assert (decoded(encoded(palette, ".png", transparency=0)) == one).all()


@pytest.mark.parametrize("values", [BYTES, WIDE], ids=["8 bits", "16 bits"])
@pytest.mark.parametrize("channels", [1, 3])
def test_transparent_colour_of_a_png_is_background(decoded, values, channels):
    values = values[..., :channels].copy()
    values[2, 3] = values[0, 0]
    expected = values.astype(float) if values.dtype == np.uint8 else scaled(values)
    expected[(values == values[0, 0]).all(axis=2)] = 255
    assert (decoded(png_bytes(values, values[0, 0].tolist())) == expected).all()


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_transparent_grey_level_of_a_png_with_few_bits_is_background(decoded, bits):
    """Pillow spreads the levels over 0 to 255, but not the level that is transparent."""
    levels = BYTES[..., :1] % 2**bits
    assert (decoded(png_bytes(levels, bits=bits)) == levels * (255 // (2**bits - 1))).all()
    for level in range(2**bits):
        expected = np.where(levels == level, 255, levels.astype(int) * (255 // (2**bits - 1)))
        assert (decoded(png_bytes(levels, [level], bits)) == expected).all()


# Orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
def test_orientation_is_that_of_pillows_exif_transpose(decoded, encoded, tmp_path, orientation, suffix):
    image = Image.fromarray(BYTES[..., :3])
    exif = image.getexif()
    exif[0x0112] = orientation
    data = encoded(image, suffix, exif=exif)
    with Image.open(tmp_path / f"encoded{suffix}") as stored:
        expected = np.asarray(ImageOps.exif_transpose(stored))
    assert (decoded(data) == expected).all()
    assert decoded(data).shape == ((7, 9, 3) if orientation >= 5 else (9, 7, 3))
    assert set(TURNS) == set(range(2, 9))


def test_raw_pixels_ignore_the_orientation(decoded, encoded, tmp_path):
    image = Image.fromarray(BYTES[..., :3])
    exif = image.getexif()
    exif[0x0112] = 6
    data = encoded(image, ".png", exif=exif)
    assert (decoded(data, PixelRules(raw=True)) == BYTES[..., :3]).all()


def test_raw_pixels_refuse_what_would_be_white(decoded, encoded):
    with pytest.raises(SSLToolError, match="--no-raw-pixels"):
        decoded(encoded(Image.fromarray(WIDE[..., 0]), ".png"), PixelRules(raw=True))


# Limits, and files that are no images


def test_image_beyond_the_limit_is_not_corrupt(tmp_path):
    path = tmp_path / "map.png"
    Image.new("1", (20000, 10000)).save(path)
    with pytest.raises(SSLToolError, match=r"map\.png .*20000 x 10000.*limit.*--max-pixels 200000000") as caught:
        decode(str(path))
    assert not isinstance(caught.value, CorruptImage)


def test_limit_can_be_raised_and_lowered(tmp_path, monkeypatch):
    path = tmp_path / "map.png"
    Image.new("RGB", (40, 30)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert decode(str(path), PixelRules(max_pixels=1200)).size == (40, 30)
    with pytest.raises(SSLToolError, match=r"40 x 30 = 1,200 pixels.*1,199"):
        decode(str(path), PixelRules(max_pixels=1199))


@pytest.mark.parametrize("kind", ["fifo", "folder", "link to a device", "empty", "gone"])
def test_file_that_is_no_image_is_named_and_does_not_block(tmp_path, kind):
    path = tmp_path / "image.png"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "link to a device":
        path.symlink_to("/dev/zero")
    elif kind == "empty":
        path.touch()
    with pytest.raises(CorruptImage, match=r"image\.png"):
        decode(str(path))


def test_postscript_is_not_run(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "image.eps")
    with pytest.raises(CorruptImage, match=r"image\.eps"):
        decode(str(tmp_path / "image.eps"))


def test_pillows_warnings_are_silent(tmp_path, monkeypatch, recwarn):
    path = tmp_path / "image.png"
    Image.new("RGB", (40, 30)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # 1200 pixels are beyond the warning, not the error
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decode(str(path), PixelRules(max_pixels=1500))
    assert not recwarn


FORMATS = [".png", ".jpg", ".bmp", ".tif", ".webp", ".ppm", ".gif", ".ico", ".tga", ".jp2", ".sgi", ".pcx"]


@pytest.mark.parametrize("suffix", FORMATS)
def test_damaged_files_are_an_image_or_one_line(tmp_path, encoded, suffix):
    modes = ["RGB", "P"] + (["I;16"] if suffix in (".png", ".tif") else [])
    draw = random.Random(suffix)
    for mode in modes:
        image = Image.fromarray(WIDE[..., 0]) if mode == "I;16" else Image.fromarray(BYTES[..., :3]).convert(mode)
        try:
            whole = encoded(image, suffix)
        except (OSError, ValueError):
            continue  # the format has no such mode
        for _ in range(60):
            data = bytearray(whole)
            for _ in range(draw.choice((1, 3, 10))):
                data[draw.randrange(min(len(data), draw.choice((40, 10**6))))] = draw.randrange(256)
            path = tmp_path / "damaged"
            path.write_bytes(data[: draw.choice((len(data), draw.randrange(len(data))))])
            for read in (read_header, decode):
                try:
                    read(str(path))
                except SSLToolError as error:
                    assert str(path) in str(error) and "\n" not in str(error)  # noqa: PT017
