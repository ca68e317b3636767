"""Speed in the log."""

import pytest
import torch

from hear_axlstm.models.pretraining import training_flops
from hear_axlstm.training import meter
from hear_axlstm.training.distributed import DistContext
from tests.helpers.runs import MODEL


def test_mfu_is_the_models_share_of_what_all_devices_could_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    context = DistContext(torch.device("cpu"), size=4)
    assert "mfu" not in meter.Meter(training_flops(MODEL), context).take(8), "no peak is known"
    monkeypatch.setattr(meter, "peak_flops", lambda device: 1e12)
    values = meter.Meter(training_flops(MODEL), context).take(8)
    assert values["mfu"] == pytest.approx(
        values["samples_per_second"] * training_flops(MODEL) / (4 * 1e12)
    )


def test_pauses_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(meter.time, "monotonic", lambda: now[0])
    speed = meter.Meter(None, DistContext(torch.device("cpu")))
    now[0] = 2.0
    with speed.paused():
        now[0] = 60.0
    assert speed.take(8)["samples_per_second"] == 4.0


def test_memory_is_the_process_own() -> None:
    before = meter.peak_memory(torch.device("cpu"))
    held = torch.ones(200_000_000 // 4)
    after = meter.peak_memory(torch.device("cpu"))
    assert before is not None and after is not None and len(held)
    assert 50e6 < after < 100e9 and after >= before
