"""The files that the stages hand each other: what goes in comes out, and nothing broken or unsafe gets in."""

from __future__ import annotations

import errno
import hashlib
import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import ssltool
from ssltool.checkpoints.checkpoint import Checkpoint
from ssltool.checkpoints.probe import Probe
from ssltool.diagnosis.spectrum_file import Spectrum
from ssltool.errors import SSLToolError
from ssltool.files.reading import file_hash, matching
from ssltool.files.stored import weights_hash
from ssltool.files.torch_files import load_dict
from ssltool.files.writing import write_atomically, write_json
from ssltool.reprs.representations import Representations


def checkpoint(**changes) -> Checkpoint:
    settings = {
        "method": "simsiam",
        "arch": "resnet18",
        "epoch": 3,
        "step": 12,
        "config": {"lr": 0.05, "data": None, "options": ["a=1"]},
        "state_dict": {"backbone.weight": torch.arange(6.0).reshape(2, 3)},
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(2, 3)}}, "param_groups": [{"params": [0]}]},
        "scaler": None,
        "metrics": {"epochs": [{"epoch": 0, "loss": -0.5}], "epoch_step": 0, "sums": {"loss": 0.0}},
    }
    return Checkpoint(**settings | changes)


class Trap:
    """Unpickling it creates a file."""

    def __init__(self, marker: Path, *, shell: bool = False) -> None:
        self.marker, self.shell = marker, shell

    def __reduce__(self):
        return (os.system, (f"touch {self.marker}",)) if self.shell else (Path.touch, (self.marker,))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_checkpoint_comes_back_as_it_was_saved(tmp_path):
    saved = checkpoint()
    saved.save(tmp_path / "deep" / "c.pt")
    found = Checkpoint.load(tmp_path / "deep" / "c.pt")
    assert torch.equal(found.state_dict.pop("backbone.weight"), saved.state_dict.pop("backbone.weight"))
    ours, theirs = (c.optimizer["state"][0].pop("momentum_buffer") for c in (saved, found))
    assert torch.equal(ours, theirs)
    assert found == saved


def test_representations_come_back_as_they_were_saved(tmp_path):
    saved = Representations(torch.randn(5, 3), torch.tensor([0, 2, -1, 1, 1]), torch.tensor([4, 3, 2, 9, 0]), {"a": 1})
    saved.save(tmp_path / "r.pt")
    found = Representations.load(tmp_path / "r.pt")
    assert len(found) == 5
    assert torch.equal(found.representations, saved.representations)
    assert torch.equal(found.targets, saved.targets)
    assert torch.equal(found.index, saved.index)
    assert found.meta == {"a": 1}


def test_a_spectrum_and_a_probe_come_back_as_they_were_saved(tmp_path):
    Spectrum(torch.tensor([2.0, 1.0]).double(), {"auc": 0.8}, {"n": 7}).save(tmp_path / "s.pt")
    spectrum = Spectrum.load(tmp_path / "s.pt")
    assert spectrum.stds.tolist() == [2.0, 1.0]
    assert (spectrum.metrics, spectrum.meta) == ({"auc": 0.8}, {"n": 7})

    Probe(torch.ones(4, 3), torch.zeros(4), {"lr": 0.1}, {"acc1": 0.5}).save(tmp_path / "p.pt")
    probe = Probe.load(tmp_path / "p.pt")
    assert torch.equal(probe.weight, torch.ones(4, 3))
    assert torch.equal(probe.bias, torch.zeros(4))
    assert (probe.config, probe.metrics) == ({"lr": 0.1}, {"acc1": 0.5})


def test_a_file_names_its_format_and_the_versions_that_wrote_it(tmp_path):
    checkpoint().save(tmp_path / "c.pt")
    contents = load_dict(tmp_path / "c.pt")
    assert contents["format"] == "ssltool/checkpoint/1"
    assert contents["ssltool"] == ssltool.__version__
    assert contents["torch"] == torch.__version__


def test_saving_leaves_one_file_with_the_new_contents(tmp_path):
    checkpoint(epoch=1).save(tmp_path / "c.pt")
    checkpoint(epoch=2).save(tmp_path / "c.pt")
    assert names(tmp_path) == ["c.pt"]
    assert Checkpoint.load(tmp_path / "c.pt").epoch == 2


def test_a_full_disk_keeps_the_previous_file_and_leaves_no_partial_one(tmp_path):
    path = tmp_path / "c.pt"
    checkpoint(epoch=1).save(path)
    before = path.read_bytes()

    def half(stream):
        stream.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(SSLToolError, match=r"c\.pt: No space left.*is kept"):
        write_atomically(path, half)
    assert path.read_bytes() == before
    assert names(tmp_path) == ["c.pt"]


def test_a_file_size_limit_hit_by_torch_save_keeps_the_previous_checkpoint(tmp_path):
    program = """
import resource, signal, sys
import torch
from ssltool.errors import SSLToolError
from ssltool.reprs.representations import Representations

def rows(n):
    return Representations(torch.zeros(n, 8), torch.zeros(n, dtype=torch.int64), torch.arange(n))

rows(2).save(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, resource.RLIM_INFINITY))
try:
    rows(100_000).save(sys.argv[1])
except SSLToolError as error:
    print(error)
"""
    path = tmp_path / "r.pt"
    ran = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith(f"cannot write {path}: ")
    assert len(ran.stdout.splitlines()) == 1
    assert len(Representations.load(path)) == 2
    assert names(tmp_path) == ["r.pt"]


def test_a_failed_first_save_leaves_nothing(tmp_path):
    def fail(stream):
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(SSLToolError, match="Input/output error") as caught:
        write_atomically(tmp_path / "c.pt", fail)
    assert "is kept" not in str(caught.value)
    assert names(tmp_path) == []


def test_a_bug_is_not_reported_as_a_full_disk_and_leaves_no_temporary_file(tmp_path):
    def fail(stream):
        raise TypeError("a bug")

    with pytest.raises(TypeError, match="a bug"):
        write_atomically(tmp_path / "c.pt", fail)
    assert names(tmp_path) == []


def test_a_folder_that_is_a_file_is_refused_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SSLToolError, match=r"c\.pt"):
        checkpoint().save(tmp_path / "file" / "c.pt")


def test_json_files_end_in_a_newline_and_hold_the_document(tmp_path):
    write_json(tmp_path / "d.json", {"a": [1, None]})
    assert (tmp_path / "d.json").read_text() == '{\n  "a": [\n    1,\n    null\n  ]\n}\n'


def test_the_hash_of_a_file_is_the_sha256_of_its_bytes(tmp_path):
    # The digest of "abc" is the first example of FIPS 180-2, B.1.
    (tmp_path / "abc").write_bytes(b"abc")
    assert file_hash(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_the_hash_of_weights_sees_values_names_and_buffers():
    norm = torch.nn.BatchNorm1d(3)
    before = weights_hash(norm.state_dict())
    assert weights_hash(torch.nn.BatchNorm1d(3).state_dict()) == before
    assert weights_hash(torch.nn.Sequential(norm).state_dict()) != before
    norm.running_mean[1] = 1e-30
    assert weights_hash(norm.state_dict()) != before


def test_the_hash_of_weights_is_the_sha256_of_names_and_bytes():
    weights = {"a": torch.tensor([1.5, -2.0]), "b.c": torch.tensor([[3], [4]], dtype=torch.int16)}
    parts = b"a" + struct.pack("<2f", 1.5, -2.0) + b"b.c" + struct.pack("<2h", 3, 4)
    assert weights_hash(weights) == hashlib.sha256(parts).hexdigest()
    turned = torch.arange(6.0).view(2, 3).mT
    assert weights_hash({"a": turned}) == weights_hash({"a": turned.contiguous()})


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(SSLToolError, match=r"absent\.pt"):
        Checkpoint.load(tmp_path / "absent.pt")


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("load", [Checkpoint.load, Representations.load], ids=["read", "mapped"])
def test_a_truncated_file_is_refused(tmp_path, kept, load):
    path = tmp_path / "c.pt"
    saved = {
        Checkpoint.load: checkpoint(),
        Representations.load: Representations(torch.randn(50, 9), torch.zeros(50, dtype=torch.int64), torch.arange(50)),
    }
    saved[load].save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(SSLToolError, match=r"c\.pt "):
        load(path)


@pytest.mark.parametrize("contents", [b"text\n", b"{}", b"\x80\x02garbage", b"\x80\x04\x95", bytes(200)])
def test_a_text_file_is_refused(tmp_path, contents):
    (tmp_path / "notes.pt").write_bytes(contents)
    with pytest.raises(SSLToolError, match=r"notes\.pt "):
        Checkpoint.load(tmp_path / "notes.pt")


@pytest.mark.parametrize("kind", [Checkpoint, Representations, Spectrum, Probe])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("shell", [True, False], ids=["system", "object"])
def test_a_pickled_object_is_refused_and_never_executed(tmp_path, kind, zipped, shell):
    marker, path = tmp_path / "executed", tmp_path / "trap.pt"
    trap = Trap(marker, shell=shell)
    contents = {"format": kind.FORMAT, "representations": torch.zeros(2, 2), "trap": trap}
    torch.save(contents, path, _use_new_zipfile_serialization=zipped)
    name = "posix" if shell else "pathlib"
    with pytest.raises(SSLToolError, match=rf"trap\.pt .*{name}"):
        kind.load(path)
    assert not marker.exists()


def test_a_bare_pickle_is_refused_and_never_executed(tmp_path):
    marker, path = tmp_path / "executed", tmp_path / "trap.pt"
    path.write_bytes(pickle.dumps(Trap(marker)))
    with pytest.raises(SSLToolError, match=r"trap\.pt"):
        Checkpoint.load(path)
    assert not marker.exists()
    pickle.loads(path.read_bytes())
    assert marker.exists()  # the trap works where someone does unpickle it


def test_a_file_of_another_format_is_refused_with_its_format(tmp_path):
    checkpoint().save(tmp_path / "c.pt")
    with pytest.raises(SSLToolError, match=r"ssltool/probe/1 .*'ssltool/checkpoint/1'"):
        Probe.load(tmp_path / "c.pt")
    with pytest.raises(SSLToolError, match=r"representations; .* format"):
        Representations.load(tmp_path / "c.pt")
    torch.save({"state_dict": {}}, tmp_path / "foreign.pt")
    with pytest.raises(SSLToolError, match=r"'no format', .* state_dict"):
        Checkpoint.load(tmp_path / "foreign.pt")


def test_missing_keys_are_named(tmp_path):
    checkpoint().save(tmp_path / "c.pt")
    contents = load_dict(tmp_path / "c.pt")
    del contents["optimizer"], contents["scaler"]
    torch.save(contents, tmp_path / "c.pt")
    with pytest.raises(SSLToolError, match="optimizer, scaler"):
        Checkpoint.load(tmp_path / "c.pt")


def test_a_file_that_is_not_a_dict_is_refused(tmp_path):
    torch.save(torch.zeros(3), tmp_path / "t.pt")
    with pytest.raises(SSLToolError, match=r"Tensor.* dict"):
        Representations.load(tmp_path / "t.pt")


def test_the_papers_representations_load_with_integer_targets_and_rows_numbered_from_0(tmp_path):
    rows = torch.randn(4, 3)
    torch.save({"representations": rows, "targets": torch.tensor([3.0, 0.0, 999.0, 1.0])}, tmp_path / "paper.pt")
    found = Representations.load(tmp_path / "paper.pt")
    assert torch.equal(found.representations, rows)
    assert found.targets.dtype == torch.int64
    assert found.targets.tolist() == [3, 0, 999, 1]
    assert found.index.tolist() == [0, 1, 2, 3]
    assert found.meta == {}


def test_representations_without_targets_are_unlabelled(tmp_path):
    torch.save({"representations": torch.randn(3, 2)}, tmp_path / "r.pt")
    assert Representations.load(tmp_path / "r.pt").targets.tolist() == [-1, -1, -1]


def test_several_files_are_concatenated_in_the_given_order(tmp_path, write_reprs):
    rows = torch.randn(6, 3)
    paths = [write_reprs("b.pt", rows[:4], [0, 1, 2, 3], [5, 6, 7, 8]), write_reprs("a.pt", rows[4:], [4, 5], [1, 2])]
    found = Representations.load(paths)
    assert torch.equal(found.representations, rows)
    assert found.targets.tolist() == [0, 1, 2, 3, 4, 5]
    assert found.index.tolist() == [5, 6, 7, 8, 1, 2]
    assert found.meta == {"dataset": "made-up"}


def test_files_of_different_widths_are_refused_by_name_and_width(write_reprs):
    paths = [write_reprs("a.pt", torch.zeros(2, 3)), write_reprs("b.pt", torch.zeros(2, 4))]
    with pytest.raises(SSLToolError, match=r"different widths .*a\.pt: 3, .*b\.pt: 4"):
        Representations.load(paths)


def test_no_files_are_refused():
    with pytest.raises(SSLToolError, match="representation files"):
        Representations.load([])


@pytest.mark.parametrize("key", ["targets", "index"])
def test_rows_and_labels_that_do_not_match_are_refused(tmp_path, key):
    torch.save({"representations": torch.zeros(3, 2), key: torch.zeros(2)}, tmp_path / "r.pt")
    with pytest.raises(SSLToolError, match=rf"3 representations, .*2 {'targets' if key == 'targets' else 'indices'}"):
        Representations.load(tmp_path / "r.pt")


def write(path: Path, *shape: int, targets: int | None = None, **more: object) -> torch.Tensor:
    """Random ``representations`` of a shape in a file, with so many targets 0, 1, 2, ...; gives the representations."""
    x = torch.randn(*shape)
    labels = {} if targets is None else {"targets": torch.arange(targets)}
    torch.save({"representations": x, **labels, **more}, path)
    return x


def test_views_of_images_have_one_target_per_image(tmp_path):
    Representations(x := torch.randn(5, 4, 3), torch.arange(5), torch.arange(5) + 7, {"views": 4}).save(
        tmp_path / "v.pt"
    )
    found = Representations.stored(tmp_path / "v.pt")
    assert len(found) == 5
    assert torch.equal(found.representations, x)
    assert (found.targets.tolist(), found.index.tolist()) == ([0, 1, 2, 3, 4], [7, 8, 9, 10, 11])
    assert found.meta == {"views": 4}


def test_views_of_images_are_numbered_by_image_by_default(tmp_path):
    write(tmp_path / "v.pt", 5, 4, 3, targets=5)
    assert Representations.stored(tmp_path / "v.pt").index.tolist() == [0, 1, 2, 3, 4]


def test_views_are_refused_where_one_row_per_image_is_needed(tmp_path, write_reprs):
    write(tmp_path / "v.pt", 5, 4, 3, targets=5)
    for paths in (tmp_path / "v.pt", [write_reprs("r.pt", torch.zeros(2, 3)), tmp_path / "v.pt"]):
        with pytest.raises(SSLToolError, match=r"v\.pt .*4 views .* --views"):
            Representations.load(paths)


@pytest.mark.parametrize("read", [Representations.stored, Representations.load])
@pytest.mark.parametrize(("shape", "targets"), [((5, 4, 3), 20), ((5, 2, 2, 3), 20), ((5, 1, 3), 5)])
def test_leading_dimensions_are_flattened_if_there_is_a_target_per_row(tmp_path, read, shape, targets):
    x = write(tmp_path / "patches.pt", *shape, targets=targets)
    found = read(tmp_path / "patches.pt")
    rows = x.reshape(-1, 3)
    assert torch.equal(found.representations, rows)
    assert found.index.tolist() == list(range(len(rows)))
    assert found.targets.tolist() == (list(range(targets)) if targets else [-1] * len(rows))


@pytest.mark.parametrize(("shape", "targets"), [((5, 4, 3), 4), ((5, 4, 3), 7), ((5, 2, 2, 3), 6), ((5, 3), 15)])
def test_targets_that_match_neither_images_nor_rows_are_refused(tmp_path, shape, targets):
    write(tmp_path / "r.pt", *shape, targets=targets)
    with pytest.raises(SSLToolError, match=rf"r\.pt: \d+ representations, {targets} targets"):
        Representations.stored(tmp_path / "r.pt")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_stored_keeps_the_precision_and_does_not_check_the_values(tmp_path, dtype):
    x = torch.randn(6, 3).to(dtype)
    torch.save({"representations": x}, tmp_path / "r.pt")
    assert torch.equal(Representations.stored(tmp_path / "r.pt").representations, x)
    assert torch.equal(Representations.load(tmp_path / "r.pt").representations, x.float())
    x[2, 1], x[4, 0] = float("nan"), float("-inf")
    torch.save({"representations": x}, tmp_path / "r.pt")
    stored = Representations.stored(tmp_path / "r.pt").representations
    assert torch.equal(stored.nan_to_num(7.0), x.nan_to_num(7.0))


@pytest.mark.parametrize("rows", [torch.zeros(4), torch.zeros(4, 3, dtype=torch.int64), [[0.0, 1.0]], None])
def test_representations_that_are_not_a_float_matrix_are_refused(tmp_path, rows):
    torch.save({"representations": rows}, tmp_path / "r.pt")
    with pytest.raises(SSLToolError, match=r"r\.pt.* representations?"):
        Representations.stored(tmp_path / "r.pt")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_rows_that_are_not_finite_are_counted_and_listed(write_reprs, value):
    rows = torch.zeros(70_000, 2)  # more than one block of the check
    rows[[11, 66_000, 69_999], [0, 1, 1]] = value
    rows[11] = value  # one row, however many of its values
    with pytest.raises(SSLToolError, match=r"3 of 70,000 rows .* \(rows 11, 66000, 69999\)"):
        Representations.load(write_reprs("r.pt", rows))


def test_a_nonfinite_row_in_a_later_block_has_its_own_number(write_reprs):
    rows = torch.zeros(70_000, 2)
    rows[66_000, 1] = float("nan")
    with pytest.raises(SSLToolError, match=r"1 of 70,000 rows .* \(rows 66000\)"):
        Representations.load(write_reprs("r.pt", rows))


def test_the_papers_spectrum_loads(tmp_path):
    torch.save({"stds": torch.tensor([3.0, 1.0])}, tmp_path / "paper_svd.pt")
    found = Spectrum.load(tmp_path / "paper_svd.pt")
    assert found.stds.dtype == torch.float64
    assert found.stds.tolist() == [3.0, 1.0]
    assert found.metrics == {}
    assert found.meta == {}


def test_a_probe_has_the_classes_of_its_rows(tmp_path):
    Probe(torch.ones(3, 2), torch.zeros(3), {}, {}).save(tmp_path / "plain.pt")
    Probe(torch.ones(3, 2), torch.zeros(3), {}, {}, torch.tensor([2, 7, 9]), {"epoch": 1}).save(tmp_path / "named.pt")
    assert Probe.load(tmp_path / "plain.pt").classes.tolist() == [0, 1, 2]
    assert Probe.load(tmp_path / "named.pt").classes.tolist() == [2, 7, 9]
    assert Probe.load(tmp_path / "named.pt").state == {"epoch": 1}


def test_a_probe_of_an_earlier_version_without_labels_and_state_loads(tmp_path):
    probe = {
        "format": "ssltool/probe/1",
        "weight": torch.ones(2, 3),
        "bias": torch.zeros(2),
        "config": {},
        "metrics": {},
    }
    torch.save(probe, tmp_path / "old.pt")
    assert Probe.load(tmp_path / "old.pt").classes.tolist() == [0, 1]


def test_a_pattern_gives_the_matching_files_in_order(tmp_path):
    for name in ("b2.pt", "b1.pt", "c.pt", "[x].pt"):
        (tmp_path / name).touch()
    assert matching(str(tmp_path / "b*.pt")) == [str(tmp_path / "b1.pt"), str(tmp_path / "b2.pt")]
    assert matching(tmp_path / "c.pt") == tmp_path / "c.pt"
    assert matching(tmp_path / "[x].pt") == tmp_path / "[x].pt"  # a file of that name comes first
    with pytest.raises(SSLToolError, match=r"d\*\.pt"):
        matching(tmp_path / "d*.pt")
