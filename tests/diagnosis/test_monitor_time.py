"""Advice on a monitor that takes too much of the time: it helps, or it is not given."""

from __future__ import annotations

import re

import pytest

from ssltool.diagnosis.monitor_time import MAX_TIME_SHARE, MIN_IMAGES, cheaper

NAMES = ("every ", "size ")


def advised(*args, **more):
    """The settings that a warning names, and the percentages to which they reduce the share."""
    said = cheaper(*args, NAMES, **more)
    found = re.findall(r"(every|size) (\d+) reduces it to (\d+)%", "".join(said))
    return {name: (int(value), int(percent) / 100) for name, value, percent in found}


@pytest.mark.parametrize("share", [0.0, MAX_TIME_SHARE, MAX_TIME_SHARE + 0.004])
def test_a_share_that_is_at_the_limit_when_it_is_rounded_is_not_said(share):
    assert cheaper(share, 1, NAMES, total=100, images=2048) == []


@pytest.mark.parametrize("share", [0.06, 0.11, 0.5, 3.0])
@pytest.mark.parametrize("every", [1, 4])
@pytest.mark.parametrize("total", [None, 7, 100])
@pytest.mark.parametrize("images", [None, 300, 2048])
def test_what_is_advised_reduces_the_share(share, every, total, images):
    found = advised(share, every, total=total, images=images)
    for value, left in found.values():
        assert left < share and value > 0
    if "every" in found:
        assert every < found["every"][0] <= (total or 10**9)
    if "size" in found:
        assert MIN_IMAGES <= found["size"][0] < images
    if total is None:
        assert found["every"][1] <= MAX_TIME_SHARE


def test_the_interval_is_the_shortest_whose_looks_take_little():
    """Of ten looks that take 20 %, two may remain."""
    assert advised(0.2, 1, total=10) == {"every": (5, 0.04)}


def test_few_images_are_advised_only_if_there_is_a_single_look():
    assert advised(0.5, 1, total=1, images=1024) == {"size": (MIN_IMAGES, 0.12)}
    assert advised(0.5, 1, total=1, images=MIN_IMAGES) == {} and cheaper(0.5, 1, NAMES, total=1) == []
    assert set(advised(0.5, 1, total=100, images=1024)) == {"every"}
    assert set(advised(0.1, 1, total=100, images=1024)) == {"every", "size"}
