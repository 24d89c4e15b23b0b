import numpy as np
import pytest

from deploy.errors import ConfigError
from trainer.benchmark.protocols import (
    RATIOS,
    BenchmarkRun,
    LeaveOneOut,
    OddsTable,
    OneClass,
    RowLabels,
    RunSelection,
    SplitRows,
    labelled_count,
    parse_selection,
    plan_runs,
)

IMAGES = RowLabels(np.tile(np.arange(10), 120), np.arange(1200) >= 1000)
"""100 pictures of each class in the training file, 20 in the test file."""
ROWS = RowLabels(np.repeat([0, 1], [100, 20]), np.zeros(120, np.bool_))
CASES = [
    (LeaveOneOut(3), IMAGES),
    (OneClass(3), IMAGES),
    (OneClass(3, 7, 0.2), IMAGES),
    (OddsTable("cardio"), ROWS),
    (OddsTable("cardio", 0.2), ROWS),
]


def same(one: SplitRows, other: SplitRows) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(("case", "labels"), CASES, ids=str)
def test_rows_are_disjoint(case, labels):
    taken = np.concatenate(case.rows(labels, 0))
    assert len(set(taken.tolist())) == len(taken)


@pytest.mark.parametrize(("case", "labels"), CASES, ids=str)
def test_same_seed_same_rows(case, labels):
    assert same(case.rows(labels, 5), case.rows(labels, 5))


@pytest.mark.parametrize("case", [LeaveOneOut(3), OddsTable("cardio", 0.1)], ids=str)
def test_other_seed_other_rows(case):
    labels = ROWS if isinstance(case, OddsTable) else IMAGES
    assert set(case.rows(labels, 0).test_normals) != set(case.rows(labels, 1).test_normals)


def test_leave_one_out_pools_both_files():
    rows = LeaveOneOut(3).rows(IMAGES, 0)
    assert [len(part) for part in rows] == [864, 0, 216, 120]
    assert set(IMAGES.classes[rows.test_anomalies]) == {3}
    assert set(IMAGES.classes[np.concatenate([rows.normals, rows.test_normals])]) == set(range(10)) - {3}
    assert IMAGES.from_test_file[rows.normals].any()
    assert not IMAGES.from_test_file[rows.test_normals].all()


def test_one_class_tests_on_whole_test_file():
    rows = OneClass(3).rows(IMAGES, 0)
    assert [len(part) for part in rows] == [100, 0, 20, 180]
    assert set(IMAGES.classes[rows.normals]) == {3}
    assert not IMAGES.from_test_file[rows.normals].any()
    assert sorted(np.concatenate([rows.test_normals, rows.test_anomalies])) == list(range(1000, 1200))


def test_labelled_anomalies_of_one_class():
    rows, without = OneClass(3, 7, 0.2).rows(IMAGES, 0), OneClass(3).rows(IMAGES, 0)
    assert len(rows.anomalies) == 25  # of 125
    assert set(IMAGES.classes[rows.anomalies]) == {7}
    assert not IMAGES.from_test_file[rows.anomalies].any()
    assert same(rows._replace(anomalies=without.anomalies), without)


@pytest.mark.parametrize(
    ("normals", "ratio", "count"), [(6000, 0.0, 0), (6000, 0.01, 61), (6000, 0.05, 316), (6000, 0.1, 667), (6000, 0.2, 1500)]
)
def test_labelled_count(normals, ratio, count):
    assert labelled_count(normals, ratio) == count
    assert count / (count + normals) == pytest.approx(ratio, abs=1e-4)


def test_table_split_60_to_40():
    rows = OddsTable("cardio", 0.05).rows(ROWS, 0)
    assert [len(part) for part in rows] == [60, 3, 40, 8]
    assert set(ROWS.classes[np.concatenate([rows.normals, rows.test_normals])]) == {0}
    assert set(ROWS.classes[np.concatenate([rows.anomalies, rows.test_anomalies])]) == {1}


def test_larger_ratio_adds_anomalies():
    small, large, every = (OddsTable("cardio", ratio).rows(ROWS, 0).anomalies for ratio in (0.05, 0.1, 0.5))
    assert set(small) < set(large) < set(every)
    assert len(every) == 12  # 60 % of 20, where half would be 60


def test_ratio_keeps_test_rows():
    one, other = (OddsTable("cardio", ratio).rows(ROWS, 0) for ratio in (0.0, 0.2))
    assert same(one._replace(anomalies=other.anomalies), other)


def test_small_grid():
    cases = {run.case for run in plan_runs("mnist", "esad", RunSelection(seeds=1))}
    assert cases == {
        *(OneClass(number) for number in range(10)),
        *(OneClass(number, (number + 1) % 10, ratio) for number in range(10) for ratio in (0.01, 0.2)),
    }


def test_full_grid():
    cases = {run.case for run in plan_runs("fashion-mnist", "esad", RunSelection("full", seeds=1))}
    pairs = {(a, b) for a in range(10) for b in range(10) if a != b}
    assert {(case.normal, case.anomaly) for case in cases if case.ratio == 0.05} == pairs
    assert {case for case in cases if case.ratio == 0.0} == {OneClass(number) for number in range(10)}
    assert len(cases) == 10 + 4 * 90


def test_protocol_of_each_model():
    assert [run.case for run in plan_runs("mnist", "ganomaly", RunSelection(seeds=1))] == [
        LeaveOneOut(number) for number in range(10)
    ]
    assert [run.case for run in plan_runs("mnist", "ama", RunSelection(seeds=1))] == [OneClass(number) for number in range(10)]


def test_ratios_of_tables():
    assert {run.case.ratio for run in plan_runs("odds", "esad", RunSelection())} == set(RATIOS)
    assert {run.case.ratio for run in plan_runs("odds", "ama", RunSelection())} == {0.0}


def test_runs_are_ordered_by_seed():
    assert [run.seed for run in plan_runs("mnist", "ama", RunSelection(classes=(1, 2)))] == [0, 0, 1, 1]
    assert {run.seed for run in plan_runs("odds", "ama", RunSelection())} == {0, 1, 2, 3, 4}


def test_duplicate_classes_run_once():
    assert plan_runs("mnist", "ama", RunSelection(seeds=1, classes=(4, 4))) == (BenchmarkRun("mnist", "ama", OneClass(4), 0),)


def test_parses_selection():
    read = parse_selection("full", 3, classes="0, 3", ratios="0,0.2", sets=None)
    assert read == RunSelection("full", 3, classes=(0, 3), ratios=(0.0, 0.2))
    assert parse_selection("small", None, classes=None, ratios=None, sets="satellite,cardio").tables == ("satellite", "cardio")


@pytest.mark.parametrize("options", [{"classes": "0,three"}, {"classes": ""}, {"ratios": "0;1"}])
def test_rejects_values_that_are_no_numbers(options):
    (option,) = options
    with pytest.raises(ConfigError, match=f"--{option}"):
        parse_selection("small", None, **{"classes": None, "ratios": None, "sets": None, **options})


@pytest.mark.parametrize(
    ("dataset", "model", "selection", "named"),
    [
        ("cifar", "esad", RunSelection(), "cifar"),
        ("mnist", "resnet", RunSelection(), "--model"),
        ("mnist", "esad", RunSelection("large"), "--grid"),
        ("mnist", "esad", RunSelection(seeds=0), "--seeds"),
        ("mnist", "esad", RunSelection(classes=(10,)), "--classes"),
        ("mnist", "esad", RunSelection(ratios=(1.0,)), "--ratios"),
        ("mnist", "esad", RunSelection(ratios=(float("nan"),)), "--ratios"),
        ("mnist", "ama", RunSelection(ratios=(0.1,)), "--ratios"),
        ("mnist", "esad", RunSelection(tables=("cardio",)), "--sets"),
        ("odds", "esad", RunSelection(classes=(1,)), "--classes"),
    ],
)
def test_rejects_selection_that_does_not_fit(dataset, model, selection, named):
    with pytest.raises(ConfigError, match=named):
        plan_runs(dataset, model, selection)
