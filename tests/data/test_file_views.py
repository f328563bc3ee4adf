"""The views of one image in 8 bits are those of ``views.train_view``, and a large JPEG is decoded at a lower size."""

from __future__ import annotations

import dataclasses
import io
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from view_helpers import drawn, smooth

from ssltool.data import file_views, views
from ssltool.data.decoding import decode
from ssltool.data.file_views import Box
from ssltool.data.images import ImageSet
from ssltool.data.loader import BATCHED_SIZE, Loader
from ssltool.data.opening import CorruptImage
from ssltool.data.pixels import DEFAULT_RULES
from ssltool.data.preprocessing import IMAGENET
from ssltool.data.views import PAPER, PLAIN, Recipe
from ssltool.data.workers import Decoded
from ssltool.errors import SSLToolError

HALF_A_PIXEL = 3.0
"""Mean difference in 8-bit steps of a view of a reduced JPEG, whose box rounds to its pixels: the images below change
by up to 10 steps from one pixel of the views to the next."""

EVERYTHING = dataclasses.replace(PAPER, solarize_p=0.3, rotation=15.0)


def made_of(image: np.ndarray, params: views.ViewParams, size: int) -> torch.Tensor:
    """The views of one image, (V, 3, S, S) uint8."""
    packed = params.packed()
    crops = file_views.crops(image, packed, [size] * len(packed)).views
    finished = [file_views.finish(crop, row) for crop, row in zip(crops, packed, strict=True)]
    return torch.from_numpy(np.stack(finished)).permute(0, 3, 1, 2)


def test_packed_parameters_are_the_drawn_ones():
    params = drawn(5, EVERYTHING)
    packed = params.packed()
    for name in views.PACKED.names:
        assert np.array_equal(packed[name], getattr(params, name).numpy())
    fields = {f.name for f in dataclasses.fields(params)}
    assert fields - {*views.PACKED.names} == {"erased", "erase_area", "erase_log_ratio", "erase_position"}


@pytest.mark.parametrize("shape", [(375, 500), (30, 26), (10, 200), (300, 20)], ids=str)
def test_crops_are_those_of_the_batch(shape):
    params = drawn(500, dataclasses.replace(PAPER, crop_scale=(0.08, 1.0)))
    assert [list(box) for box in file_views.crop_boxes(params.packed(), *shape)] == views.crop_boxes(
        params, *shape
    ).tolist()


@pytest.mark.parametrize(("recipe", "mean"), [(PLAIN, 0.3), (dataclasses.replace(EVERYTHING, hue=0.0), 0.6)])
def test_views_are_those_of_the_batch_within_steps(recipe, mean):
    image, params = smooth(120, 150), drawn(60, recipe)
    batch = torch.from_numpy(image).permute(2, 0, 1).expand(60, -1, -1, -1)
    expected = 255 * views.photometric(_turned(batch, params), params)
    difference = (made_of(image, params, 48).float() - expected).abs()
    assert difference.mean() < mean and difference.max() <= 4


def _turned(batch: torch.Tensor, params: views.ViewParams) -> torch.Tensor:
    boxes = views.crop_boxes(params, *batch.shape[-2:])
    crops = views.ops.crop_resize(batch, boxes, params.flip, 48)
    return views.ops.rotate(crops, params.angle) if params.angle.any() else crops


def test_views_with_hue_are_those_of_the_batch_within_two_steps_on_average():
    image, params = smooth(120, 150), drawn(60)
    batch = torch.from_numpy(image).permute(2, 0, 1).expand(60, -1, -1, -1)
    expected = 255 * views.photometric(_turned(batch, params), params)
    assert (made_of(image, params, 48).float() - expected).abs().mean() < 2


@pytest.mark.parametrize("interpolation", ["nearest", "bicubic", "lanczos"])
def test_other_interpolations_are_pillows(interpolation):
    image, params = smooth(40, 50), drawn(4, PLAIN)
    made = file_views.crops(image, params.packed(), [16] * 4, interpolation).views
    for box, crop, flip in zip(file_views.crop_boxes(params.packed(), 40, 50), made, params.flip, strict=True):
        part = Image.fromarray(image).crop((box.left, box.top, box.left + box.width, box.top + box.height))
        expected = np.asarray(part.resize((16, 16), getattr(Image.Resampling, interpolation.upper())))
        assert np.array_equal(crop.permute(1, 2, 0), expected[:, ::-1] if flip else expected)


# Decoding at a lower size


@pytest.fixture
def jpeg(tmp_path):
    """A JPEG file, ``jpeg(image, **options)``."""

    def write(image: np.ndarray, mode: str = "RGB", **options) -> str:
        path = tmp_path / "image.jpg"
        Image.fromarray(image).convert(mode).save(path, quality=95, **options)
        return str(path)

    return write


def whole(n: int, **changes) -> np.ndarray:
    """Packed parameters of the whole image, unchanged."""
    return drawn(n, dataclasses.replace(PLAIN, crop_scale=(1.0, 1.0), flip_p=0.0, **changes)).packed()


@pytest.mark.parametrize(("size", "factor"), [(97, 1), (96, 2), (49, 2), (48, 4), (25, 4), (24, 8), (12, 8)])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_jpeg_is_decoded_at_the_lowest_size_at_which_crops_are_as_large_as_views(
    jpeg, monkeypatch, size, factor, mode
):
    decoded = []

    def watched(*arguments):
        decoded.append(decode(*arguments))
        return decoded[-1]

    monkeypatch.setattr(file_views, "decode", watched)
    path = jpeg(smooth(192, 192), mode)
    (view,) = file_views.file_crops(path, DEFAULT_RULES, whole(1), [size], "bilinear").views
    assert decoded[0].size == (192 // factor, 192 // factor)
    assert view.shape == (3, size, size)


@pytest.mark.parametrize("size", [80, 40, 20])
def test_views_of_a_reduced_jpeg_are_those_of_the_whole_within_steps(jpeg, size):
    path, params = jpeg(smooth(400, 533)), drawn(8, PLAIN).packed()
    full = file_views.crops(np.asarray(decode(path)), params, [size] * 8).views
    reduced = file_views.file_crops(path, DEFAULT_RULES, params, [size] * 8, "bilinear").views
    for one, other in zip(full, reduced, strict=True):
        assert (one.float() - other.float()).abs().mean() < HALF_A_PIXEL


def test_boxes_of_a_reduced_jpeg_are_in_pixels_of_the_whole(jpeg):
    path, params = jpeg(smooth(400, 533)), drawn(8, PLAIN)
    made = file_views.file_crops(path, DEFAULT_RULES, params.packed(), [20] * 8, "bilinear")
    assert torch.equal(made.boxes, views.view_boxes(params, 400, 533))


def test_the_smallest_crop_decides():
    boxes = [Box(0, 0, 400, 400), Box(10, 20, 100, 300)]
    assert boxes[1].reduced(2, 200, 200) == Box(5, 10, 50, 150)
    assert Box(3, 0, 397, 397).reduced(2, 200, 200) == Box(2, 0, 198, 198)  # 1.5 rounds to the even 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_reduced_jpeg_is_upright(jpeg, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path, params = jpeg(smooth(240, 320), exif=exif), drawn(4, PLAIN).packed()
    full = file_views.crops(np.asarray(decode(path)), params, [24] * 4).views
    reduced = file_views.file_crops(path, DEFAULT_RULES, params, [24] * 4, "bilinear").views
    for one, other in zip(full, reduced, strict=True):
        assert (one.float() - other.float()).abs().mean() < HALF_A_PIXEL


@pytest.mark.parametrize("save", ["CMYK", "PNG"])
def test_other_images_are_decoded_whole(tmp_path, save):
    path = tmp_path / ("image.png" if save == "PNG" else "image.jpg")
    image = Image.fromarray(smooth(192, 192))
    image = image if save == "PNG" else image.convert(save)
    image.save(path)
    expected = file_views.crops(np.asarray(decode(str(path))), whole(1), [24]).views
    made = file_views.file_crops(str(path), DEFAULT_RULES, whole(1), [24], "bilinear").views
    assert torch.equal(made[0], expected[0])


def test_raw_pixels_are_not_reduced(jpeg):
    path, rules = jpeg(smooth(192, 192)), dataclasses.replace(DEFAULT_RULES, raw=True)
    expected = file_views.crops(np.asarray(decode(path, rules)), whole(1), [24]).views
    assert torch.equal(file_views.file_crops(path, rules, whole(1), [24], "bilinear").views[0], expected[0])


@pytest.mark.parametrize("kept", [0.3, 0.9])
@pytest.mark.parametrize("size", [24, 192])
def test_a_truncated_jpeg_is_corrupt_at_any_size(jpeg, pixels, kept, size):
    path = jpeg(pixels(192, 192, 3).numpy())
    with open(path, "r+b") as file:
        file.truncate(int(kept * file.seek(0, io.SEEK_END)))
    with pytest.raises(CorruptImage, match=path):
        file_views.file_crops(path, DEFAULT_RULES, whole(1), [size], "bilinear")


# Images in memory


def in_memory(pixels, channels: int, side: int):
    return ImageSet("made", "train", np.zeros(6, np.int64), np.arange(6), images=pixels(6, channels, side, side))


def train(images, recipe: Recipe, size: int, workers: int = 0) -> torch.Tensor:
    loader = Loader(images, IMAGENET.at(size), torch.device("cpu"), workers)
    return torch.cat([b.views[0] for b in loader.train(np.arange(6), [recipe], batch_size=3, seed=1, epoch=0)])


@pytest.mark.parametrize(("side", "size"), [(BATCHED_SIZE, 16), (BATCHED_SIZE + 1, 16), (16, BATCHED_SIZE + 1)])
def test_only_images_and_views_up_to_the_limit_are_batched(pixels, monkeypatch, side, size):
    calls = []
    monkeypatch.setattr(views, "train_view", lambda x, *rest: calls.append(1) or torch.zeros(3, 3, size, size))
    train(in_memory(pixels, 3, side), PLAIN, size)
    assert bool(calls) == (max(side, size) <= BATCHED_SIZE)


@pytest.mark.parametrize("channels", [1, 3])
def test_large_images_in_memory_have_the_views_of_the_batch_within_steps(pixels, monkeypatch, channels):
    images = in_memory(pixels, channels, 80)
    in_bytes = train(images, dataclasses.replace(PAPER, hue=0.0), 70)
    monkeypatch.setattr("ssltool.data.loader.BATCHED_SIZE", 1000)
    steps = 255 * min(IMAGENET.std) * (in_bytes - train(images, dataclasses.replace(PAPER, hue=0.0), 70)).abs()
    assert steps.mean() < 1 and steps.max() < 5


def test_large_images_in_memory_do_not_depend_on_workers(pixels):
    images = in_memory(pixels, 3, 70)
    assert torch.equal(train(images, EVERYTHING, 70), train(images, EVERYTHING, 70, workers=2))


def test_views_are_in_channels_last_memory(pixels):
    made = Decoded(in_memory(pixels, 3, 70), IMAGENET.at(70), finished=True)[0, drawn(1).packed(), [70]]
    assert made[0].shape == (3, 70, 70) and made[0].stride() == (1, 3 * 70, 3)


def test_crops_for_a_gpu_need_no_opencv_and_are_finished_there(pixels):
    made = Decoded(in_memory(pixels, 3, 70), IMAGENET.at(70), finished=False)[0, drawn(1).packed(), [70]]
    assert made[0].shape == (3, 70, 70) and made[0].is_contiguous()


# OpenCV


def test_missing_opencv_is_one_line(monkeypatch, pixels):
    monkeypatch.setitem(sys.modules, "ssltool.data.byte_ops", None)
    with pytest.raises(SSLToolError, match="pip install opencv-python-headless") as caught:
        train(in_memory(pixels, 3, 70), PLAIN, 70)
    assert "\n" not in str(caught.value)
