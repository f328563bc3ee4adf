"""The flags of pixels on each layout: they have an effect, or they are refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import TINY, error_message
from ssltool.config import DataSettings
from ssltool.data.image_files import pixels
from ssltool.data.images import check_pixel_flags, open_dataset
from ssltool.data.layouts import LAYOUTS, PIXEL_FLAGS
from ssltool.data.pixels import DEFAULT_RULES
from ssltool.errors import SSLToolError
from ssltool.reprs.representation_set import RepresentationSet
from ssltool.reprs.row_pictures import RowPictures

GIVEN = {
    "--value-range": {"value_range": ("0", "9")},
    "--background": {"background": "red"},
    "--raw-pixels": {"raw_pixels": True},
    "--max-pixels": {"max_pixels": 9},
}
USED = {
    **dict.fromkeys(("folder", "imagenet", "images", "places365", "table", "webdataset", "hf"), frozenset(GIVEN)),
    "arrays": {"--value-range", "--background"},
    **dict.fromkeys(("bundled", "cache", "fashion-mnist", "cifar10", "cifar100", "stl10"), frozenset()),
}


@pytest.mark.parametrize("flag", GIVEN)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_flag_is_refused_where_the_layout_cannot_use_it(layout, flag):
    settings = DataSettings(dataset_type=layout, **GIVEN[flag])
    if flag in USED[layout]:
        check_pixel_flags(settings, settings)
        return
    with pytest.raises(SSLToolError, match=rf"^{flag} .*{layout}.*leave it out"):
        check_pixel_flags(settings, settings)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_defaults_that_a_run_saves_are_allowed_with_every_layout(layout):
    saved = DataSettings(dataset_type=layout, **DEFAULT_RULES.settings())
    check_pixel_flags(saved, saved)


def test_all_flags_are_named_in_the_table_and_none_given_opens_nothing():
    assert {name for given in GIVEN.values() for name in given} == set(PIXEL_FLAGS)
    check_pixel_flags(DataSettings(data="no such folder"), DataSettings(data="no such folder"))


@pytest.mark.parametrize("layout", ["images", "arrays"])
def test_flags_that_a_layout_uses_change_its_images(tmp_path, layout):
    """Each one changes a 16-bit image or a transparent one, or refuses it."""
    grey = np.random.default_rng(0).integers(0, 65536, (2, 8, 8), np.uint16)
    clear = np.zeros((2, 8, 8, 4), np.uint8)
    for name, values in {"grey": grey, "clear": clear}.items():
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "train.npy", values)
        for i, one in enumerate(values):
            Image.fromarray(one).save(tmp_path / name / f"{i}.png")

    def pixels(name: str, **given) -> torch.Tensor | None:
        try:
            return open_dataset(DataSettings(data=str(tmp_path / name), dataset_type=layout, **given), "train").images
        except SSLToolError:
            return None

    plain = {name: pixels(name) for name in ("grey", "clear")}
    assert None not in plain.values()
    changing = {flag for flag in GIVEN if any(not _equal(pixels(name, **GIVEN[flag]), plain[name]) for name in plain)}
    assert changing == USED[layout]


def _equal(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    return one is not None and other is not None and torch.equal(one, other)


@pytest.mark.parametrize("layout", ["images", "arrays"])
def test_background_and_range_of_opaque_8_bit_images_are_said_to_be_unused(tmp_path, layout):
    values = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    np.save(tmp_path / "train.npy", values)
    for i, one in enumerate(values):
        Image.fromarray(one).save(tmp_path / f"{i}.png")
    for flag in ("--background", "--value-range"):
        settings = DataSettings(data=str(tmp_path), dataset_type=layout, **GIVEN[flag])
        assert any(f"{flag} is not used" in note for note in open_dataset(settings, "train").notes)


@pytest.mark.parametrize("flag", [["--value-range", "auto"], ["--background", "red"]])
def test_every_stage_that_reads_images_refuses_flags_without_effect(ssltool, tmp_path, trained, flag):
    own = ["-j", 0, "-o", tmp_path / "out"]
    for command in ("lincls", "finetune", "save-reprs"):
        ran = ssltool(command, "--pretrained", trained / "checkpoint.pt", *flag, *own)
        assert error_message(ran).startswith(f"error: {flag[0]} ") and "bundled" in ran.err
    assert flag[0] in error_message(ssltool("pretrain", *TINY, "--epochs", 1, *flag, *own))
    assert not (tmp_path / "out").exists()


def test_settings_of_a_run_that_have_no_effect_on_other_images_are_no_error(ssltool, tmp_path, write_images):
    write_images(tmp_path / "data", 8)
    own = ["--epochs", 1, "-b", 4, "-j", 0, "--monitor-every", 0, "-o", tmp_path / "run"]
    assert ssltool("pretrain", tmp_path / "data", *TINY, *own, "--background", "red").code == 0
    network = ["--pretrained", tmp_path / "run" / "checkpoint.pt"]
    ran = ssltool("save-reprs", *network, "--dataset-type", "bundled", "--sample", 4, "-o", tmp_path / "a.pt")
    assert ran.code == 0, ran.err


@pytest.mark.parametrize("kind", ["range", "background", "corrupt"])
def test_pictures_of_rows_are_read_as_the_rows_were(ssltool, tmp_path, kind):
    """Arrays with a range, a table of transparent files, and a table of which a file was left out."""
    if kind == "range":
        np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(0, 4096, (4, 20, 20), np.uint16))
        data, flags = "images.npy", ["--value-range", 0, 4095]
    else:
        for i in range(3):
            Image.new("RGBA", (20, 20), (200, 60 * i, 0, 100)).save(tmp_path / f"{i}.png")
        data = "t.csv"
        names = ["path", *(["none.png"] if kind == "corrupt" else []), "0.png", "1.png", "2.png"]
        (tmp_path / data).write_text("\n".join(names) + "\n")
        flags = ["--skip-corrupt"] if kind == "corrupt" else ["--background", "black"]
    network = ["--pretrained", "random", "-a", "resnet18_w2", "--image-size", 16, "--device", "cpu", "-j", 0]
    ran = ssltool("save-reprs", tmp_path / data, *flags, *network, "-o", tmp_path / "r.pt")
    assert ran.code == 0, ran.err
    settings = DataSettings(
        data=str(tmp_path / data),
        value_range=("0", "4095") if kind == "range" else None,
        background="black" if kind == "background" else "white",
        skip_corrupt=kind == "corrupt",
    )
    images, pictures = open_dataset(settings, "train"), RowPictures(RepresentationSet.open(str(tmp_path / "r.pt")))
    for row in range(len(images)):
        expected = pixels(images, row)
        assert np.array_equal(pictures.picture(row), expected)
