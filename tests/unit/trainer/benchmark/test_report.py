import pytest
from rich.console import Console

from trainer.benchmark.protocols import BenchmarkRun, OddsTable, OneClass
from trainer.benchmark.report import benchmark_table, published_figure, run_line, summarize
from trainer.benchmark.results import RunResult


def result(auc: dict[str, float], **changes: object) -> RunResult:
    counts = {"normals": 90, "anomalies": 10, "test_normals": 5, "test_anomalies": 5, "wall_s": 3.0, "cpu_s": 2.0}
    return RunResult(**{"run": {"seed": 0}, "auc": auc, **counts, **changes})


def two_seeds_of_ten_classes() -> dict[BenchmarkRun, RunResult]:
    return {
        BenchmarkRun("mnist", "esad", OneClass(number), seed): result({"score": auc, "reconstruction": 0.5}, anomalies=0)
        for seed, aucs in enumerate(([0.8, 0.9] * 5, [0.9, 1.0] * 5))
        for number, auc in enumerate(aucs)
    }


def test_summary_averages_classes_then_seeds():
    own, other = summarize(two_seeds_of_ten_classes())
    assert own.auc == pytest.approx(0.9)
    assert own.auc_std == pytest.approx(0.1 / 2**0.5)  # of 0.85 and 0.95
    assert (own.seeds, own.runs, own.wall_s, own.cpu_s) == (2, 20, 60.0, 40.0)
    assert (other.score, other.auc, other.auc_std) == ("reconstruction", 0.5, 0.0)


def test_published_figure_of_own_score():
    own, other = summarize(two_seeds_of_ten_classes())
    assert own.published == published_figure("ESAD", "mnist")
    assert own.difference == pytest.approx(0.9 - 0.996)
    assert own.others is not None
    assert own.others.from_memory
    assert (other.published, other.difference, other.others) == (None, None, None)


def test_forest_figure_of_unlabelled_tables():
    results = {BenchmarkRun("odds", "ama", OddsTable("cardio"), 0): result({"a": 0.7}, anomalies=0)}
    (row,) = summarize(results)
    assert row.published is None
    assert row.others is not None
    assert (row.others.method, row.others.auc, row.others.from_memory) == ("isolation forest", 0.924, False)


def test_no_published_figure_for_some_classes():
    some = {run: one for run, one in two_seeds_of_ten_classes().items() if run.case != OneClass(9)}
    assert [(row.published, row.difference, row.others) for row in summarize(some)] == [(None, None, None)] * 2


def test_one_seed_has_no_deviation():
    (row,) = summarize({BenchmarkRun("odds", "ama", OddsTable("one"), 0): result({"a": 0.7})})
    assert row.auc_std is None
    assert row.seeds == 1


def test_summary_has_ratio_reached():
    results = {BenchmarkRun("odds", "esad", OddsTable("cardio", 0.2), 0): result({"a": 0.7}, normals=90, anomalies=10)}
    assert [(row.ratio, row.ratio_reached) for row in summarize(results)] == [(0.2, 0.1)]


def test_table_marks_memory_and_omits_columns(capsys):
    Console(width=160).print(benchmark_table(two_seeds_of_ten_classes(), "title"))
    compared = capsys.readouterr().out
    Console(width=160).print(benchmark_table({BenchmarkRun("odds", "ama", OddsTable("one"), 0): result({"a": 0.7})}, "title"))
    alone = capsys.readouterr().out
    assert "90.0 ± 7.1" in compared
    assert "92.8* Deep SAD" in compared
    assert "* from memory" in compared
    assert "-9.6" in compared
    assert "published " not in alone
    assert "others" not in alone


def test_run_line():
    line = run_line(BenchmarkRun("mnist", "esad", OneClass(3, 4, 0.2), 1), result({"score": 0.91234, "reconstruction": 0.5}))
    assert line == "mnist esad normal 3, anomaly 4, ratio 0.2, seed 1: AUC score 0.9123, reconstruction 0.5000 (3 s)"
