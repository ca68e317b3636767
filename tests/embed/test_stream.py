"""A stream against the whole clip, standardized by the same statistics."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hear_axlstm import load_model
from hear_axlstm.config import MelConfig, ModelConfig, preset
from hear_axlstm.embed.embedder import Embedder
from hear_axlstm.embed.stream import Stream
from tests.helpers.threads import torch_threads

STATISTICS = (-5.0, 4.0)
NOISE = np.random.default_rng(0).normal(0, 0.1, 90_000).astype(np.float32)


def small(**settings: object) -> Embedder:
    torch.manual_seed(0)
    model = Embedder(ModelConfig(dim=32, depth=2, **settings)).eval()  # type: ignore[arg-type]
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    return model


MODELS = [small(), small(patch=(8, 16)), small(patch=(4, 8), input_gate="sigmoid")]


def run(stream: Stream, audio: np.ndarray, blocks: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Push blocks of these sizes, the last one again and again, then finish."""
    parts, start, sizes = [], 0, iter(blocks)
    size = 0
    while start < len(audio):
        size = next(sizes, max(size, 1))
        parts.append(stream.push(audio[start : start + size]))
        start += size
    parts.append(stream.finish())
    steps, times = zip(*parts, strict=True)
    return np.concatenate(steps), np.concatenate(times)


@settings(max_examples=25, deadline=None)
@given(
    model=st.sampled_from(MODELS),
    samples=st.one_of(st.integers(1, 2_000), st.integers(1, 90_000)),
    blocks=st.lists(st.one_of(st.integers(0, 400), st.integers(1, 70_000)), max_size=9).map(
        lambda sizes: [*sizes, 1_601]
    ),
)
def test_any_blocks_give_the_whole_clip(model: Embedder, samples: int, blocks: list[int]) -> None:
    audio = NOISE[:samples]
    expected, ms = model.embed(audio, kind="timestamp", statistics=STATISTICS)
    steps, times = run(model.stream(STATISTICS), audio, blocks)
    np.testing.assert_array_equal(times, ms)
    np.testing.assert_allclose(steps, expected, rtol=0, atol=1e-5)


def test_the_shipped_weights_stream_too() -> None:
    model = load_model()
    audio = NOISE[:36_001]
    statistics = model.fit_statistics(audio[:16_000])
    expected, _ = model.embed(audio, kind="timestamp", statistics=statistics)
    steps, _ = run(model.stream(statistics), audio, [1_280])
    np.testing.assert_allclose(steps, expected, rtol=0, atol=1e-5)


def test_a_step_comes_as_soon_as_its_last_frame_is_whole() -> None:
    """Step j has the frames 4 j to 4 j + 3; the last is centered on sample 160 (4 j + 3)."""
    stream = MODELS[0].stream(STATISTICS)
    complete = [160 * (4 * j + 3) + 200 for j in range(60)]
    count = 0
    for end in complete:
        early, _ = stream.push(NOISE[count : end - 1])
        (step,), (time,) = stream.push(NOISE[end - 1 : end])
        assert not len(early) and step.shape == (160,) and time == (end - 680) / 16 + 15
        count = end


def test_memory_does_not_grow() -> None:
    stream = MODELS[0].stream(STATISTICS)

    def held() -> int:
        tensors = [stream._samples, stream._frames_TF]
        for state in stream._states:
            tensors += state.tensors()
        return sum(tensor.untyped_storage().nbytes() for tensor in tensors)

    sizes = []
    for _ in range(12):
        stream.push(NOISE[:16_000])
        sizes.append(held())
    assert max(sizes[2:]) <= max(sizes[:2])


def test_tensors_give_tensors_and_a_stream_can_begin_again() -> None:
    stream, audio = MODELS[0].stream(STATISTICS), torch.from_numpy(NOISE[:5_000])
    first = [stream.push(audio), stream.finish()]
    second = [stream.push(audio), stream.finish()]
    assert all(
        torch.equal(a, b)
        for x, y in zip(first, second, strict=True)
        for a, b in zip(x, y, strict=True)
    )
    assert [len(a) for a in stream.finish()] == [0, 0]


def test_later_changes_of_the_weights_do_not_count() -> None:
    model, audio = small(), NOISE[:40_000]
    expected, _ = run(model.stream(STATISTICS), audio, [9_000, 31_000])
    stream = model.stream(STATISTICS)
    parts = [stream.push(audio[:9_000])]
    for parameter in model.parameters():
        parameter.data.mul_(2.0)
    model.double()
    parts += [stream.push(audio[9_000:]), stream.finish()]
    np.testing.assert_array_equal(np.concatenate([steps for steps, _ in parts]), expected)


def test_blocks_that_were_changed_are_refused() -> None:
    model = small()
    model.encoder.blocks[1].proj_up.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match=r"blocks\.1\.proj_up has hooks"):
        model.stream(STATISTICS)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_a_model_of_another_type_is_refused(dtype: torch.dtype) -> None:
    model, audio = small().to(dtype), torch.from_numpy(NOISE[:8_000])
    for use in (
        lambda: model.stream(STATISTICS),
        lambda: model(audio[None]),
        lambda: model.scene(audio[None]),
        lambda: model.embed(audio),
        lambda: model.fit_statistics(audio),
    ):
        with pytest.raises(ValueError, match=f"the model is {dtype}: keep it in float32"):
            use()


def test_models_that_look_ahead_are_refused() -> None:
    with pytest.raises(ValueError, match="flip=True can't embed a stream"):
        small(flip=True).stream(STATISTICS)
    with pytest.raises(ValueError, match="load the model with layout='time'"):
        small(layout="release").stream(STATISTICS)
    with pytest.raises(ValueError, match="ssast can't embed a stream"):
        Embedder(preset("ssast_tiny")).stream(STATISTICS)


def test_mel_frames_that_overlap_too_little_are_refused() -> None:
    for hop, n_fft in ((199, 400), (200, 401)):
        model = small(mel=MelConfig(hop_length=hop, n_fft=n_fft))
        for samples in range(3_000, 3_200, 7):
            audio = NOISE[:samples]
            expected, _ = model.embed(audio, kind="timestamp", statistics=STATISTICS)
            steps, _ = run(model.stream(STATISTICS), audio, [1_000])
            np.testing.assert_allclose(steps, expected, rtol=0, atol=1e-5)
    for hop in (200, 500):
        with pytest.raises(ValueError, match=f"hop_length={hop} can't embed .* n_fft=400: use"):
            small(mel=MelConfig(hop_length=hop)).stream(STATISTICS)


def test_bad_samples_are_refused_and_change_nothing() -> None:
    stream = MODELS[0].stream(STATISTICS)
    stream.push(NOISE[:3_000])
    for bad, remedy in (
        (NOISE[None, :100], "mono"),
        (NOISE[:100] * np.nan, "remove NaN"),
        (np.zeros(5, np.int16), "32768"),
    ):
        with pytest.raises((TypeError, ValueError), match=remedy):
            stream.push(bad)
    with pytest.raises(ValueError, match="statistics="):
        MODELS[0].stream((0.0, -1.0))
    steps, _ = run(stream, NOISE[3_000:9_000], [100])
    expected, _ = MODELS[0].embed(NOISE[:9_000], kind="timestamp", statistics=STATISTICS)
    np.testing.assert_allclose(steps, expected[4:], rtol=0, atol=1e-5)


def test_a_step_uses_one_thread_and_leaves_the_setting() -> None:
    seen: list[int] = []
    model = small()
    stream = model.stream(STATISTICS)
    encode = stream._encode
    stream._encode = lambda *given: seen.append(torch.get_num_threads()) or encode(*given)  # type: ignore[method-assign,func-returns-value]
    with torch_threads(3):
        stream.push(NOISE[:8000])
        assert seen == [1] and torch.get_num_threads() == 3
        with pytest.raises(ValueError, match="finite"):
            stream.push(np.full(800, np.nan, dtype=np.float32))
        assert torch.get_num_threads() == 3
