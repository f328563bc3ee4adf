"""The transform of a network: against timm's and torchvision's own, from files and in memory."""

from __future__ import annotations

import contextlib
import dataclasses
import math

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tv

from ssltool.checkpoints.pretrained_backbone import EvalTransform
from ssltool.config.fields import INTERPOLATIONS, TRANSFORM
from ssltool.data import views
from ssltool.data.images import ImageSet
from ssltool.data.loader import Loader
from ssltool.data.preprocessing import IMAGENET, Preprocessing, differences, refuse_unused
from ssltool.errors import SSLToolError
from ssltool.models.backbones import family_of

CPU = torch.device("cpu")
HALF = (0.5, 0.5, 0.5)

SIDES = st.integers(5, 90)


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    return Image.fromarray(np.random.default_rng([width, height]).integers(0, 256, shape, np.uint8), mode)


def in_memory(pictures: list[Image.Image]) -> ImageSet:
    pixels = torch.stack([tv.pil_to_tensor(picture) for picture in pictures])
    return ImageSet("made-up", "train", np.zeros(len(pixels), np.int64), np.arange(len(pixels)), images=pixels)


def on_disk(pictures: list[Image.Image], folder) -> ImageSet:
    paths = []
    for i, picture in enumerate(pictures):
        paths.append(str(folder / f"{i}.png"))
        picture.save(paths[-1])
    return ImageSet("made-up", "train", np.zeros(len(paths), np.int64), np.arange(len(paths)), paths=tuple(paths))


TIMM = [
    "resnet18",  # 0.95 of 235, bicubic
    "mobilenetv3_small_050",
    "vit_tiny_patch16_224",  # mean 0.5
    "vit_base_patch16_clip_224",
    "vit_base_patch16_siglip_224",  # squashed
    "volo_d4_448",  # a crop that is larger than the resized image
    "vit_small_patch14_dinov2",
]


@pytest.mark.parametrize("size", [None, 96, 117, 234])
@pytest.mark.parametrize("model", TIMM)
def test_the_transform_of_a_timm_model_is_timms(model, size):
    timm = pytest.importorskip("timm")
    data = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(model).to_dict())
    if size is not None:
        data["input_size"] = (3, size, size)
    size = data["input_size"][1]
    transform, ours = (
        timm.data.create_transform(**data),
        family_of(f"timm:{model}").preprocessing(f"timm:{model}", size),
    )
    for picture in (noise(size, size), noise(size + 30, size + 11), noise(40, 75)):
        assert (EvalTransform(ours)(picture) - transform(picture)).abs().max() < 1e-6


def test_images_that_timm_pads_are_refused():
    timm = pytest.importorskip("timm")
    names = [name for name in timm.list_models("deepseek*") if timm.get_pretrained_cfg(name).crop_mode == "border"]
    if names:
        with pytest.raises(SSLToolError, match=names[0]):
            family_of(f"timm:{names[0]}").preprocessing(f"timm:{names[0]}", None)


@pytest.mark.parametrize(
    "weights", ["ResNet18_Weights", "ResNet50_Weights", "EfficientNet_B1_Weights", "RegNet_Y_16GF_Weights"]
)
def test_transforms_of_torchvisions_weights_are_given_by_their_numbers(weights):
    for published in getattr(torchvision.models, weights):
        theirs = published.transforms()
        (size,), (resize,) = theirs.crop_size, theirs.resize_size
        mean, std = (tuple(values) for values in (theirs.mean, theirs.std))
        ours = Preprocessing(size, resize, interpolation=theirs.interpolation.value, mean=mean, std=std)
        for picture in (noise(size, size), noise(60, 47)):
            assert (EvalTransform(ours)(picture) - theirs(picture)).abs().max() < 1e-6


def test_our_own_transform_at_224_is_torchvisions_except_for_images_of_that_size():
    theirs = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.transforms()
    assert (EvalTransform(IMAGENET)(noise(300, 250)) - theirs(noise(300, 250))).abs().max() < 1e-6
    kept = tv.normalize(tv.to_tensor(noise(224, 224)), IMAGENET.mean, IMAGENET.std)
    assert (EvalTransform(IMAGENET)(noise(224, 224)) - kept).abs().max() < 1e-6


@given(
    width=SIDES, height=SIDES, size=st.integers(8, 64), crop=st.floats(0.5, 1.2), squash=st.booleans(), data=st.data()
)
@example(width=32, height=32, size=32, crop=1.0, squash=False, data=None)
def test_images_in_memory_are_transformed_as_by_pillow(width, height, size, crop, squash, data):
    interpolation = "bicubic" if data is None else data.draw(st.sampled_from(INTERPOLATIONS))
    ours = Preprocessing(size, max(1, int(size / crop)), squash, interpolation, HALF, HALF)
    for mode in ("RGB", "L"):
        picture = noise(width, height, mode)
        sides = [ours.resize, ours.resize] if squash else [ours.resize]
        resized = tv.resize(picture.convert("RGB"), sides, InterpolationMode(interpolation))
        expected = tv.normalize(tv.to_tensor(tv.center_crop(resized, [size, size])), HALF, HALF)
        (batch,) = Loader(in_memory([picture]), ours, CPU).evaluate(1)
        assert (batch.views[0][0] - expected).abs().max() <= 1.02 / 255 / 0.5  # a grey level


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_random_crops_of_images_in_memory_and_of_files_are_interpolated_alike(interpolation, tmp_path):
    pictures = [noise(40, 30) for _ in range(4)]
    transform = dataclasses.replace(IMAGENET.at(24), interpolation=interpolation)
    made = [
        list(Loader(images, transform, CPU).train(np.arange(4), [views.PLAIN], batch_size=4, seed=0, epoch=0))
        for images in (in_memory(pictures), on_disk(pictures, tmp_path))
    ]
    (memory,), (files,) = made
    tolerance = 1.02 / 255 / min(IMAGENET.std) if interpolation == "bilinear" else 0
    assert (memory.views[0] - files.views[0]).abs().max() <= tolerance


def test_the_interpolation_changes_random_crops_and_the_validation_transform():
    images = in_memory([noise(40, 30)])
    made = {}
    for interpolation in INTERPOLATIONS:
        loader = Loader(images, dataclasses.replace(IMAGENET.at(24), interpolation=interpolation), CPU)
        (crop,) = loader.train(np.arange(1), [views.PLAIN], batch_size=1, seed=0, epoch=0)
        (whole,) = loader.evaluate(1)
        made[interpolation] = (crop.views[0], whole.views[0])
    for part in (0, 1):
        outputs = [made[name][part] for name in INTERPOLATIONS]
        assert all((a - b).abs().max() > 0.05 for i, a in enumerate(outputs) for b in outputs[:i])


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_transform_images_in_memory_alike(workers):
    images = in_memory([noise(40, 30) for _ in range(6)])
    ours = Preprocessing(16, 20, interpolation="lanczos")
    batches = list(Loader(images, ours, CPU, workers).evaluate(4))
    expected = torch.stack([EvalTransform(ours)(noise(40, 30)) for _ in range(6)])
    assert torch.equal(torch.cat([batch.views[0] for batch in batches]), expected)


@given(size=st.integers(8, 1024), mean=st.floats(0, 1), std=st.floats(0.01, 1))
def test_pixels_come_back_from_any_statistics(size, mean, std):
    ours = dataclasses.replace(IMAGENET.at(size), mean=(mean,) * 3, std=(std,) * 3)
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    assert torch.equal(views.to_pixels(views.standardise(pixels.float() / 255, ours), ours), pixels)


# Settings and records


@given(size=st.integers(8, 2048), crop=st.floats(0.05, 1))
def test_a_crop_fraction_resizes_as_in_timm(size, crop):
    ours = IMAGENET.at(size).with_settings({"crop_pct": crop})
    assert (ours.resize, ours.keeps_size) == (math.floor(size / crop), False)
    assert ours.at(2 * size).resize == math.floor(2 * size / crop)
    assert ours.keeps((size, size)) is (ours.resize == size)


@given(size=st.integers(8, 2048))
def test_our_own_resize_is_256_of_224_rounded(size):
    assert IMAGENET.at(size).resize == round(size * 256 / 224)
    assert IMAGENET.at(size).keeps((size, size)) and not IMAGENET.at(size).keeps((size, size + 1))


def test_settings_and_records_give_the_transform_again():
    ours = Preprocessing(96, 101, True, "bicubic", HALF, HALF, crop_pct=0.95)
    assert IMAGENET.at(96).with_settings(ours.settings()) == ours
    assert Preprocessing.of({"preprocessing": ours.record()}) == ours
    assert set(ours.settings()) == set(TRANSFORM)
    assert IMAGENET.at(96).with_settings(dict.fromkeys(TRANSFORM)) == IMAGENET.at(96)


def test_files_of_earlier_versions_have_imagenets_transform():
    assert Preprocessing.of({"image_size": 28}) == IMAGENET.at(28)
    assert Preprocessing.of({}) is None
    assert differences({"image_size": 28}, {"preprocessing": IMAGENET.at(28).record()}, {}) == []


def test_differences_name_the_values():
    other = dataclasses.replace(IMAGENET.at(28), mean=HALF, interpolation="lanczos")
    found = differences({"image_size": 28}, {"preprocessing": other.record()})
    assert [text.split()[0] for text in found] == ["interpolation", "mean"]
    assert "0.5 0.5 0.5" in found[1] and "bilinear and lanczos" in found[0]


def test_settings_that_change_nothing_for_the_images_are_refused():
    own = IMAGENET.at(28)
    for change, size, crops, refused in (
        ({"squash": True}, (40, 40), False, True),
        ({"squash": True}, (40, 30), False, False),
        ({"squash": True}, None, False, False),
        ({"squash": False}, (40, 40), False, False),  # its own
        ({"interpolation": "bicubic"}, (28, 28), False, True),
        ({"interpolation": "bicubic"}, (28, 28), True, False),
        ({"interpolation": "bicubic"}, (40, 40), False, False),
    ):
        used = own.with_settings(change)
        with pytest.raises(SSLToolError, match=f"--{next(iter(change))}") if refused else contextlib.nullcontext():
            refuse_unused(own, used, size, crops=crops)
