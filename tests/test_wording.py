"""Numbers with their nouns, and durations."""

import pytest

from hear_axlstm.wording import duration, plural


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
