"""The system that docs/evaluation.md shows works as shown."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from eval.systems import fingerprint, parse_system

PAGE = (Path(__file__).parent.parent / "docs" / "evaluation.md").read_text()


def test_the_system_in_20_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hearvalidator.validate import ValidateModel

    (code,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert sum(bool(line.strip()) for line in code.splitlines()) <= 20
    (tmp_path / "spectrum.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert fingerprint(parse_system("spectrum")).sample_rate == 16_000
    ValidateModel("spectrum", None, device="cpu")()
