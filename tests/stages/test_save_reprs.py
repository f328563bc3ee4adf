"""Representations of a trained network: which rows, of which layer, in which file, and where they come from."""

from __future__ import annotations

import dataclasses
import math
import re

import numpy as np
import pytest
import torch

import ssltool as package
from helpers import Ran, error_message, usage_message
from ssltool import seeds
from ssltool.checkpoints.build import build_method
from ssltool.checkpoints.checkpoint import Checkpoint
from ssltool.config import DataSettings, SaveReprsConfig
from ssltool.data import views
from ssltool.data.images import open_dataset
from ssltool.data.loader import Loader
from ssltool.data.preprocessing import IMAGENET, IMAGENET_MEAN, IMAGENET_STD
from ssltool.errors import SSLToolError
from ssltool.files.reading import file_hash
from ssltool.files.torch_files import load_dict
from ssltool.reprs.representations import Representations
from ssltool.stages import save_reprs

ROWS = [5, 3, 1999, 40, 41, 42, 0, 7, 100, 1000]
"""Images of the bundled data that the tests run through the network, in no order."""


@pytest.fixture
def some(tmp_path):
    """An index file of ten images, so that a pass takes no time."""
    np.save(tmp_path / "some.npy", np.array(ROWS))
    return tmp_path / "some.npy"


@pytest.fixture
def save(ssltool, trained, some):
    """Runs save-reprs on ten images of the trained network: ``save("--split", "val", "-o", path) -> Ran``."""

    def run(*flags):
        fixed = ["--pretrained", trained / "checkpoint.pt", "--device", "cpu", "--idx_path", some]
        return ssltool("save-reprs", *fixed, *flags)

    return run


def restored(run_folder) -> torch.nn.Module:
    """The network of a checkpoint in eval mode, without the stage under test."""
    checkpoint = Checkpoint.load(run_folder / "checkpoint.pt")
    model = build_method(checkpoint.run)
    model.load_state_dict(checkpoint.state_dict)
    return model.eval()


def val_images() -> torch.Tensor:
    """The ten val images by the validation transform at the checkpoint's 16 pixels."""
    images = open_dataset(DataSettings(), "val").select(np.array(ROWS))
    (batch,) = Loader(images, IMAGENET.at(16), torch.device("cpu")).evaluate(len(ROWS))
    return batch.views[0]


def test_without_out_the_files_have_the_papers_names(save, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = save("--split", "both", "--json")
    assert ran.code == 0
    names = [f"data/resnet18_w8_exp0000/bundled/{split}_reprs_e0.pt" for split in ("train", "val")]
    assert [written["path"] for written in ran.json["files"]] == names
    # The numbers in --idx-path are those of train images; val stays whole.
    assert [len(Representations.load(name)) for name in names] == [10, 2000]


def test_exp_id_and_extra_info_are_part_of_the_papers_name(save, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert save("--split", "val", "--exp_id", 12, "--extra_info", "again").code == 0
    assert (tmp_path / "data" / "resnet18_w8_exp0012_again" / "bundled" / "val_reprs_e0.pt").is_file()


def test_out_names_the_file(save, tmp_path):
    ran = save("--split", "val", "-o", tmp_path / "deep" / "mine.pt", "--json")
    (file,) = ran.json["files"]
    assert (file.pop("found")["layout"], ran.json.keys()) == ("bundled", {"files"})
    path = str(tmp_path / "deep" / "mine.pt")
    assert file == {"path": path, "split": "val", "n": 10, "d": 64, "layer": "backbone"}
    assert (tmp_path / "deep" / "mine.pt").is_file()


def test_out_names_the_folder_of_both_splits(save, tmp_path):
    assert save("--split", "both", "-o", tmp_path / "both").code == 0
    assert sorted(p.name for p in (tmp_path / "both").iterdir()) == ["train_reprs_e0.pt", "val_reprs_e0.pt"]


def test_out_may_be_an_existing_folder_for_one_split(save, tmp_path):
    (tmp_path / "there").mkdir()
    assert save("--split", "val", "-o", tmp_path / "there").code == 0
    assert [p.name for p in (tmp_path / "there").iterdir()] == ["val_reprs_e0.pt"]


def test_split_both_needs_a_folder(save, tmp_path):
    ran = save("--split", "both", "-o", tmp_path / "x.pt")
    assert "--split both" in usage_message(ran)
    assert not (tmp_path / "x.pt").exists()


def test_if_one_split_cannot_be_read_neither_is_written(ssltool, trained, tmp_path, write_images):
    write_images(tmp_path / "data" / "train", 4)  # and no val
    flags = ["--pretrained", trained / "checkpoint.pt", "--device", "cpu", "--data", tmp_path / "data"]
    ran = ssltool("save-reprs", *flags, "--split", "both", "-o", tmp_path / "both")
    assert ran.code == 1
    assert not (tmp_path / "both").exists()


def test_exp_id_and_extra_info_are_refused_with_out(save, tmp_path):
    for flags in (("--exp_id", 3), ("--extra_info", "x")):
        ran = save("--split", "val", "-o", tmp_path / "x.pt", *flags)
        assert flags[0].replace("_", "-") in usage_message(ran)


@pytest.mark.parametrize(("layer", "width"), [("backbone", 64), ("projector", 16), ("predictor", 16)])
def test_rows_are_the_layers_outputs_in_eval_mode(save, trained, tmp_path, layer, width):
    assert save("--split", "val", "--layer", layer, "-o", tmp_path / "r.pt").code == 0
    found = Representations.load(tmp_path / "r.pt")
    with torch.no_grad():
        wanted = restored(trained).embed(val_images(), layer)
    assert found.representations.shape == (10, width)
    assert found.representations.dtype == torch.float32
    assert bool((found.representations.std(dim=0) > 0).any())
    torch.testing.assert_close(found.representations, wanted, rtol=1e-4, atol=1e-5)


def test_rows_have_the_labels_and_numbers_of_their_images(save, tmp_path):
    for split in ("train", "val"):
        save("--split", split, "-o", tmp_path / f"{split}_reprs_e0.pt")
        found = Representations.load(tmp_path / f"{split}_reprs_e0.pt")
        images = open_dataset(DataSettings(), split)
        assert found.index.tolist() == ROWS
        assert found.targets.tolist() == images.labels[ROWS].tolist()


def test_meta_describes_the_network_and_the_data(save, trained, tmp_path):
    save("--split", "val", "--layer", "projector", "-o", tmp_path / "r.pt")
    meta = Representations.load(tmp_path / "r.pt").meta
    saved = Checkpoint.load(trained / "checkpoint.pt")
    assert meta["checkpoint"] == str(trained / "checkpoint.pt")
    assert meta["checkpoint_hash"] == file_hash(trained / "checkpoint.pt")
    assert (meta["dataset"], meta["split"], meta["layer"], meta["random"]) == ("bundled", "val", "projector", False)
    assert (meta["method"], meta["arch"], meta["stem"]) == ("simsiam", "resnet18_w8", "small-stride2")
    assert (meta["image_size"], meta["epoch"], meta["seed"]) == (16, 2, 10)
    assert meta["classes"] == [str(i) for i in range(10)]
    assert "resize" in meta["transform"]
    assert meta["config"] == saved.config
    assert (meta["ssltool"], meta["torch"]) == (package.__version__, torch.__version__)


def test_the_file_loads_without_executing_anything(save, tmp_path):
    save("--split", "val", "-o", tmp_path / "r.pt")
    contents = load_dict(tmp_path / "r.pt")
    assert contents["format"] == "ssltool/representations/1"
    assert {"representations", "targets", "index", "meta"} <= set(contents)


def test_random_is_an_untrained_network_and_deterministic(save, tmp_path):
    for name, flags in {"trained": [], "one": ["--random"], "two": ["--random"]}.items():
        assert save("--split", "val", "-o", tmp_path / f"{name}.pt", *flags).code == 0
    trained, one, two = (Representations.load(tmp_path / f"{name}.pt") for name in ("trained", "one", "two"))
    assert torch.equal(one.representations, two.representations)
    assert not torch.allclose(one.representations, trained.representations, rtol=0.01)
    assert (one.meta["random"], one.meta["epoch"]) == (True, 0)


@pytest.mark.parametrize("batch_size", [1, 3, 10])
def test_the_batch_size_does_not_change_the_rows(save, tmp_path, batch_size):
    save("--split", "val", "-o", tmp_path / "r.pt")
    save("--split", "val", "-o", tmp_path / "b.pt", "-b", batch_size)
    one, other = (Representations.load(tmp_path / name) for name in ("r.pt", "b.pt"))
    torch.testing.assert_close(other.representations, one.representations, rtol=1e-4, atol=1e-5)
    assert other.index.tolist() == one.index.tolist()


def test_the_split_may_be_part_of_the_dataset_type(save, tmp_path):
    ran = save("--dataset_type", "bundled_val", "-o", tmp_path / "r.pt", "--json")
    assert ran.json["files"][0]["split"] == "val"
    labels = open_dataset(DataSettings(), "val").labels[ROWS]
    assert Representations.load(tmp_path / "r.pt").targets.tolist() == labels.tolist()


def test_the_default_split_is_train(save, tmp_path):
    assert save("-o", tmp_path / "r.pt", "--json").json["files"][0]["split"] == "train"


def test_a_dataset_type_and_a_split_that_contradict_each_other_are_refused(save, tmp_path):
    ran = save("--dataset_type", "bundled_val", "--split", "train", "-o", tmp_path / "r.pt")
    assert "--dataset-type bundled_val and --split train" in usage_message(ran)


@pytest.mark.parametrize(("flag", "value"), [("--arch", "resnet18"), ("--stem", "imagenet")])
def test_another_network_than_the_checkpoints_is_refused(save, tmp_path, flag, value):
    ran = save(flag, value, "-o", tmp_path / "r.pt")
    assert ran.code == 1
    assert f"{flag} is {value}, " in ran.err
    assert not (tmp_path / "r.pt").exists()


def test_the_checkpoints_own_network_may_be_named(save, tmp_path):
    flags = ["-a", "resnet18_w8", "--stem", "small-stride2", "--image-size", 16, "--split", "val"]
    assert save(*flags, "-o", tmp_path / "named.pt").code == 0
    assert save("--split", "val", "-o", tmp_path / "r.pt").code == 0
    named, found = (Representations.load(tmp_path / name) for name in ("named.pt", "r.pt"))
    assert torch.equal(named.representations, found.representations)


def test_image_size_changes_the_input_and_not_the_network(save, tmp_path):
    save("--split", "val", "-o", tmp_path / "r.pt")
    save("--split", "val", "-o", tmp_path / "large.pt", "--image-size", 28)
    found, large = (Representations.load(tmp_path / name) for name in ("r.pt", "large.pt"))
    assert large.meta["image_size"] == 28
    assert large.representations.shape == found.representations.shape
    assert not torch.allclose(large.representations, found.representations, rtol=0.01)


def test_another_folder_of_images_is_read_by_the_same_network(ssltool, trained, write_images, tmp_path):
    write_images(tmp_path / "pile", 5)
    flags = ["--pretrained", trained / "checkpoint.pt", "--device", "cpu", "-j", 0, "-o", tmp_path / "r.pt"]
    assert ssltool("save-reprs", tmp_path / "pile", *flags).code == 0
    found = Representations.load(tmp_path / "r.pt")
    assert found.representations.shape == (5, 64)
    assert found.targets.tolist() == [-1] * 5
    assert found.meta["dataset"] == "images"


def test_weights_that_do_not_fit_the_settings_are_refused(trained, tmp_path):
    checkpoint = Checkpoint.load(trained / "checkpoint.pt")
    checkpoint.state_dict["backbone.conv1.weight"] = torch.zeros(8, 3, 5, 5)
    checkpoint.save(tmp_path / "c.pt")
    with pytest.raises(SSLToolError, match=r"c\.pt.*backbone\.conv1\.weight.*resnet18_w8"):
        save_reprs.run(SaveReprsConfig(pretrained=str(tmp_path / "c.pt"), device="cpu", out=str(tmp_path / "r.pt")))


def by_hand(run_folder, count: int) -> torch.Tensor:
    """Outputs (N, count, d) for the loader's own views of the ten val images, made by the paper's recipe, which has no
    blur at the checkpoint's 16 pixels. 256 views are drawn together."""
    images = open_dataset(DataSettings(), "val").select(np.array(ROWS))
    seed = seeds.derive(Checkpoint.load(run_folder / "checkpoint.pt").config["seed"], seeds.Stream.SAVED_VIEWS)
    recipes = [dataclasses.replace(views.PAPER, blur_p=0.0)] * count
    loader, model = Loader(images, IMAGENET.at(16), torch.device("cpu")), restored(run_folder)
    batches = loader.train(np.arange(len(ROWS)), recipes, batch_size=256 // count, seed=seed, epoch=0)
    with torch.no_grad():
        return torch.cat([torch.stack([model.embed(v, "backbone") for v in b.views], dim=1) for b in batches])


@pytest.mark.parametrize(("count", "flags"), [(3, []), (2, ["-b", 6]), (3, ["-b", 2]), (60, ["-b", 300])])
def test_views_are_the_outputs_for_augmented_views_as_the_run_makes_them_at_any_batch_size(
    save, trained, tmp_path, count, flags
):
    ran = save("--split", "val", "--views", count, *flags, "-o", tmp_path / "r.pt", "--json")
    assert (ran.json["files"][0]["n"], ran.json["files"][0]["d"]) == (10, 64)
    found = Representations.stored(tmp_path / "r.pt")
    assert (found.representations.shape, found.representations.dtype) == ((10, count, 64), torch.float32)
    assert found.index.tolist() == ROWS
    assert found.targets.tolist() == open_dataset(DataSettings(), "val").labels[ROWS].tolist()
    torch.testing.assert_close(found.representations, by_hand(trained, count), rtol=1e-4, atol=1e-5)


def test_views_of_an_image_differ_and_are_deterministic(save, tmp_path):
    for name in ("one.pt", "two.pt"):
        assert save("--split", "val", "--views", 2, "-o", tmp_path / name).code == 0
    one, two = (Representations.stored(tmp_path / name).representations for name in ("one.pt", "two.pt"))
    assert torch.equal(one, two)
    assert not torch.allclose(one[:, 0], one[:, 1], rtol=0.01)


def of_another_seed(trained, tmp_path):
    """The same network, as a run of another seed would have saved it."""
    checkpoint = Checkpoint.load(trained / "checkpoint.pt")
    checkpoint.config["seed"] += 1
    checkpoint.save(tmp_path / "other.pt")
    return ["--pretrained", tmp_path / "other.pt"]  # the last --pretrained counts


def test_views_and_samples_depend_on_the_seed_of_the_run(save, trained, tmp_path):
    other = of_another_seed(trained, tmp_path)
    for name, flags in {"plain": [], "views": ["--views", 2], "sample": ["--sample", 5]}.items():
        assert save("--split", "val", *flags, "-o", tmp_path / f"{name}0.pt").code == 0
        assert save("--split", "val", *flags, *other, "-o", tmp_path / f"{name}1.pt").code == 0
        one, two = (Representations.stored(tmp_path / f"{name}{i}.pt") for i in (0, 1))
        assert torch.equal(one.representations, two.representations) == (name == "plain")
        assert torch.equal(one.index, two.index) == (name != "sample")


def test_meta_has_the_number_of_views_and_their_recipe(save, tmp_path):
    save("--split", "val", "--views", 2, "-o", tmp_path / "views.pt")
    save("--split", "val", "-o", tmp_path / "plain.pt")
    made, plain = (Representations.stored(tmp_path / f"{name}.pt").meta for name in ("views", "plain"))
    assert (made["views"], plain["views"]) == (2, None)
    for part in ("crop_scale=(0.2, 1.0)", "jitter_p=0.8", "blur_p=0.0", str(IMAGENET_MEAN), str(IMAGENET_STD)):
        assert part in made["transform"]
    assert "centre crop" not in made["transform"]
    assert made | {"views": None, "transform": plain["transform"]} == plain


@pytest.mark.parametrize(("layer", "folder"), [("backbone", "views2"), ("projector", "projector_views2")])
def test_the_default_name_of_views_is_not_that_of_single_rows(save, tmp_path, monkeypatch, layer, folder):
    monkeypatch.chdir(tmp_path)
    flags = ["--split", "val", "--layer", layer, "--extra_info", "again"]
    assert save(*flags, "--views", 2).code == 0
    assert (tmp_path / f"data/resnet18_w8_exp0000_{folder}_again/bundled/val_reprs_e0.pt").is_file()


def test_views_are_measured_by_collapse_and_refused_by_knn(save, ssltool, tmp_path):
    path = tmp_path / "r.pt"
    assert save("--split", "val", "--views", 2, "-o", path).code == 0
    found = ssltool("collapse", path, "--metrics", "alignment,lidar", "--json").json["files"][0]
    assert (found["n"], found["d"]) == (20, 64)
    assert 0 < found["metrics"]["alignment"] < 4
    assert 1 <= found["metrics"]["lidar"] <= 10
    assert "2 views" in ssltool("knn", path, path).err


def test_views_of_image_files_do_not_depend_on_the_number_of_workers(ssltool, trained, write_images, tmp_path):
    write_images(tmp_path / "pile", 5)
    flags = ["--pretrained", trained / "checkpoint.pt", "--device", "cpu", "--views", 3, "-b", 6]
    for workers in (0, 1):
        out = tmp_path / f"{workers}.pt"
        assert ssltool("save-reprs", tmp_path / "pile", *flags, "-j", workers, "-o", out).code == 0
    one, other = (Representations.stored(tmp_path / f"{workers}.pt").representations for workers in (0, 1))
    assert one.shape == (5, 3, 64)
    assert torch.equal(one, other)


@pytest.mark.parametrize(("flag", "value"), [("--views", 1), ("--views", 0), ("--sample", 0)])
def test_fewer_than_two_views_or_one_image_are_refused(save, tmp_path, flag, value):
    ran = save("--split", "val", flag, value, "-o", tmp_path / "r.pt")
    assert ran.code == 2
    assert flag in ran.err
    assert not (tmp_path / "r.pt").exists()


def test_rows_of_a_layer_have_the_rank_of_its_last_module(save, tmp_path):
    # The run's predictor goes through 8 units to 16, so whatever comes in, at most 8 directions come out.
    for layer, directions in (("backbone", 64), ("projector", 16), ("predictor", 8)):
        save("--split", "val", "--layer", layer, "-o", tmp_path / f"{layer}.pt")
        found = Representations.load(tmp_path / f"{layer}.pt")
        assert found.meta["directions"] == directions
        centred = found.representations - found.representations.mean(dim=0)
        assert int(torch.linalg.matrix_rank(centred, rtol=1e-4)) <= directions


@pytest.mark.parametrize("flags", [[], ["--views", 2]])
def test_a_sample_has_distinct_images_in_order_and_is_deterministic(save, tmp_path, flags):
    for name in ("one.pt", "two.pt"):
        assert save("--split", "val", "--sample", 6, *flags, "-o", tmp_path / name).code == 0
    one, two = (Representations.stored(tmp_path / name) for name in ("one.pt", "two.pt"))
    assert torch.equal(one.representations, two.representations)
    places = [ROWS.index(number) for number in one.index.tolist()]
    assert len(places) == 6
    assert places == sorted(set(places))
    assert one.targets.tolist() == open_dataset(DataSettings(), "val").labels[one.index].tolist()


def test_a_sampled_image_has_the_same_row_as_without_sampling(save, tmp_path):
    save("--split", "val", "-o", tmp_path / "all.pt")
    save("--split", "val", "--sample", 6, "-o", tmp_path / "some.pt")
    every, some = (Representations.load(tmp_path / f"{name}.pt") for name in ("all", "some"))
    rows = [every.index.tolist().index(number) for number in some.index.tolist()]
    torch.testing.assert_close(some.representations, every.representations[rows], rtol=1e-4, atol=1e-5)


def test_a_sample_of_all_images_is_all_images(save, tmp_path):
    save("--split", "val", "--sample", 10, "-o", tmp_path / "r.pt")
    assert Representations.load(tmp_path / "r.pt").index.tolist() == ROWS


def test_samples_are_drawn_from_the_whole_of_each_split(ssltool, trained, tmp_path):
    flags = ["--pretrained", trained / "checkpoint.pt", "--device", "cpu", "--split", "both", "--sample", 200]
    ran = ssltool("save-reprs", *flags, "-o", tmp_path, "--json")
    assert [(written["split"], written["n"]) for written in ran.json["files"]] == [("train", 200), ("val", 200)]
    for written in ran.json["files"]:
        places = Representations.load(written["path"]).index.tolist()
        total = len(open_dataset(DataSettings(), written["split"]))
        # That fewer than 14 or more than 75 of 200 places lie in one fifth happens once in a million draws.
        assert all(14 <= count <= 75 for count in np.bincount([5 * p // total for p in places], minlength=5))


def test_more_images_than_one_of_both_splits_has_are_refused_before_either_is_written(save, tmp_path):
    ran = save("--split", "both", "--sample", 11, "-o", tmp_path / "both")  # --idx-path leaves ten of train
    assert (ran.code, ran.out) == (1, "")
    assert re.match(r"error: --sample 11: bundled train .*\b10 images", ran.err)
    assert not (tmp_path / "both").exists()


def test_more_images_than_the_second_split_has_are_refused_before_the_first_is_written(ssltool, trained, tmp_path):
    flags = ["--pretrained", trained / "checkpoint.pt", "--device", "cpu", "--split", "both", "--sample", 2001]
    ran = ssltool("save-reprs", *flags, "-o", tmp_path / "both")
    assert ran.code == 1
    assert re.search(r"--sample 2001: bundled val .*\b2000 images", ran.err)
    assert not (tmp_path / "both").exists()


def test_no_checkpoint_is_refused():
    with pytest.raises(SSLToolError, match="--pretrained"):
        save_reprs.run(SaveReprsConfig(device="cpu"))


@pytest.fixture
def save_with(ssltool, trained, some, tmp_path):
    """Saves representations of a network whose entry ``name`` has this ``value``."""

    def save(name: str, value: float, *flags: str) -> Ran:
        checkpoint = Checkpoint.load(trained / "checkpoint.pt")
        checkpoint.state_dict[name][0] = value
        checkpoint.save(tmp_path / "run.pt")
        fixed = ["--idx-path", some, "--device", "cpu", "-o", tmp_path / "out" / "r.pt"]
        return ssltool("save-reprs", "--pretrained", tmp_path / "run.pt", *fixed, *flags)

    return save


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("backbone.conv1.weight", "backbone"),
        ("backbone.bn1.running_var", "backbone"),  # an infinite variance has finite outputs
        ("backbone.bn1.running_mean", "backbone.layer1"),
        ("projector.1.running_var", "projector"),
        ("projector.1.running_var", "predictor"),
    ],
)
def test_weights_and_buffers_that_are_not_finite_are_refused_by_name(save_with, tmp_path, name, layer, value):
    ran = save_with(name, value, "--layer", layer)
    assert name in error_message(ran)
    assert not (tmp_path / "out").exists()


def test_a_head_that_is_not_finite_does_not_matter_to_the_backbone(save_with):
    assert save_with("projector.1.running_var", math.inf).code == 0


def test_outputs_that_are_not_finite_are_refused_with_the_first_image_and_leave_no_file(save_with, tmp_path):
    ran = save_with("backbone.bn1.running_var", -1.0)
    out = tmp_path / "out" / "r.pt"
    assert ran.code == 1 and f"image {ROWS[0]}" in ran.err and "NaN" in ran.err
    assert not out.parent.exists() or not list(out.parent.iterdir())
