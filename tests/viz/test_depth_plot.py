"""The figure of the metrics over the depth."""

from __future__ import annotations

import re

import pytest

from ssltool.viz.depth_plot import plot_depth

METRICS = ("effective_rank", "auc", "feature_std", "dead_directions", "patch_cosine", "patch_rank")


def network(count: int, panels: int, prefix: str = "backbone.block") -> dict:
    layers = [
        {"layer": f"{prefix}{i}", "metrics": dict.fromkeys(METRICS[:panels], 0.5), "cka": {}, "untrained": None}
        for i in range(count)
    ]
    return {"layers": layers}


def texts(path) -> list[str]:
    return re.findall(r">([^<>\n]+)</text>", path.read_text())


@pytest.mark.parametrize("panels", range(1, 7))
def test_the_lowest_panel_of_each_column_has_the_names_of_the_layers(panels, tmp_path):
    plot_depth(["a"], [network(5, panels)], str(tmp_path / "a.svg"))
    found = texts(tmp_path / "a.svg")
    assert [found.count(f"block{i}") for i in range(5)] == [min(panels, 2)] * 5


@pytest.mark.parametrize("panels", [4, 5])
def test_layers_without_common_names_have_whole_numbers(panels, tmp_path):
    networks = [network(5, panels), network(19, panels, "other")]
    plot_depth(["a", "b"], networks, str(tmp_path / "a.svg"))
    found = texts(tmp_path / "a.svg")
    assert found.count("layer, from the input to the output") == 2
    assert found.count("12") + found.count("15") + found.count("16") >= 2
    assert not {"2.5", "7.5", "12.5"} & {*found}
