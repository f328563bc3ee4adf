"""``ssltool plot patches``: of files of tokens, checkpoints and run folders; images that are not found."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers import error_message, usage_message
from ssltool.data import views
from ssltool.data.preprocessing import Preprocessing
from ssltool.reprs.representations import Representations
from ssltool.reprs.token_set import read_tokens
from ssltool.runs.patch_grids import grids_of_tokens

ARCH, SIDE, N = "vit_small_depth3_h6_p8", 4, 5
FLAGS = ["--device", "cpu", "-j", 0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of images, as arrays."""
    place = tmp_path_factory.mktemp("images")
    images = np.random.RandomState(0).randint(0, 256, (12, 32, 32, 3)).astype(np.uint8)
    np.save(place / "val_images.npy", images)
    np.save(place / "train_images.npy", images)
    return place


@pytest.fixture
def save(ssltool, tmp_path, folder):
    """Saves tokens of an untrained ViT: ``save(*flags) -> path``."""

    def run(*flags: object, data: object = folder):
        path = tmp_path / "tokens.pt"
        network = ["--pretrained", "random", "-a", ARCH, "--image-size", 32, "--crop-pct", 1]
        given = [] if data is None else [data]
        ran = ssltool("save-reprs", *given, *network, "--split", "val", *FLAGS, "-o", path, *flags)
        assert ran.code == 0, ran.err
        return path

    return run


def test_the_patches_stand_at_their_places_beside_the_pixels_that_the_network_saw(save, folder):
    tokens = read_tokens(save("--tokens", "all"))
    found = grids_of_tokens(tokens, N, str(folder))
    assert found.grids.shape == (N, SIDE, SIDE, 384)
    for i in (0, N - 1):
        np.testing.assert_array_equal(found.grids[i].reshape(16, -1), tokens[i].tokens[1:].numpy())
    pixels = np.load(folder / "val_images.npy")
    np.testing.assert_array_equal(np.stack(found.images), pixels[:N])
    assert found.names == [f"image {i}" for i in range(N)]


def test_sampled_patches_leave_gaps(save, folder):
    found = grids_of_tokens(read_tokens(save("--tokens", "patch", "--sample-patches", 7)), 3, str(folder))
    assert (~np.isnan(found.grids).any(axis=-1)).sum(axis=(1, 2)).tolist() == [7, 7, 7]


def test_a_figure_of_a_file_of_tokens(ssltool, save, folder, tmp_path):
    path = save("--tokens", "all")
    ran = ssltool("plot", "patches", path, "--data", folder, "--rows", 2, "--patch", "1,3", "-o", tmp_path / "a.svg")
    assert ran.code == 0, ran.err
    assert "cosine to patch 1,3" in (tmp_path / "a.svg").read_text()
    assert (tmp_path / "a.svg").read_text().count("image 1") == 1


def test_bundled_images_need_no_folder(ssltool, save, tmp_path):
    path = save("--tokens", "all", "--sample", 20, data=None)
    assert ssltool("plot", "patches", path, "--rows", 3, "-o", tmp_path / "a.png").code == 0
    assert "bundled" in error_message(ssltool("plot", "patches", path, "--data", tmp_path, "-o", tmp_path / "b.png"))


def test_images_that_are_missing_or_others_are_refused(ssltool, save, folder, tmp_path):
    path, out = save("--tokens", "all"), tmp_path / "a.png"
    assert ssltool("plot", "patches", path, "--rows", 1, "-o", out).code == 0
    out.unlink()
    assert "no such folder" in error_message(ssltool("plot", "patches", path, "--data", "elsewhere", "-o", out))
    other = tmp_path / "other"
    other.mkdir()
    for name in ("train_images.npy", "val_images.npy"):
        np.save(other / name, 255 - np.load(folder / name))
    assert "is not the image" in error_message(ssltool("plot", "patches", path, "--data", other, "-o", out))
    rows = tmp_path / "rows.pt"
    Representations(torch.randn(6, 3), torch.full((6,), -1), torch.arange(6), {}).save(rows)
    assert "no tokens" in error_message(ssltool("plot", "patches", rows, "-o", out))
    assert not out.exists()


@pytest.mark.parametrize(
    ("patch", "text"), [("3", "as in 3,5"), ("a,b", "as in 3,5"), ("1,-1", "counted from 0"), ("9,0", "rows 0 to 3")]
)
def test_a_patch_that_is_none_is_refused(ssltool, save, folder, tmp_path, patch, text):
    ran = ssltool(
        "plot", "patches", save("--tokens", "all"), "--data", folder, "--patch", patch, "-o", tmp_path / "a.png"
    )
    assert ran.code in (1, 2) and text in ran.err and not (tmp_path / "a.png").exists()


def test_a_patch_has_no_effect_on_other_plots(ssltool, tmp_path):
    ran = ssltool("plot", "views", tmp_path, "--patch", "1,1", "-o", tmp_path / "a.png")
    assert "plot patches" in usage_message(ran)


def test_pixels_are_those_after_the_transform_of_the_file(save, folder):
    tokens = read_tokens(save("--tokens", "all", "--crop-pct", 0.5))
    found = grids_of_tokens(tokens, 1, str(folder))
    image = torch.from_numpy(np.load(folder / "val_images.npy")[:1]).permute(0, 3, 1, 2)
    preprocessing = Preprocessing.of(tokens.meta)
    wanted = views.to_pixels(views.eval_view(image, preprocessing), preprocessing)
    # Files are resized by Pillow and arrays by torch, which round differently.
    np.testing.assert_allclose(found.images[0].astype(int), wanted[0].permute(1, 2, 0).numpy().astype(int), atol=1)
    assert (found.images[0] != np.load(folder / "val_images.npy")[0]).any()
