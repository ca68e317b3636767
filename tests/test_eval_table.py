"""The table's headings."""

from __future__ import annotations

from pathlib import Path

import pytest

from eval.table import _head
from eval.tasks import Task


@pytest.mark.parametrize(
    ("folder", "name", "mode", "head"),
    [
        ("esc50-v2.0.0-full", "esc50", "full", "E50"),
        ("nsynth_pitch-v2.2.3-5h", "nsynth_pitch", "5h", "NS-5h"),
        ("mridangam_tonic-v1.5-partial", "mridangam_tonic", "partial", None),
        ("speech_commands-v0.0.2-full", "speech_commands", "full", None),
        ("pitch-mini", "pitch-mini", "full", None),
    ],
)
def test_only_the_paper_s_own_tasks_get_its_short_names(
    folder: str, name: str, mode: str, head: str | None
) -> None:
    task = Task(Path(folder), name, mode, "top1_acc", 1, 9_999, 2, ("train",), "0")
    assert _head(task) == (head or folder)
