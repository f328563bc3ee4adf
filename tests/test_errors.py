"""The parts of messages."""

from __future__ import annotations

import pytest

from ssltool.errors import counted, duration


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [
        (1, "epoch", "1 epoch"),
        (0, "epoch", "0 epochs"),
        (2, "class", "2 classes"),
        (1, "class", "1 class"),
        (3, "batch", "3 batches"),
        (10_000, "image", "10,000 images"),
    ],
)
def test_the_noun_agrees_with_its_number(number, noun, text):
    assert counted(number, noun) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (200, "3 min 20 s"),
        (3599.7, "1 h"),
        (5280, "1 h 28 min"),
        (7200, "2 h"),
        (86_399, "1 d"),
        (183_600, "2 d 3 h"),
    ],
)
def test_a_duration_has_its_two_largest_units(seconds, text):
    assert duration(seconds) == text
