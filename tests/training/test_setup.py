"""A setup: flags become options, settings are checked against the images, and what a run needs is found beforehand."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest

from helpers import usage_message
from ssltool.checkpoints.checkpoint import Checkpoint
from ssltool.config import PretrainConfig
from ssltool.data import views
from ssltool.errors import SSLToolError
from ssltool.files.stored import weights_hash
from ssltool.stages.pretrain.prepare import prepare
from tiny_methods import tiny_config

OPTION_FLAGS = {f.name: f.metadata["method_option"] for f in dataclasses.fields(PretrainConfig)}
OPTION_FLAGS = {name: option for name, option in OPTION_FLAGS.items() if option}


@pytest.fixture
def setup(tmp_path, trained):
    """The setup of a tiny run of a method on 160 images: ``setup("byol", seed=3)``; ``options`` are the method's."""

    def make(method: str, **changes):
        return prepare(tiny_config(method, tmp_path / "run", trained, **changes))

    return make


@pytest.fixture
def plain(tmp_path):
    """A setup without any options but those that flags give: ``plain("moco", moco_dim=8)``."""

    def make(method: str, **changes):
        return prepare(PretrainConfig(method=method, arch="resnet18_w8", batch_size=32, device="cpu", **changes))

    return make


# Flags that stand for options


@pytest.mark.parametrize(
    ("method", "setting", "given", "option", "value"),
    [
        ("simsiam", "dim", 8, "dim", 8),
        ("simsiam", "pred_dim", 8, "pred_dim", 8),
        ("byol", "fix_pred_lr", True, "fix_pred_lr", True),
        ("wmse", "n_augs", 4, "n_augs", 4),
        ("mocov3", "moco_dim", 8, "dim", 8),
        ("mocov3", "moco_mlp_dim", 24, "hidden", 24),
        ("moco", "moco_m", 0.5, "momentum", 0.5),
        ("mocov3", "moco_t", 0.2, "temperature", 0.2),
        ("mocov3", "moco_m_cos", True, "momentum_final", 1.0),
        ("distill", "ema_alpha", 0.2, "alpha", 0.2),
        ("paws", "labels_fraction", 0.5, "labels_fraction", 0.5),
    ],
)
def test_flag_sets_the_option_of_the_method(plain, trained, method, setting, given, option, value):
    teacher = {"teacher_checkpoint": str(trained / "checkpoint.pt")} if method == "distill" else {}
    setup = plain(method, **{setting: given}, **teacher)
    assert getattr(setup.options, option) == value
    saved = setup.saved_run.settings
    assert saved["method_options"] == dataclasses.asdict(setup.options)
    assert not OPTION_FLAGS.keys() & saved.keys() and "options" not in saved


def test_teachers_checkpoint_and_labels_files_have_flags_too(plain, trained, tmp_path):
    checkpoint = str(trained / "checkpoint.pt")
    assert plain("distill", teacher_checkpoint=checkpoint).options.teacher == checkpoint
    np.save(tmp_path / "labelled.npy", np.arange(500))
    assert plain("paws", labels_path=str(tmp_path / "labelled.npy")).options.labels_path == str(
        tmp_path / "labelled.npy"
    )


def test_an_option_without_its_flag_keeps_the_methods_default(plain):
    options = plain("moco").options
    assert (options.momentum, options.momentum_final, options.temperature) == (0.999, None, 0.2)


def test_flag_that_is_off_does_not_set_its_option(plain):
    for method, momentum_final in (("mocov3", 1.0), ("moco", None)):
        assert plain(method, moco_m_cos=False).options.momentum_final == momentum_final


def test_a_flag_that_is_on_is_the_number_1_in_the_saved_settings(plain):
    value = plain("moco", moco_m_cos=True).saved_run.settings["method_options"]["momentum_final"]
    assert (value, type(value)) == (1.0, float)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dim": 8, "moco_dim": 8}, "--moco-dim .*option dim;"),
        ({"moco_m": 0.9, "options": ("momentum=0.9",)}, "option momentum "),
        ({"moco_t": 0.1, "options": ("temperature=0.1",)}, "option temperature "),
        ({"moco_mlp_dim": 8, "options": ("hidden=8",)}, "option hidden "),
        ({"moco_m_cos": True, "options": ("momentum-final=1",)}, "option momentum_final "),
    ],
    ids=str,
)
def test_option_that_is_given_twice_is_refused(plain, given, message):
    with pytest.raises(SSLToolError, match=message):
        plain("mocov3", **given)


@pytest.mark.parametrize(
    ("method", "given", "option"),
    [
        ("simsiam", {"moco_t": 0.1}, "temperature"),
        ("byol", {"pred_dim": 8}, "pred_dim"),
        ("supervised", {"dim": 8}, "dim"),
        ("byol", {"labels_fraction": 0.5}, "labels_fraction"),
    ],
)
def test_flag_for_an_option_that_the_method_lacks_is_refused(plain, method, given, option):
    with pytest.raises(SSLToolError, match=f"{method} '{option}'"):
        plain(method, **given)


# Views


def test_flags_of_the_views_make_the_recipe(setup):
    made = setup("simsiam", solarize_p=0.3, jitter=2.0, crop_min=0.4, blur_p=0.7, gray_p=0.1, flip_p=0.2).recipe
    assert made == dataclasses.replace(
        views.PAPER,
        solarize_p=0.3,
        brightness=0.8,
        contrast=0.8,
        saturation=0.8,
        hue=0.2,
        crop_scale=(0.4, 1.0),
        blur_p=0.7,
        gray_p=0.1,
        flip_p=0.2,
    )


def test_recipe_without_flags_is_the_papers_but_for_the_blur_of_small_images(setup):
    assert setup("simsiam").recipe == dataclasses.replace(views.PAPER, blur_p=0.0)


# Labels


@pytest.mark.parametrize("fraction", [0.01, 0.25, 1.0])
def test_support_is_the_share_of_each_classs_images(setup, fraction):
    made = setup("paws", options={"labels_fraction": fraction})
    images = made.images
    for number in range(10):
        wanted = max(1, round(fraction * int((images.labels == number).sum())))
        assert (made.support.images.labels == number).sum() == wanted
    assert set(made.support.images.index) <= set(images.index)


def test_support_is_a_function_of_the_seed(setup):
    one, again, other = (setup("paws", seed=seed).saved_run.settings["support_hash"] for seed in (1, 1, 2))
    assert one == again != other


def test_labels_file_names_the_labelled_images_by_their_numbers_in_the_data(setup, tmp_path):
    numbers = np.array([7950, 50, 0, 3100])  # of the images, which are every 50th of the bundled ones
    np.save(tmp_path / "labelled.npy", numbers)
    made = setup("paws", options={"labels_path": tmp_path / "labelled.npy"})
    assert made.support.images.index.tolist() == sorted(numbers)
    assert made.support.classes == len(set(made.support.images.labels))


def test_labels_file_beside_a_share_is_refused(setup, tmp_path):
    np.save(tmp_path / "labelled.npy", np.arange(0, 500, 50))
    options = {"labels_path": tmp_path / "labelled.npy", "labels_fraction": 0.5}
    with pytest.raises(SSLToolError, match=r"labels_path .*labels_fraction"):
        setup("paws", options=options)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ([-1], "--labels-path: .*labelled.npy .*index -1,"),
        ([50, 50], "--labels-path: .*labelled.npy .*index 50 "),
        ([51, 52], "labelled.npy"),
    ],
    ids=["negative", "twice", "of the left out"],
)
def test_labels_file_with_numbers_of_no_labelled_image_is_refused(setup, tmp_path, numbers, message):
    np.save(tmp_path / "labelled.npy", np.array(numbers))
    with pytest.raises(SSLToolError, match=message):
        setup("paws", options={"labels_path": tmp_path / "labelled.npy"})


def test_numbers_of_images_that_are_left_out_are_counted(setup, tmp_path, capsys):
    np.save(tmp_path / "labelled.npy", [50, 51, 7999, 7950])  # the images are every 50th of the bundled ones
    made = setup("paws", options={"labels_path": tmp_path / "labelled.npy"})
    assert made.support.images.index.tolist() == [50, 7950]
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "labelled.npy" in line]
    assert re.search(r"\b2 of the 4 .*\b51$", line)


def test_support_options_set_the_images_and_classes_of_a_step(setup):
    whole = setup("paws", options={"support_per_class": 3}).support
    assert (whole.classes, whole.batch_size) == (10, 30)
    part = setup("paws", options={"support_per_class": 3, "support_classes": 4}).support
    assert (part.classes, part.batch_size) == (4, 12)


def test_more_classes_in_a_step_than_are_labelled_are_refused(setup):
    with pytest.raises(SSLToolError, match=r"--set support_classes=11.* 10 classes"):
        setup("paws", options={"support_classes": 11})


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("supervised", "supervised .*40 of 40 images"),
        ("paws", "label"),
    ],
)
def test_method_that_needs_labels_refuses_unlabelled_images(setup, write_images, tmp_path, method, message):
    write_images(tmp_path / "pile", 40)
    with pytest.raises(SSLToolError, match=message):
        setup(method, data=str(tmp_path / "pile"), idx_path=None)


@pytest.mark.parametrize("method", ["simsiam", "supervised", "distill"])
def test_methods_without_support_get_none(setup, method):
    made = setup(method)
    assert made.support is None
    assert made.saved_run.settings["support_hash"] is None


# Teachers


def test_saved_settings_contain_the_teachers_architecture_and_hash(setup, trained):
    saved = setup("distill").saved_run.settings
    teacher = Checkpoint.load(trained / "checkpoint.pt")
    assert saved["second_hash"] == weights_hash(teacher.state_dict)
    assert saved["second_backbone"]["arch"] == "resnet18_w8"
    saved = setup("simsiam").saved_run.settings
    assert saved["second_hash"] is saved["second_backbone"] is None


def test_distilling_without_a_teacher_is_refused_before_anything_is_written(ssltool, tmp_path):
    ran = ssltool("pretrain", "--method", "distill", "-a", "resnet18_w8", "--device", "cpu", "-o", tmp_path / "run")
    assert "--set teacher=FILE" in usage_message(ran)
    assert not (tmp_path / "run").exists()


# The predictor's warm-up


@pytest.mark.parametrize(
    ("method", "options"),
    [("simclr", {}), ("supervised", {}), ("byol", {"predictor": "none"}), ("simsiam", {"predictor": "fixed"})],
    ids=["simclr", "supervised", "byol without a predictor", "simsiam with a fixed one"],
)
def test_predictor_warm_up_is_refused_without_a_trainable_predictor(setup, method, options):
    made = setup(method, n_warmup_steps=2, options=options)
    with pytest.raises(SSLToolError, match=f"--n-warmup-steps .*{method} "):
        made.build_method()
    assert setup(method, options=options).build_method()


@pytest.mark.parametrize("method", ["simsiam", "byol", "mocov3", "nnclr"])
def test_predictor_warm_up_is_accepted_with_a_trainable_predictor(setup, method):
    groups = setup(method, n_warmup_steps=2).build_method().param_groups()
    assert [group["is_encoder"] for group in groups] == [True, False]


def test_refused_predictor_warm_up_leaves_no_folder(ssltool, tmp_path):
    flags = ["--method", "simclr", "--n-warmup-steps", 1, "-a", "resnet18_w8", "--device", "cpu"]
    ran = ssltool("pretrain", *flags, "-o", tmp_path / "run")
    assert "--n-warmup-steps" in usage_message(ran)
    assert not (tmp_path / "run").exists()


# Warnings


@pytest.mark.parametrize(("batch_size", "warned"), [(2, True), (15, True), (16, False), (32, False)])
def test_small_batches_with_batch_norm_cause_a_warning(setup, batch_size, warned):
    made = setup("simsiam", batch_size=batch_size)
    found = made.warnings(made.build_method())
    assert [f" {batch_size} images" in text and "--batch-size" in text for text in found] == [True] * warned


def test_warnings_of_the_method_come_first(setup):
    made = setup("mocov3", batch_size=8, options={"temperature": 0.01})
    first, second = made.warnings(made.build_method())
    assert "temperature=0.01" in first and "batch norm" in second
