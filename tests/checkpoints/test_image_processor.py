"""Settings of image processors of transformers as ssltool's transform."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hub_helpers import transformers
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ssltool.checkpoints.image_processor import preprocessing_of, read_image_processor
from ssltool.data.preprocessing import IMAGENET_MEAN, Preprocessing
from ssltool.errors import SSLToolError

FILE = Path("preprocessor_config.json")
PILLOW = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}


def of(**settings) -> Preprocessing:
    transformers()
    return preprocessing_of(settings, FILE)


def ours(image: Image.Image, p: Preprocessing) -> torch.Tensor:
    """What ``Preprocessing`` stands for, with Pillow."""
    width, height = image.size
    short = min(width, height)
    size = (p.resize, p.resize) if p.squash else (p.resize * width // short, p.resize * height // short)
    image = image.resize(size, resample=PILLOW[p.interpolation])
    left, top = ((side - p.size) // 2 for side in image.size)
    pixels = torch.tensor(np.asarray(image)[top : top + p.size, left : left + p.size] / 255.0).permute(2, 0, 1)
    return (pixels - torch.tensor(p.mean)[:, None, None]) / torch.tensor(p.std)[:, None, None]


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("ViTImageProcessor", {"size": {"height": 32, "width": 32}, "resample": 3}),
        ("ViTImageProcessor", {"size": 32, "do_normalize": False}),
        ("ViTImageProcessor", {"size": 32, "do_rescale": False}),
        ("ViTImageProcessor", {"size": 32, "rescale_factor": 1 / 127.5, "resample": 0}),
        ("DeiTImageProcessor", {"size": 36, "crop_size": 32}),
        ("CLIPImageProcessor", {"size": 36, "crop_size": {"height": 32, "width": 32}}),
        ("BitImageProcessor", {"size": {"shortest_edge": 36}, "crop_size": 32}),
        ("ConvNextImageProcessor", {"size": {"shortest_edge": 28}, "crop_pct": 0.875}),
        ("ConvNextImageProcessor", {"size": 384}),
        ("SiglipImageProcessor", {"size": {"height": 32, "width": 32}}),
        ("DINOv3ViTImageProcessor", {"size": {"height": 32, "width": 32}}),
    ],
)
def test_pixels_are_those_of_the_librarys_processor(kind, settings):
    library = transformers()
    cls = getattr(library, f"{kind}Pil", None) or getattr(library, kind)
    rng = np.random.default_rng(0)
    smooth = rng.integers(0, 256, (6, 8, 3), np.uint8)
    image = Image.fromarray(smooth).resize((64, 48), Image.Resampling.BICUBIC)
    expected = cls(**settings)(images=image, return_tensors="pt")["pixel_values"][0]
    found = ours(image, of(image_processor_type=kind, **settings))
    assert found.shape == expected.shape
    scale = float(expected.max() - expected.min())
    # Pixels are rounded to 8 bits after resizing, at borders with other weights by some versions.
    assert float((found - expected).abs().mean()) < 0.01 * scale


def test_early_files_with_a_feature_extractor_are_read():
    found = of(feature_extractor_type="CLIPFeatureExtractor", size=224, resample=3, crop_size=224)
    assert (found.size, found.resize, found.squash, found.interpolation) == (224, 224, False, "bicubic")
    assert of(feature_extractor_type="ViTFeatureExtractor", size=384).squash


def test_a_processor_that_the_library_lacks_is_read_by_its_settings():
    found = of(image_processor_type="os.system", size={"height": 64, "width": 64}, image_mean=list(IMAGENET_MEAN))
    assert (found.size, found.mean) == (64, IMAGENET_MEAN)


def test_patches_of_any_aspect_ratio_are_those_of_a_square():
    found = of(image_processor_type="Siglip2ImageProcessor", patch_size=16, max_num_patches=256)
    assert (found.size, found.resize, found.squash) == (256, 256, True)


def test_images_that_are_not_resized_are_resized_to_the_size_of_the_network():
    assert of(do_resize=False, size=96).size == 96


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"size": "big"}, "size"),
        ({"size": {"height": 224, "width": 192}}, "square"),
        ({"size": {"height": -1, "width": -1}}, "size"),
        ({"size": 224, "do_center_crop": True, "crop_size": {"height": 2, "width": 3}}, "square"),
        ({"resample": 4}, "resample"),
        ({"resample": "bicubic"}, "resample"),
        ({"image_mean": [0.5, 0.5]}, "image_mean"),
        ({"image_std": [0, 1, 1]}, "image_std"),
        ({"image_mean": 0.5}, "image_mean"),
        ({"do_resize": "yes"}, "do_resize"),
        ({"rescale_factor": float("nan")}, "rescale_factor"),
    ],
)
def test_values_that_do_not_fit_are_one_line_with_the_file(settings, part):
    with pytest.raises(SSLToolError, match=part) as error:
        of(**settings)
    assert "\n" not in str(error.value) and str(FILE) in str(error.value)


@given(
    st.tuples(*[st.floats(0.01, 0.99)] * 3),
    st.tuples(*[st.floats(0.05, 2)] * 3),
    st.floats(1e-3, 1),
)
def test_a_factor_is_the_same_as_other_statistics(mean, std, factor):
    found = of(image_mean=list(mean), image_std=list(std), rescale_factor=factor)
    pixel = np.array([10.0, 100.0, 200.0])  # of 0 to 255
    np.testing.assert_allclose((pixel / 255 - found.mean) / found.std, (pixel * factor - mean) / std, rtol=1e-9)


def test_a_folder_without_a_processor_has_none(tmp_path):
    assert read_image_processor(tmp_path) is None
    (tmp_path / FILE).write_text(json.dumps([1]))
    with pytest.raises(SSLToolError, match=str(FILE)):
        read_image_processor(tmp_path)
