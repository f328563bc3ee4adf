"""Folders of image files: ranges of values, what is said about pixels, and reading into memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from ssltool.config import DataSettings
from ssltool.data.image_files import SAMPLE_HEADERS, identical, survey
from ssltool.data.images import ImageSet, open_dataset
from ssltool.data.pixels import DEFAULT_RULES, PERCENTILES, PixelRules, evenly_spaced
from ssltool.errors import SSLToolError, UsageError


def opened(folder, **settings) -> ImageSet:
    return open_dataset(DataSettings(data=str(folder), **settings), "train")


def write_grey(folder, count: int, high: int, *, size=(6, 5), seed: int = 0, suffix: str = ".png") -> np.ndarray:
    """Writes 16-bit grey images with values below ``high``, and returns them."""
    folder.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, high, (count, size[1], size[0]), dtype=np.uint16)
    for i, image in enumerate(values):
        Image.fromarray(image).save(folder / f"{i:03d}{suffix}")
    return values


def expected(values: np.ndarray, low: float, high: float) -> torch.Tensor:
    """(N, 3, H, W) uint8: the range on 0 to 255, rounded."""
    scaled = np.rint((values.astype(float).clip(low, high) - low) / (high - low) * 255).astype(np.uint8)
    return torch.from_numpy(scaled)[:, None].expand(-1, 3, -1, -1)


def test_16_bit_folder_is_scaled_by_its_type(tmp_path):
    values = write_grey(tmp_path / "pile", 5, 65536)
    assert torch.equal(opened(tmp_path / "pile").images, expected(values, 0, 65535))


@pytest.mark.parametrize("high", [256, 1024, 4096, 8191])
def test_values_below_an_eighth_of_the_range_stop_and_name_the_flag(tmp_path, high):
    write_grey(tmp_path / "pile", 5, high)
    with pytest.raises(SSLToolError, match=r"eighth.*65535.*--value-range LOW HIGH"):
        opened(tmp_path / "pile")


def test_value_range_is_applied(tmp_path):
    values = write_grey(tmp_path / "pile", 5, 4096)
    made = opened(tmp_path / "pile", value_range=("100", "4095"))
    assert torch.equal(made.images, expected(values, 100, 4095))
    assert made.rules.settings()["value_range"] == ("100", "4095")


def test_automatic_range_is_the_percentiles_and_is_said(tmp_path):
    values = write_grey(tmp_path / "pile", 5, 4096)
    made = opened(tmp_path / "pile", value_range=("auto",))
    low, high = np.percentile(values, PERCENTILES)
    assert made.rules.value_range == pytest.approx((low, high))
    assert torch.equal(made.images, expected(values, *made.rules.value_range))
    assert "--value-range auto is {:g} {:g}".format(*made.rules.value_range) in "".join(made.notes)
    again = opened(tmp_path / "pile", **made.rules.settings())
    assert torch.equal(again.images, made.images) and again.rules == made.rules


def test_automatic_range_of_constant_images_is_refused(tmp_path):
    Image.fromarray(np.full((4, 4), 300, np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(SSLToolError, match=r"--value-range auto: .*300"):
        opened(tmp_path, value_range=("auto",))


def test_types_are_mixed_each_by_its_own_range(tmp_path):
    values = write_grey(tmp_path / "pile" / "a", 2, 65536)
    bytes_ = np.random.default_rng(1).integers(0, 256, (5, 6, 3), np.uint8)
    floats = np.random.default_rng(2).random((5, 6), np.float32)
    Image.fromarray(bytes_).save(tmp_path / "pile" / "b.png")
    Image.fromarray(floats).save(tmp_path / "pile" / "c.tif")
    made = opened(tmp_path / "pile", dataset_type="images")
    by_sum = {int(image.sum()) for image in made.images.int()}
    rounded = torch.from_numpy(np.rint(floats.astype(float) * 255).astype(np.uint8))
    assert by_sum == {
        *(int(image.sum()) for image in expected(values, 0, 65535).int()),
        int(bytes_.astype(int).sum()),
        3 * int(rounded.int().sum()),
    }


def test_range_does_not_touch_8_bits_and_that_is_said(tmp_path, write_images):
    write_images(tmp_path / "pile", 3)
    plain = opened(tmp_path / "pile")
    made = opened(tmp_path / "pile", value_range=("0", "10"))
    assert torch.equal(made.images, plain.images)
    assert "--value-range is not used" in "".join(made.notes)


@pytest.mark.parametrize("wrong", [("1", "1"), ("5", "2"), ("a", "b"), ("nan", "3"), ("0", "inf"), ("3",)])
def test_range_that_is_none_is_refused(wrong):
    with pytest.raises(UsageError, match="--value-range is "):
        DataSettings(value_range=wrong)


@pytest.mark.parametrize("wrong", ["no colour", "#12345", "#11223344"])
def test_background_that_is_no_colour_is_refused(wrong):
    with pytest.raises(UsageError, match="--background is "):
        PixelRules.of(DataSettings(background=wrong))


@pytest.mark.parametrize("colour", ["red", "#ff0000", "#f00"])
def test_background_is_saved_as_one_spelling(colour):
    assert PixelRules.of(DataSettings(background=colour)).settings()["background"] == "#ff0000"


@pytest.mark.parametrize("flag", [{"value_range": ("0", "9")}, {"background": "red"}])
def test_raw_pixels_leave_no_room_for_other_rules(flag):
    with pytest.raises(UsageError, match="--raw-pixels"):
        DataSettings(raw_pixels=True, **flag).check()


@pytest.mark.parametrize("sizes", [1, 2], ids=["in memory", "from files"])
def test_images_with_alpha_are_counted_once(tmp_path, write_images, sizes):
    write_images(tmp_path / "pile", 3)
    for i in range(2):
        Image.new("RGBA", (20, 16 * sizes), (1, 2, 3, 0)).save(tmp_path / "pile" / f"x{i}.png")
    made = opened(tmp_path / "pile")
    assert (made.images is None) == (sizes == 2)
    said = "".join(made.notes)
    assert said.count("alpha") == 1 and "2 of " in said and "5 images" in said and "--background" in said
    assert "--no-raw-pixels" in "".join(opened(tmp_path / "pile", raw_pixels=True).notes)


def test_images_with_frames_are_counted(tmp_path):
    first, second = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    first.save(tmp_path / "a.tif", save_all=True, append_images=[second])
    first.save(tmp_path / "b.tif")
    made = opened(tmp_path)
    assert torch.equal(made.images[0], made.images[1])
    assert "1 of 2 images have several frames" in "".join(made.notes)


def test_common_size_is_that_of_upright_images(tmp_path):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.png", exif=exif)
    image.transpose(Image.Transpose.ROTATE_270).save(tmp_path / "b.png")
    made = opened(tmp_path)
    assert made.images.shape == (2, 3, 7, 9)
    assert torch.equal(made.images[0], made.images[1])


def test_large_image_is_not_dropped_as_corrupt(tmp_path, write_images):
    write_images(tmp_path / "pile", 2)
    Image.new("1", (200, 100)).save(tmp_path / "pile" / "map.png")
    for skip in (False, True):
        with pytest.raises(SSLToolError, match=r"map\.png .*--max-pixels 20000"):
            opened(tmp_path / "pile", skip_corrupt=skip, max_pixels=19_999)
    assert len(opened(tmp_path / "pile", max_pixels=20_000)) == 3


def test_survey_of_many_files_of_two_sizes_reads_a_sample(tmp_path, write_images):
    paths = write_images(tmp_path / "a", 2) + write_images(tmp_path / "b", 1, size=(9, 9))
    found = survey([str(path) for path in paths] * 400, DEFAULT_RULES)
    assert found.size is None and not found.whole and len(found.headers) <= SAMPLE_HEADERS < 1200


@pytest.mark.parametrize(("count", "most"), [(1, 5), (5, 5), (1000, 7), (8, 7)])
def test_sample_is_evenly_spaced_and_starts_at_the_first(count, most):
    rows = evenly_spaced(count, most)
    assert len(rows) == min(count, most) == len(set(rows)) and rows[0] == 0 and rows[-1] < count
    assert np.ptp(np.diff(rows)) <= 1 if len(rows) > 1 else True


@pytest.mark.parametrize("sizes", [1, 2], ids=["in memory", "from files"])
def test_images_that_are_the_same_are_found(tmp_path, write_images, sizes):
    first = write_images(tmp_path / "pile", 1)[0]
    made = opened(tmp_path / "pile")
    assert not identical(made)  # one image
    (tmp_path / "pile" / "copy.png").write_bytes(first.read_bytes())
    assert identical(opened(tmp_path / "pile"))
    write_images(tmp_path / "pile" / "more", 1, size=(20, 16 * sizes))
    assert not identical(opened(tmp_path / "pile"))
