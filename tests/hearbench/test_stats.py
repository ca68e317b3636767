"""Means, intervals and s(m), against scipy and numbers worked out by hand."""

from __future__ import annotations

import pytest
from scipy import stats

from hearbench import paper_tables
from hearbench.stats import (
    PAPER_RANGES,
    AggregateError,
    Estimate,
    Run,
    aggregate,
    aggregate_paper,
    paper_score,
    score_ranges,
    summarize,
)


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
    result = summarize(values)
    assert result.mean == pytest.approx((low + high) / 2)
    assert result.half_width == pytest.approx((high - low) / 2)


def test_one_seed_has_no_interval() -> None:
    assert str(summarize([61.23])) == "61.2"


def test_frame_spans_single_runs_not_means() -> None:
    extremes = score_ranges(runs_of(TWO_BY_TWO))
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
    with pytest.raises(AggregateError, match="no score on b"):
        aggregate(runs, "low", ["a", "b"])
    assert aggregate(runs, "high", ["a", "b"]).seeds == 2


def test_unfinished_seed_is_left_out() -> None:
    runs = [run for run in runs_of(TWO_BY_TWO) if run != Run("low", "b", 1, "top1_acc", 0.4, 1.0)]
    assert aggregate(runs, "low", ["a", "b"]).seeds == 1


def test_nothing_to_compare_refuses_the_aggregate() -> None:
    with pytest.raises(AggregateError, match="only one"):
        aggregate(runs_of({("low", "a"): [10.0, 20.0]}), "low", ["a"])
    with pytest.raises(AggregateError, match="score the same on a"):
        aggregate(runs_of({("low", "a"): [10.0], ("high", "a"): [10.0]}), "low", ["a"])


def test_paper_frame_is_for_the_official_tasks_only() -> None:
    columns = {f"{name}-folder": name for name in PAPER_RANGES}
    row = next(row for row in paper_tables.rows("table2") if row.model == "AxLSTM-T")
    runs = runs_of({("x", task): [row.scores[c].mean] for task, c in columns.items()})
    assert aggregate_paper(runs, "x", columns).mean == pytest.approx(70.7, abs=0.05)
    with pytest.raises(AggregateError, match="no score on VL-folder"):
        aggregate_paper([run for run in runs if run.task != "VL-folder"], "x", columns)
    del columns["Mri-T-folder"]
    with pytest.raises(AggregateError, match="in full; missing: Mri-T"):
        aggregate_paper(runs, "x", columns)


def test_paper_frame_has_the_interval_over_seeds() -> None:
    columns = {name: name for name in PAPER_RANGES}
    runs = runs_of({("x", name): [50.0, 52.0, 51.0] for name in columns})
    per_seed = [paper_score(dict.fromkeys(columns, value)) for value in (50.0, 52.0, 51.0)]
    result, expected = aggregate_paper(runs, "x", columns), summarize(per_seed)
    assert (result.mean, result.half_width) == pytest.approx((expected.mean, expected.half_width))


def test_few_seeds_are_shown_with_their_range() -> None:
    """66.7 ± 44.1 of two seeds says nothing about the scores."""
    two = summarize([63.2, 70.1])
    assert two.half_width == pytest.approx(43.8, abs=0.1)
    assert str(two) == "66.7 (63.2 to 70.1)" and two.spread == "(63.2 to 70.1)"
    assert str(summarize([50.0])) == "50.0"
    assert str(summarize([1.0, 2.0, 3.0, 4.0, 5.0])) == "3.0 ± 2.0"
    assert str(Estimate(50.0, 0.5, 2)) == "50.0 ± 0.5"  # printed: single seeds are not known
