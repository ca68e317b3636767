"""Numbers with their nouns, lists and durations."""

import pytest

from hear_axlstm.wording import duration, indented, listed, plural


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [
        (1, "clip", "1 clip"),
        (0, "clip", "0 clips"),
        (2, "class", "2 classes"),
        (1234, "clip", "1,234 clips"),
    ],
)
def test_plural(number: int, noun: str, text: str) -> None:
    assert plural(number, noun) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.0, "9.0 s"),
        (59.97, "1.0 min"),
        (90, "1.5 min"),
        (3599.9, "1.0 h"),
        (5_400, "1.5 h"),
        (4e6, "1,111.1 h"),
    ],
)
def test_a_duration_has_a_fitting_unit(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_long_lists_are_counted() -> None:
    assert listed(["a", "b"], 2) == "a, b" and listed(["a", "b", "c"], 1, "; ") == "a and 2 more"
    assert indented(["a", "b"], 2) == "\n  a\n  b"
    assert indented(["a", "b", "c"], 1) == "\n  a\n  and 2 more"
