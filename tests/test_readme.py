"""What the README shows works as shown."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from hear_axlstm.config import PRESETS

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_python_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 16_000)
    soundfile.write("clip.wav", noise, 16_000)
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert blocks
    for block in blocks:
        names: dict[str, object] = {}
        exec(block, names)
        assert names["scene"].shape == (1, 960)  # type: ignore[attr-defined]


def test_every_preset_is_listed() -> None:
    for name, config in PRESETS.items():
        assert re.search(rf"`{name}` \| [\d,]+ \| {config.embedding_size} \|", README)
