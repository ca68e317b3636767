"""Any HEAR module by X-ARES' own checker."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

checker = pytest.importorskip("xares.audio_encoder_checker")

from hearbench.integrations.xares import HearSystem  # noqa: E402
from hearbench.systems.specs import SystemSpecError  # noqa: E402
from tests.helpers import system_checkpoints as write  # noqa: E402

HOPS = {"passt": 50.0, "beats": 160.0, "ssast": 100.0}


@pytest.mark.parametrize("name", HOPS)
def test_the_checker_accepts_adapters(name: str, tmp_path: Path) -> None:
    path = write.WRITERS[name](tmp_path)
    encoder = type("TestEncoder", (HearSystem,), {"spec": f"{name}@{path}"})()
    assert checker.check_audio_encoder(encoder)
    assert encoder.hop_size_in_ms == pytest.approx(HOPS[name])
    assert torch.equal(encoder(torch.ones(9_000)), encoder(torch.ones(1, 9_000)))


def test_a_model_that_is_not_of_torch_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "class Model:\n    sample_rate = 16_000\ndef load_model(path=''):\n    return Model()\n"
    code += "get_scene_embeddings = get_timestamp_embeddings = None\n"
    (tmp_path / "module_without_torch.py").write_text(code, "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(SystemSpecError, match=r"is a Model, and X-ARES needs a torch\.nn\.Module"):
        type("TestEncoder", (HearSystem,), {"spec": "module_without_torch"})()
