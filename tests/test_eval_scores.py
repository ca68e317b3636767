"""Means, intervals and s(m), against scipy, numbers worked out by hand and the paper's Table 2."""

from __future__ import annotations

import pytest
from scipy import stats

from eval.scores import (
    PAPER_RANGES,
    FrameError,
    Run,
    aggregate,
    aggregate_paper,
    estimate,
    frame,
    paper_score,
)

# Table 2: BO, Mri-S, Mri-T, NS-5h, CD, LC, SC-5h, VL, E50, F50K and the printed s(m).
TABLE_2 = {
    "HEAR-Naive": (52.6, 38.0, 36.4, 18.6, 30.9, 33.5, 8.5, 11.2, 5.8, 7.1, 5.1),
    "PaSST-Base": (94.9, 96.5, 87.6, 23.3, 61.0, 60.1, 66.6, 25.5, 94.8, 64.2, 74.4),
    "W2V2-large": (93.1, 93.9, 77.4, 42.0, 66.9, 62.4, 87.6, 53.6, 60.1, 34.2, 74.9),
    "WavLM-large": (96.4, 96.8, 89.5, 53.7, 57.2, 61.1, 46.2, 23.7, 47.9, 29.0, 64.8),
    "HuBERT-large": (94.1, 95.3, 83.5, 19.3, 70.7, 59.9, 83.2, 66.1, 60.3, 31.5, 74.3),
    "BEATs-iter3": (94.0, 94.7, 95.8, 69.4, 67.3, 68.0, 85.2, 38.5, 83.7, 53.6, 86.7),
    "AudioMAE": (93.7, 89.2, 86.6, 64.5, 68.2, 42.2, 28.6, 29.7, 60.6, 37.9, 63.6),
    "MSM-MAE-208": (95.7, 97.3, 97.9, 69.1, 68.7, 63.8, 85.7, 40.3, 78.4, 49.5, 86.0),
    "MWMAE-Tiny": (93.3, 97.1, 97.6, 68.1, 64.4, 65.5, 77.0, 28.6, 71.9, 43.4, 80.0),
    "MWMAE-Base": (96.0, 97.4, 97.9, 69.3, 73.1, 68.8, 90.9, 44.2, 81.2, 51.2, 90.3),
    "SSAM-Tiny": (93.7, 97.1, 94.9, 62.0, 61.8, 59.2, 74.8, 27.8, 70.6, 41.3, 75.6),
    "SSAM-Small": (94.0, 97.5, 96.7, 66.3, 67.5, 60.5, 83.7, 39.6, 78.7, 48.5, 83.5),
    "SSAM-Base": (93.2, 97.7, 96.9, 70.5, 70.3, 63.5, 87.9, 50.4, 81.0, 52.2, 88.7),
    "SSAST": (93.4, 96.7, 96.3, 66.8, 56.5, 60.7, 53.5, 28.5, 68.4, 38.2, 72.5),
    "SSAST-T": (90.4, 95.7, 94.3, 61.2, 46.9, 42.7, 50.6, 13.8, 42.4, 24.6, 55.6),
    "SSAST-S": (93.2, 96.2, 95.0, 63.8, 51.6, 50.0, 58.3, 15.6, 50.1, 31.6, 63.0),
    "SSAST-B": (93.1, 96.6, 96.2, 64.6, 56.0, 52.9, 66.1, 19.2, 59.6, 37.5, 68.7),
    "AxLSTM-T": (93.9, 96.8, 94.9, 62.5, 57.5, 55.1, 69.0, 24.1, 61.3, 37.5, 70.7),
    "AxLSTM-S": (92.9, 97.4, 96.6, 66.6, 65.0, 60.3, 80.5, 36.5, 75.5, 46.5, 81.1),
    "AxLSTM-B": (93.6, 97.5, 97.5, 71.4, 68.7, 63.2, 85.1, 43.5, 79.2, 51.0, 86.6),
}


def runs_of(scores: dict[tuple[str, str], list[float]], metric: str = "top1_acc") -> list[Run]:
    """Runs from (system, task) -> one score in percent per seed."""
    return [
        Run(system, task, seed, metric, value / 100, 1.0)
        for (system, task), values in scores.items()
        for seed, value in enumerate(values)
    ]


TWO_BY_TWO = {
    ("low", "a"): [10.0, 20.0],
    ("low", "b"): [30.0, 40.0],
    ("high", "a"): [60.0, 50.0],
    ("high", "b"): [80.0, 70.0],
}


def test_interval_is_students() -> None:
    values = [61.2, 60.8, 63.0, 62.4, 59.9]
    low, high = stats.t.interval(0.95, 4, loc=stats.tmean(values), scale=stats.sem(values))
    result = estimate(values)
    assert result.mean == pytest.approx((low + high) / 2)
    assert result.half_width == pytest.approx((high - low) / 2)


def test_one_seed_has_no_interval() -> None:
    assert str(estimate([61.23])) == "61.2"


def test_frame_spans_single_runs_not_means() -> None:
    extremes = frame(runs_of(TWO_BY_TWO))
    assert extremes["a"] == pytest.approx((10.0, 60.0))
    assert extremes["b"] == pytest.approx((30.0, 80.0))


def test_aggregate_by_hand() -> None:
    runs = runs_of(TWO_BY_TWO)
    # seed 0: (0 + 0) / 2 and (1 + 1) / 2; seed 1: (0.2 + 0.2) / 2 and (0.8 + 0.8) / 2
    low, high = (aggregate(runs, system, ["a", "b"]) for system in ("low", "high"))
    assert (low.mean, high.mean) == pytest.approx((10.0, 90.0))
    # Student t for one degree of freedom is 12.7062, the deviation of 0 and 20 is 14.142.
    assert low.half_width == pytest.approx(12.7062 * 14.1421 / 2**0.5, rel=1e-4)


def test_error_rates_count_downwards() -> None:
    runs = runs_of({("good", "a"): [20.0], ("bad", "a"): [80.0]}, metric="segment_1s_er")
    assert aggregate(runs, "good", ["a"]).mean == pytest.approx(100.0)
    assert aggregate(runs, "bad", ["a"]).mean == pytest.approx(0.0)


def test_missing_task_refuses_the_aggregate() -> None:
    runs = [run for run in runs_of(TWO_BY_TWO) if (run.system, run.task) != ("low", "b")]
    with pytest.raises(FrameError, match="no score on b"):
        aggregate(runs, "low", ["a", "b"])
    assert aggregate(runs, "high", ["a", "b"]).seeds == 2


def test_unfinished_seed_is_left_out() -> None:
    runs = [run for run in runs_of(TWO_BY_TWO) if run != Run("low", "b", 1, "top1_acc", 0.4, 1.0)]
    assert aggregate(runs, "low", ["a", "b"]).seeds == 1


def test_nothing_to_compare_refuses_the_aggregate() -> None:
    with pytest.raises(FrameError, match="only one"):
        aggregate(runs_of({("low", "a"): [10.0, 20.0]}), "low", ["a"])
    with pytest.raises(FrameError, match="score the same on a"):
        aggregate(runs_of({("low", "a"): [10.0], ("high", "a"): [10.0]}), "low", ["a"])


@pytest.mark.parametrize("model", TABLE_2)
def test_paper_frame_gives_table_2(model: str) -> None:
    *scores, printed = TABLE_2[model]
    assert paper_score(dict(zip(PAPER_RANGES, scores, strict=True))) == pytest.approx(
        printed, abs=0.05
    )


def test_paper_frame_is_for_the_official_tasks_only() -> None:
    tasks = {f"{name}-{mode}": (name, mode) for name, mode in PAPER_RANGES}
    values = TABLE_2["AxLSTM-T"]
    runs = runs_of({("x", task): [v] for task, v in zip(tasks, values[:10], strict=True)})
    assert aggregate_paper(runs, "x", tasks).mean == pytest.approx(values[10], abs=0.05)
    tasks["mridangam_tonic-full"] = ("mridangam_tonic", "partial")
    with pytest.raises(FrameError, match=r"lack mridangam_tonic \(full\)"):
        aggregate_paper(runs, "x", tasks)
