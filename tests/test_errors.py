"""The parts of messages."""

from __future__ import annotations

import pytest

from ssltool.errors import counted


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
