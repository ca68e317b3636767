"""The choice between two ways to multiply."""

import pytest
import torch

from hear_axlstm.ops import fastest, matmul, precision

CPU = torch.device("cpu")


def test_processors_are_timed_whatever_the_default_device() -> None:
    with torch.device("meta"):
        assert fastest.square(torch.float32).device == CPU


def test_only_a_clear_gain_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def work(seconds: float) -> fastest.Work:
        return lambda: now.append(now[-1] + seconds)

    monkeypatch.setattr(fastest.time, "thread_time", lambda: now[-1])
    assert fastest.is_faster(work(1.0), work(2.0))
    assert not fastest.is_faster(work(2.0), work(1.0))
    assert not fastest.is_faster(work(1.0), work(1.2))


def test_autocast_does_not_change_what_is_timed() -> None:
    seen = []
    single = fastest.square(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        fastest.is_faster(lambda: seen.append((single @ single).dtype), lambda: None)
    assert set(seen) == {torch.float32}


@pytest.mark.parametrize("faster", [True, False])
def test_auto_follows_the_measurement(faster: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "is_faster", lambda other, usual: faster)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    precision._has_fast_cpu.cache_clear()
    try:
        found = precision.product_dtype("auto", CPU)
    finally:
        precision._has_fast_cpu.cache_clear()
    assert found == (torch.bfloat16 if faster else torch.float32)


def test_bfloat16_without_instructions_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bool:
        raise AssertionError("timed")

    monkeypatch.setattr(precision, "is_faster", fail)
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False)
    precision._has_fast_cpu.cache_clear()
    try:
        assert precision.product_dtype("auto", CPU) == torch.float32
    finally:
        precision._has_fast_cpu.cache_clear()


@pytest.mark.parametrize("is_fastest", [True, False])
def test_products_agree_either_way(is_fastest: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matmul, "onednn_is_fastest", lambda: is_fastest)
    x, weight = torch.randn(20, 30), torch.randn(40, 30)
    torch.testing.assert_close(matmul.linear(x, matmul.fixed_weight(weight)), x @ weight.mT)
