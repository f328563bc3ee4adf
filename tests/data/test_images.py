"""Names and folders to images and labels: every layout, and every way in which a folder can disappoint."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
import torchvision.datasets as tv
from PIL import Image
from torchvision.datasets.folder import IMG_EXTENSIONS

from ssltool.config import DataSettings
from ssltool.data import image_files
from ssltool.data.decoding import decode
from ssltool.data.detection import detect, parse_type
from ssltool.data.images import ImageSet, open_dataset
from ssltool.errors import SSLToolError


def opened(folder, split="train", **settings) -> ImageSet:
    return open_dataset(DataSettings(data=str(folder), **settings), split)


@pytest.fixture
def imagenet(tmp_path, write_images):
    """An ImageNet-style folder of three classes; the validation images lack the middle one."""
    for split, counts in {"train": {"ant": 2, "bee": 3, "cat": 4}, "val": {"ant": 2, "cat": 1}}.items():
        for name, count in counts.items():
            write_images(tmp_path / split / name, count)
    return tmp_path


# Layouts


@pytest.mark.parametrize("layout", ["fashion-mnist", "cifar10", "cifar100", "stl10"])
@pytest.mark.parametrize("root", [True, False], ids=["torchvision root", "raw files"])
def test_array_datasets_are_recognised_and_read(tmp_path, write_fashion, write_cifar, write_stl10, layout, root):
    write, inner = {
        "fashion-mnist": (write_fashion, "FashionMNIST/raw"),
        "cifar10": (lambda folder: write_cifar(folder, 10), "cifar-10-batches-py"),
        "cifar100": (lambda folder: write_cifar(folder, 100), "cifar-100-python"),
        "stl10": (write_stl10, "stl10_binary"),
    }[layout]
    written = write(tmp_path / inner if root else tmp_path)
    for dataset_type in ("auto", layout):
        for split, (images, labels) in written.items():
            made = opened(tmp_path, split, dataset_type=dataset_type)
            assert (made.name, made.split) == (layout, split)
            assert torch.equal(made.images, torch.from_numpy(np.ascontiguousarray(images)))
            assert made.labels.tolist() == labels.tolist()
            assert made.labels.dtype == made.index.dtype == np.int64
            assert made.index.tolist() == list(range(len(labels)))


def test_unlabelled_split_of_stl10_has_no_classes(tmp_path, write_stl10):
    write_stl10(tmp_path)
    made = opened(tmp_path, dataset_type="stl10_unlabeled")
    assert made.split == "unlabeled"
    assert set(made.labels) == {-1}
    assert made.classes == ()
    assert made.describe() == "stl10 unlabeled: 6 images, unlabelled, 96 x 96 colour, in memory"


def test_imagenet_folder_equals_torchvisions_image_folder(imagenet):
    for split, labels in {"train": [0, 0, 1, 1, 1, 2, 2, 2, 2], "val": [0, 0, 2]}.items():
        made = opened(imagenet, split)
        assert (made.name, made.split, made.classes) == ("imagenet", split, ("ant", "bee", "cat"))
        assert made.labels.tolist() == labels
        theirs = tv.ImageFolder(imagenet / split)
        if split == "train":  # by itself torchvision would number the validation classes 0 and 1
            assert theirs.targets == labels
        expected = [torch.from_numpy(np.array(image)).permute(2, 0, 1) for image, _ in theirs]
        assert torch.equal(made.images, torch.stack(expected))


def test_a_class_of_val_that_train_lacks_follows_its_classes_and_is_named(imagenet, write_images):
    write_images(imagenet / "val" / "alpaca", 2)
    made = opened(imagenet, "val")
    assert made.classes == ("ant", "bee", "cat", "alpaca")
    assert made.labels.tolist() == [3, 3, 0, 0, 2]
    assert any("alpaca (2 images)" in note for note in made.notes)
    assert opened(imagenet, "train").classes == ("ant", "bee", "cat")


def test_validation_folder_of_one_image_a_class_keeps_the_training_classes(imagenet, write_images):
    write_images(imagenet / "val" / "bee", 1)
    (imagenet / "val" / "ant" / "001.png").unlink()
    assert opened(imagenet, "val").labels.tolist() == [0, 1, 2]


def test_test_folder_beside_val_is_a_split_with_the_classes_of_train(imagenet, write_images):
    write_images(imagenet / "Test" / "bee", 2)
    assert any("--split test" in note for note in opened(imagenet, "val").notes)
    made = opened(imagenet, "test")
    assert (made.split, made.labels.tolist(), made.classes) == ("test", [1, 1], ("ant", "bee", "cat"))
    assert opened(imagenet, "train", dataset_type="imagenet_test").fingerprint == made.fingerprint
    shutil.rmtree(imagenet / "val")
    assert opened(imagenet, "val").fingerprint == made.fingerprint


def test_flat_train_and_val_folders_are_unlabelled(tmp_path, write_images):
    write_images(tmp_path / "train", 3)
    write_images(tmp_path / "val", 2)
    for split, count in {"train": 3, "val": 2}.items():
        made = opened(tmp_path, split)
        assert (made.name, made.labels.tolist(), made.classes) == ("imagenet", [-1] * count, ())


def test_flat_validation_folder_beside_training_classes_is_unlabelled(imagenet, write_images):
    for name in ("ant", "cat"):
        for path in (imagenet / "val" / name).iterdir():
            path.unlink()
        (imagenet / "val" / name).rmdir()
    write_images(imagenet / "val", 3)
    assert opened(imagenet, "val").labels.tolist() == [-1] * 3


def test_missing_val_folder_is_named(tmp_path, write_images):
    write_images(tmp_path / "train" / "ant", 2)
    with pytest.raises(SSLToolError, match="'val'"):
        opened(tmp_path, "val")


def test_class_folders_are_labelled_in_the_order_of_their_names(tmp_path, write_images):
    for name, count in {"b": 2, "a": 3, "C": 1}.items():
        write_images(tmp_path / name, count)
    made = opened(tmp_path)
    assert (made.name, made.classes) == ("folder", ("C", "a", "b"))
    assert made.labels.tolist() == [0, 1, 1, 1, 2, 2] == tv.ImageFolder(tmp_path).targets
    assert made.describe() == "folder train: 6 images, 3 classes, 20 x 16 colour, in memory"


def test_images_deep_inside_class_folders_count_when_the_type_is_given(tmp_path, write_images):
    write_images(tmp_path / "a" / "deep" / "er", 2)
    write_images(tmp_path / "b", 1)
    assert opened(tmp_path, dataset_type="folder").labels.tolist() == [0, 0, 1]


def test_flat_folder_is_unlabelled(tmp_path, write_images):
    write_images(tmp_path / "pile", 4)
    made = opened(tmp_path / "pile")
    assert (made.name, made.labels.tolist(), made.classes) == ("images", [-1] * 4, ())
    assert "unlabelled" in made.describe()


@pytest.mark.parametrize(
    "tree",
    [
        {"2019/may": 2, "2019/june": 3, "2020/may": 2},
        {"1": 1, "2": 1, "3": 1, "4": 1},
        {"only": 5},
        {"a": 3, "b": 2, ".": 2},
        {"a": 3, "empty": 0},
    ],
    ids=["nested", "one image a folder", "one folder", "as many images beside the folders", "a folder without images"],
)
def test_folders_that_are_no_classes_are_one_pile_of_unlabelled_images(tmp_path, write_images, tree):
    for name, count in tree.items():
        write_images(tmp_path / name, count)
    made = opened(tmp_path)
    assert (made.name, made.classes) == ("images", ())
    assert made.labels.tolist() == [-1] * sum(tree.values())


def test_hidden_folders_hold_no_images(tmp_path, write_images):
    for name in ("a", "b", ".thumbnails", "a/.cache"):
        write_images(tmp_path / name, 2)
    made = opened(tmp_path)
    assert (made.classes, made.labels.tolist()) == (("a", "b"), [0, 0, 1, 1])


def test_files_other_than_images_are_passed_over(tmp_path, write_images):
    for name in ("a", "b"):
        write_images(tmp_path / name, 2)
        (tmp_path / name / "notes.txt").write_text("no image")
    (tmp_path / "a" / "000.png").rename(tmp_path / "a" / "000.PNG")
    assert opened(tmp_path).labels.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("small", [False, True])
def test_places365_is_read_from_its_lists(tmp_path, write_images, small):
    kind = "256" if small else "large"
    train = write_images(tmp_path / f"data_{kind}_standard" / "a" / "airfield", 3)
    val = write_images(tmp_path / f"val_{kind}", 2)
    (tmp_path / "places365_train_standard.txt").write_text(
        "/a/airfield/002.png 7\n/a/airfield/000.png 7\n/a/airfield/001.png 364\n"
    )
    (tmp_path / "places365_val.txt").write_text("001.png 165\n000.png 0\n")
    expected = {"train": ([7, 7, 364], [train[2], train[0], train[1]]), "val": ([165, 0], [val[1], val[0]])}
    for split, (labels, paths) in expected.items():
        for dataset_type in ("auto", "places365", f"places_{split}"):
            made = opened(tmp_path, split, dataset_type=dataset_type, small=small)
            assert (made.name, made.split, len(made.classes)) == ("places365", split, 365)
            assert made.labels.tolist() == labels
            images = [torch.from_numpy(np.array(decode(str(path)))).permute(2, 0, 1) for path in paths]
            assert torch.equal(made.images, torch.stack(images))


def test_broken_list_of_places365_is_named(tmp_path, write_images):
    write_images(tmp_path / "val_large", 1)
    (tmp_path / "places365_val.txt").write_text("000.png\n")
    with pytest.raises(SSLToolError, match=r"places365_val\.txt "):
        opened(tmp_path, "val", dataset_type="places365")


def test_places365_without_its_images_says_what_is_looked_for(tmp_path):
    (tmp_path / "places365_val.txt").write_text("000.png 1\n")
    with pytest.raises(SSLToolError, match="val_256"):
        opened(tmp_path, "val", dataset_type="places365", small=True)


def test_no_data_means_the_bundled_images():
    assert detect(None) == "bundled"
    assert open_dataset(DataSettings(), "val").name == "bundled"


# Names


@pytest.mark.parametrize(
    ("spelling", "meaning"),
    [
        ("imagenet", ("imagenet", None, False)),
        ("imagenet_train", ("imagenet", "train", False)),
        ("imagenet_val", ("imagenet", "val", False)),
        ("imagenet_train_subset", ("imagenet", "train", True)),
        ("imagenet_subset", ("imagenet", None, True)),
        ("places", ("places365", None, False)),
        ("places_subset", ("places365", None, True)),
        ("places_simsiam_train", ("places365", "train", False)),
        ("places_train_subset", ("places365", "train", True)),
        ("stl10_unlabeled", ("stl10", "unlabeled", False)),
        ("fashion-mnist", ("fashion-mnist", None, False)),
        ("fashion_mnist_val", ("fashion-mnist", "val", False)),
        ("auto", ("auto", None, False)),
    ],
)
def test_dataset_types_are_understood_in_the_papers_spellings_too(spelling, meaning):
    assert parse_type(spelling) == meaning


@pytest.mark.parametrize(
    ("name", "offered"), [("cifra10", "cifar10"), ("imagnet_train", "imagenet_train"), ("mnist", "fashion-mnist")]
)
def test_unknown_dataset_type_offers_the_nearest(tmp_path, name, offered):
    with pytest.raises(SSLToolError, match=f"dataset type '{name}'.* {offered}"):
        opened(tmp_path, dataset_type=name)


def test_split_in_the_dataset_type_overrides_the_one_asked_for(imagenet):
    assert opened(imagenet, "train", dataset_type="imagenet_val").split == "val"


# Subsets


def test_index_file_restricts_to_its_images_in_its_order(imagenet, tmp_path):
    np.save(tmp_path / "some.npy", [7, 0, 3])
    whole = opened(imagenet)
    for dataset_type in ("imagenet", "imagenet_train_subset"):
        made = opened(imagenet, dataset_type=dataset_type, idx_path=str(tmp_path / "some.npy"))
        assert made.index.tolist() == [7, 0, 3]
        assert made.labels.tolist() == [2, 0, 1]
        assert torch.equal(made.images, whole.images[[7, 0, 3]])
        assert made.classes == ("ant", "bee", "cat")


def test_index_file_restricts_arrays_too(tmp_path, write_cifar):
    images, labels = write_cifar(tmp_path, 10)["val"]
    np.save(tmp_path / "some.npy", [4, 1])
    made = opened(tmp_path, "val", idx_path=str(tmp_path / "some.npy"))
    assert torch.equal(made.images, torch.from_numpy(images[[4, 1]]))
    assert made.labels.tolist() == labels[[4, 1]].tolist()


@pytest.mark.parametrize(
    ("numbers", "message"),
    [([0, 9], "index 9,.* 9 images"), ([1, 1], "index 1 "), ([0.5], "integers")],
)
def test_bad_index_file_is_refused_by_its_flag(imagenet, tmp_path, numbers, message):
    np.save(tmp_path / "some.npy", numbers)
    with pytest.raises(SSLToolError, match=f"^--idx-path: .*{message}"):
        opened(imagenet, idx_path=str(tmp_path / "some.npy"))


def test_subset_type_without_an_index_file_is_refused(imagenet):
    with pytest.raises(SSLToolError, match=r"imagenet_train_subset .*--idx-path"):
        opened(imagenet, dataset_type="imagenet_train_subset")


# Sizes


@pytest.mark.parametrize(("size", "own"), [((96, 96), 96), ((8, 8), 8), ((97, 97), None), ((32, 31), None)], ids=str)
def test_own_size_is_that_of_squares_up_to_96_pixels(tmp_path, write_images, size, own):
    write_images(tmp_path / "pile", 2, size=size)
    made = opened(tmp_path / "pile")
    assert made.images.shape == (2, 3, size[1], size[0])
    assert made.own_size == own


def test_images_of_two_sizes_stay_files(tmp_path, write_images):
    write_images(tmp_path / "pile" / "a", 2, size=(20, 16))
    paths = write_images(tmp_path / "pile" / "b", 1, size=(16, 20))
    made = opened(tmp_path / "pile")
    assert made.images is None
    assert made.own_size is None
    assert made.paths[2] == str(paths[0])
    assert "files of varying size" in made.describe()
    assert made.select(np.array([2, 0])).paths == (made.paths[2], made.paths[0])


def test_images_of_one_size_beyond_the_limit_stay_files(tmp_path, write_images, monkeypatch):
    write_images(tmp_path / "pile", 4, size=(20, 16))
    for limit, in_memory in [(4 * 3 * 20 * 16, True), (4 * 3 * 20 * 16 - 1, False)]:
        monkeypatch.setattr(image_files, "MEMORY_LIMIT", limit)
        assert (opened(tmp_path / "pile").images is not None) == in_memory


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_files_of_any_colour_mode_are_read_as_rgb(tmp_path, pixels, mode):
    image = Image.fromarray(pixels(9, 9, 3).numpy()).convert(mode)
    image.save(tmp_path / "image.tiff")
    expected = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    assert torch.equal(opened(tmp_path).images, expected[None])


# Unreadable images


def spoil(path):
    """Leaves the header, so that the file still tells its size."""
    path.write_bytes(path.read_bytes()[:200])


@pytest.mark.parametrize("sizes", [1, 2], ids=["one size", "varying sizes"])
def test_skip_corrupt_skips_and_counts_unreadable_images(tmp_path, write_images, sizes):
    good = write_images(tmp_path / "a", 3) + write_images(tmp_path / "b", 3, size=(20, 16 * sizes))
    spoil(good.pop(1))
    good.pop(3).write_bytes(b"no image at all")
    made = opened(tmp_path, skip_corrupt=True)
    assert made.skipped == 2
    assert made.index.tolist() == [0, 2, 3, 5]
    assert made.labels.tolist() == [0, 0, 1, 1]
    assert made.describe().endswith(", 2 skipped")
    if sizes == 2:
        assert made.paths == tuple(map(str, good))
    else:
        images = [torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1) for path in good]
        assert torch.equal(made.images, torch.stack(images))


def test_skip_corrupt_changes_nothing_where_all_images_are_good(imagenet):
    made, plain = opened(imagenet, skip_corrupt=True), opened(imagenet)
    assert made.skipped == 0
    assert torch.equal(made.images, plain.images)


def test_corrupt_image_among_good_ones_is_named(tmp_path, write_images):
    paths = write_images(tmp_path / "pile", 5)
    spoil(paths[3])
    with pytest.raises(SSLToolError, match=r"/pile/003\.png .*--skip-corrupt") as caught:
        opened(tmp_path / "pile")
    assert "\n" not in str(caught.value)


def test_folder_with_only_corrupt_images_is_refused(tmp_path, write_images):
    for path in write_images(tmp_path / "pile", 2):
        spoil(path)
    with pytest.raises(SSLToolError, match="no readable images"):
        opened(tmp_path / "pile", skip_corrupt=True)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("extension", [".png", ".jpg", ".bmp", ".tiff", ".webp", ".ppm"])
def test_file_cut_anywhere_is_an_image_or_one_clean_error(tmp_path, pixels, extension):
    path = tmp_path / f"image{extension}"
    Image.fromarray(pixels(24, 20, 3).numpy()).save(path)
    whole, refused = path.read_bytes(), 0
    assert extension in IMG_EXTENSIONS
    for length in range(0, len(whole), max(1, len(whole) // 40)):
        path.write_bytes(whole[:length])
        try:
            assert decode(str(path)).mode == "RGB"
        except SSLToolError:
            refused += 1
    assert refused >= 20


def test_image_that_has_vanished_is_named(tmp_path):
    with pytest.raises(SSLToolError, match=r"gone\.png"):
        decode(str(tmp_path / "gone.png"))


# Refusals


@pytest.mark.parametrize("dataset_type", ["auto", "imagenet", "cifar10", "images"])
def test_folder_that_is_not_there_is_named(tmp_path, dataset_type):
    with pytest.raises(SSLToolError, match=r"/nowhere;"):
        opened(tmp_path / "nowhere", dataset_type=dataset_type)


def test_file_in_place_of_a_folder_is_refused(tmp_path, write_images):
    path = write_images(tmp_path, 1)[0]
    with pytest.raises(SSLToolError, match="is a file, not a folder"):
        opened(path)


@pytest.mark.parametrize("dataset_type", ["auto", "images", "folder"])
def test_empty_folder_is_refused_with_the_supported_extensions(tmp_path, dataset_type):
    with pytest.raises(SSLToolError, match=r"no images .*\.jpg"):
        opened(tmp_path, dataset_type=dataset_type)


@pytest.mark.parametrize("dataset_type", ["fashion-mnist", "cifar10", "cifar100", "stl10", "places365"])
def test_named_dataset_in_an_empty_folder_says_which_files_are_missing(tmp_path, dataset_type):
    with pytest.raises(SSLToolError, match="--download"):
        opened(tmp_path, dataset_type=dataset_type)


def test_dataset_without_the_split_names_those_it_has(tmp_path, write_cifar, imagenet):
    write_cifar(tmp_path / "cifar", 10)
    with pytest.raises(SSLToolError, match=r"cifar10 .*'unlabeled'.* train, val"):
        opened(tmp_path / "cifar", "unlabeled")
    with pytest.raises(SSLToolError, match=r"imagenet .*'unlabeled'.* train, val"):
        opened(imagenet, "unlabeled")


def test_one_folder_of_images_has_no_val_split(tmp_path, write_images):
    write_images(tmp_path / "pile", 2)
    with pytest.raises(SSLToolError, match="no val split"):
        opened(tmp_path / "pile", "val")


def test_images_beside_the_class_folders_are_left_out_and_named_when_the_type_is_given(tmp_path, write_images):
    for name in ("a", "b", "."):
        write_images(tmp_path / name, 2)
    made = opened(tmp_path, dataset_type="folder")
    assert (made.labels.tolist(), made.classes) == ([0, 0, 1, 1], ("a", "b"))
    assert made.left_out == {"outside the class folders": ("000.png", "001.png")}


def test_bundled_images_take_no_folder(tmp_path):
    with pytest.raises(SSLToolError, match=r"bundled .*ssltool .*DATA"):
        opened(tmp_path, dataset_type="bundled")


@pytest.mark.parametrize("dataset_type", ["imagenet_train", "cifar10"])
def test_named_dataset_needs_its_folder(dataset_type):
    with pytest.raises(SSLToolError, match=f"{dataset_type} .*DATA"):
        open_dataset(DataSettings(dataset_type=dataset_type), "train")


def test_small_is_refused_for_other_datasets(imagenet):
    with pytest.raises(SSLToolError, match=r"--small .*imagenet"):
        opened(imagenet, small=True)


@pytest.mark.parametrize("change", [-1, 1])
def test_numbers_of_images_and_labels_must_agree(tmp_path, write_stl10, change):
    labels = write_stl10(tmp_path)["train"][1] + 1
    np.resize(labels, len(labels) + change).astype(np.uint8).tofile(tmp_path / "train_y.bin")
    with pytest.raises(SSLToolError, match=f"5 train images but {5 + change} labels"):
        opened(tmp_path)


# Download


def test_download_asks_torchvision_and_reads_what_it_fetched(tmp_path, write_cifar, monkeypatch):
    asked = []

    def fetch(root, train, download):
        asked.append((root, train, download))
        write_cifar(tmp_path / "new" / "cifar-10-batches-py", 10)

    monkeypatch.setattr(tv, "CIFAR10", fetch)
    made = opened(tmp_path / "new", "val", dataset_type="cifar10", download=True)
    assert asked == [(str(tmp_path / "new"), False, True)]
    assert len(made) == 6


@pytest.mark.parametrize("error", [OSError("no route\nto host"), RuntimeError("checksum\ndiffers")], ids=repr)
def test_failed_download_is_told_in_one_line(tmp_path, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(tv, "STL10", fail)
    with pytest.raises(SSLToolError, match=r"--download of stl10 into .* failed: (no route|checksum)$"):
        opened(tmp_path, dataset_type="stl10", download=True)


def test_download_of_an_unsupported_dataset_is_refused(imagenet):
    with pytest.raises(SSLToolError, match=r"--download .*imagenet.* fashion-mnist, cifar10"):
        opened(imagenet, download=True)
