"""The command line, as a user types it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

AXLSTM = str(Path(sys.executable).with_name("axlstm"))


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([AXLSTM, *arguments], capture_output=True, text=True, timeout=120)


def test_info_lists_presets_as_json() -> None:
    rows = {row["name"]: row for row in json.loads(run("info", "--json").stdout)}
    assert len(rows) == 6
    assert rows["axlstm_tiny"]["parameters"] == 4_343_584
    assert rows["axlstm_base"]["scene_embedding_size"] == 3840
    assert rows["ssast_small"]["patch"] == [4, 16]


def test_info_takes_names_and_prints_a_table() -> None:
    lines = run("info", "axlstm_small").stdout.splitlines()
    assert len(lines) == 2 and "16,723,360" in lines[1]


def test_mistakes_get_one_line(tmp_path: Path) -> None:
    for arguments in (
        ("info", "axlstm_huge"),
        ("pack", str(tmp_path / "nowhere"), str(tmp_path / "out")),
        ("pretrain", str(tmp_path / "nowhere"), "--run", str(tmp_path / "run")),
    ):
        result = run(*arguments)
        assert result.returncode == 2, arguments
        assert result.stderr.startswith("axlstm: error: ") and "Traceback" not in result.stderr
