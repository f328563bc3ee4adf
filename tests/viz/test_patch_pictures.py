"""Pictures of patches: what the colours, cosines and norms of known patches are."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest

from ssltool.errors import SSLToolError
from ssltool.viz.patch_pictures import (
    COLOUR_MAP,
    component_colours,
    cosine_map,
    limits_of,
    painted,
    patch_pictures,
    plot_patches,
)

R = np.random.RandomState(0)
GRIDS = R.randn(3, 4, 5, 7).astype(np.float32)
IMAGES = [R.randint(0, 256, (32, 40, 3)).astype(np.uint8) for _ in range(3)]


def test_equal_patches_have_equal_colours_in_all_images_and_different_ones_do_not():
    grids = np.zeros((2, 3, 3, 6))
    for part in range(3):
        grids[0, part, :, part] = grids[1, :, part, part] = 1.0
    colours = component_colours(grids)
    assert colours.shape == (2, 3, 3, 3) and colours.dtype == np.uint8
    assert len(np.unique(colours.reshape(-1, 3), axis=0)) == 3
    assert (colours[0] == colours[1].transpose(1, 0, 2)).all()


def test_one_direction_is_shown_in_red_from_its_lowest_to_its_highest_value():
    line = np.linspace(-1, 1, 12).reshape(1, 3, 4, 1) * np.array([0.0, 2.0, 0.5])
    colours = component_colours(line).reshape(-1, 3)
    assert (np.diff(colours[:, 0].astype(int)) > 0).all() and colours[0, 0] == 0 and colours[-1, 0] == 255
    assert (colours[:, 1:] == 128).all()


def test_patches_without_variance_are_grey_and_places_without_one_white():
    grids = np.ones((1, 2, 2, 5))
    grids[0, 1, 0] = np.nan
    colours = component_colours(grids)[0]
    assert (colours[1, 0] == 255).all() and (colours[0] == 128).all()


def test_neither_the_scale_nor_the_width_changes_the_colours():
    wanted = component_colours(GRIDS)
    padded = np.concatenate([100 * GRIDS, np.zeros((3, 4, 5, 9), np.float32)], axis=-1)
    assert np.abs(component_colours(padded).astype(int) - wanted).max() <= 1


def test_cosines_are_those_with_the_patch():
    found = cosine_map(GRIDS[0], (1, 2))
    a, b = GRIDS[0, 1, 2].astype(float), GRIDS[0, 3, 4].astype(float)
    assert found[1, 2] == pytest.approx(1.0)
    assert found[3, 4] == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    assert (cosine_map(np.zeros((2, 2, 3)), (0, 0)) == 0).all()


def test_each_image_has_its_norms_and_the_patch_in_the_middle_by_default():
    found = patch_pictures(GRIDS, IMAGES, ["a", "b", "c"])
    assert [one.name for one in found] == ["a", "b", "c"]
    assert all(one.patch == (2, 2) and one.cosines[2, 2] == pytest.approx(1.0) for one in found)
    np.testing.assert_allclose(found[1].norms, np.linalg.norm(GRIDS[1], axis=-1), rtol=1e-6)
    assert patch_pictures(GRIDS, IMAGES, ["a", "b", "c"], (0, 4))[2].cosines[0, 4] == pytest.approx(1.0)


@pytest.mark.parametrize("patch", [(4, 0), (0, 5), (-1, 0)])
def test_a_patch_outside_the_grid_is_refused(patch):
    with pytest.raises(SSLToolError, match="rows 0 to 3 and columns 0 to 4"):
        patch_pictures(GRIDS, IMAGES, ["a", "b", "c"], patch)


def test_a_patch_that_was_not_kept_is_refused():
    grids = GRIDS.copy()
    grids[1, 0, 0] = np.nan
    with pytest.raises(SSLToolError, match=r"0,0.*sampled"):
        patch_pictures(grids, IMAGES, ["a", "b", "c"], (0, 0))


def test_maps_are_painted_in_the_colours_of_figures_and_gaps_are_white():
    values = np.array([[0.0, 0.5], [1.0, np.nan]])
    found = painted(values, (0.0, 1.0))
    wanted = (np.array(matplotlib.colormaps[COLOUR_MAP](values[0, 1])[:3]) * 255).astype(np.uint8)
    assert (found[0, 1] == wanted).all() and (found[1, 1] == 255).all()
    assert limits_of([values, values - 3]) == (-3.0, 1.0)
    assert painted(np.ones((2, 2)), (1.0, 1.0)).shape == (2, 2, 3)


def test_nearly_equal_norms_and_cosines_have_nearly_the_same_colour():
    """As after a layer norm; differences of a third of the values use all colours."""
    noise = np.random.default_rng(0).random((4, 5))
    for scale, least, most in ((1e-3, 0, 3), (3.0, 150, 255)):
        norms = 7 - scale * noise
        channels = painted(norms, limits_of([norms])).astype(int)
        assert least <= (channels.max(axis=(0, 1)) - channels.min(axis=(0, 1))).max() <= most


def test_figures_show_names_as_they_are(tmp_path):
    found = patch_pictures(GRIDS, IMAGES, ["a$b.png", "<x>\x1b[31m", "c" * 80])
    plot_patches(found, str(tmp_path / "a.svg"))
    text = (tmp_path / "a.svg").read_text()
    assert "a$b.png" in text and "&lt;x&gt;" in text and "\x1b" not in text and "c" * 80 not in text
    with pytest.raises(SSLToolError, match="--out"):
        plot_patches(found, str(tmp_path / "a.txt"))
