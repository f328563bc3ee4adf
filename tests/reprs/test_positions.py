"""Which dimensions of other programs' tensors are images, positions and the width: right, or what to do."""

from __future__ import annotations

import pytest
import torch

from helpers import error_message
from ssltool.errors import SSLToolError
from ssltool.reprs.representations import Representations


@pytest.fixture
def write(tmp_path):
    """Saves entries: ``write(representations=x) -> path``."""

    def save(**entries):
        torch.save(entries, tmp_path / "r.pt")
        return tmp_path / "r.pt"

    return save


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 1), (6, 4, 1, 1), (6, 1, 4), (6, 4, 1, 1, 1)])
def test_dimensions_of_size_1_are_left_out(write, shape, labelled):
    x = torch.randn(shape)
    found = Representations.load(write(representations=x, **({"targets": torch.arange(6)} if labelled else {})))
    assert torch.equal(found.representations, x.reshape(6, 4))
    assert found.targets.tolist() == (list(range(6)) if labelled else [-1] * 6)


@pytest.mark.parametrize("shape", [(6, 4, 2, 2), (6, 3, 4), (6, 4, 1, 3), (6, 4, 2, 2, 2)])
def test_several_positions_are_an_error_that_names_pool(write, shape):
    with pytest.raises(SSLToolError, match=r"r\.pt: .*--pool mean .*--pool none"):
        Representations.stored(write(representations=torch.randn(shape)))


def test_pool_mean_averages_positions_and_pool_none_keeps_a_row_for_each(write):
    x, y = torch.randn(6, 4, 2, 3), torch.arange(6)
    path = write(representations=x, targets=y, index=y + 10)
    mean = Representations.load(path, pool="mean")
    torch.testing.assert_close(mean.representations, x.mean(dim=(2, 3)))
    assert (mean.targets.tolist(), mean.index.tolist()) == (y.tolist(), (y + 10).tolist())
    each = Representations.stored(path, pool="none")
    assert torch.equal(each.representations.view(6, 2, 3, 4), x.permute(0, 2, 3, 1))
    assert each.targets.tolist() == y.repeat_interleave(6).tolist() and each.meta["places"] == 6
    with pytest.raises(SSLToolError, match="6 positions"):
        Representations.load(path, pool="none")


def test_positions_of_tokens_are_the_second_dimension(write):
    x = torch.randn(6, 5, 4)
    torch.testing.assert_close(Representations.load(write(representations=x), pool="mean").representations, x.mean(1))
    assert torch.equal(Representations.stored(write(representations=x), pool="none").representations, x.flatten(0, 1))


def test_pool_mean_averages_the_views_and_the_places_of_our_own_files(tmp_path):
    x, y = torch.randn(6, 3, 4), torch.arange(6)
    Representations(x, y, y, {"views": 3}).save(tmp_path / "v.pt")
    each = y.repeat_interleave(3)
    Representations(x.flatten(0, 1), each, each, {"places": 3}, [str(i) for i in range(6)]).save(tmp_path / "p.pt")
    for name in ("v.pt", "p.pt"):
        found = Representations.load(tmp_path / name, pool="mean")
        torch.testing.assert_close(found.representations, x.mean(1))
        assert found.targets.tolist() == found.index.tolist() == y.tolist()
    assert Representations.stored(tmp_path / "v.pt").representations.shape == (6, 3, 4)
    assert Representations.stored(tmp_path / "p.pt").paths == [str(i) for i in range(6)]


def test_pool_has_no_effect_on_one_row_per_image(write):
    for pool in ("mean", "none"):
        with pytest.raises(SSLToolError, match="--pool"):
            Representations.load(write(representations=torch.randn(6, 4)), pool=pool)


@pytest.mark.parametrize("shape", [(), (6,), (0, 4), (6, 0), (6, 0, 4)])
def test_no_rows_are_one_line(write, shape):
    with pytest.raises(SSLToolError, match=r"r\.pt: representations .*shape"):
        Representations.stored(write(representations=torch.zeros(shape)))


@pytest.mark.parametrize("meta", [{"views": 5}, {"views": 3, "places": 2}, {"places": 4}])
def test_meta_that_do_not_fit_the_shape_are_refused(tmp_path, meta):
    x = torch.randn(6, 3, 4) if "views" in meta else torch.randn(6, 4)
    Representations(x, torch.arange(6), torch.arange(6), meta).save(tmp_path / "r.pt")
    with pytest.raises(SSLToolError, match=r"r\.pt"):
        Representations.load(tmp_path / "r.pt")


def test_every_command_that_reads_representations_takes_pool(ssltool, write, tmp_path):
    x = torch.randn(12, 4, 2, 2) + 5 * torch.eye(3)[torch.arange(12) % 3].repeat(1, 2)[:, :4, None, None]
    path = write(representations=x, targets=torch.arange(12) % 3)
    flat = tmp_path / "flat.pt"
    torch.save({"representations": x.mean(dim=(2, 3)), "targets": torch.arange(12) % 3}, flat)
    cpu = ["--device", "cpu"]
    commands = {
        "knn": (["knn", path, path, "-k", 3, *cpu], ["knn", flat, flat, "-k", 3, *cpu]),
        "collapse": (["collapse", path, *cpu], ["collapse", flat, *cpu]),
        "rank": (["rank", path], ["rank", flat]),
    }
    for name, (pooled, plain) in commands.items():
        assert "--pool" in error_message(ssltool(*pooled))
        one, other = (ssltool(*args, "--json").json for args in ([*pooled, "--pool", "mean"], plain))
        if name == "knn":
            assert one["accuracy"] == other["accuracy"]
        elif name == "collapse":
            assert one["files"][0]["metrics"]["auc"] == pytest.approx(other["files"][0]["metrics"]["auc"], rel=1e-4)
        else:
            assert one["rows"][0]["auc"] == pytest.approx(other["rows"][0]["auc"], rel=1e-4)
    figure = tmp_path / "s.svg"
    assert ssltool("plot", "spectrum", path, "-o", figure).code == 1 and not figure.exists()
    assert ssltool("plot", "spectrum", path, "-o", figure, "--pool", "mean").code == 0 and figure.exists()
