import numpy as np
import pytest
import torch

from deploy.errors import ConfigError
from trainer.benchmark.protocols import (
    RATIOS,
    Choice,
    Known,
    LeaveOneOut,
    OneClass,
    PictureTrial,
    Rows,
    Run,
    Table,
    TableTrial,
    choice,
    labelled_count,
    runs,
)

PICTURES = Known(np.tile(np.arange(10), 120), np.arange(1200) >= 1000)
"""100 pictures of each class in the training file, 20 in the test file."""
ROWS = Known(np.repeat([0, 1], [100, 20]), np.zeros(120, np.bool_))
CASES = [
    (LeaveOneOut(3), PICTURES),
    (OneClass(3), PICTURES),
    (OneClass(3, 7, 0.2), PICTURES),
    (Table("cardio"), ROWS),
    (Table("cardio", 0.2), ROWS),
]


def same(one: Rows, other: Rows) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(("case", "known"), CASES, ids=str)
def test_no_row_is_both_learned_from_and_tested_on_and_none_is_taken_twice(case, known):
    taken = np.concatenate(case.rows(known, 0))
    assert len(set(taken.tolist())) == len(taken)


@pytest.mark.parametrize(("case", "known"), CASES, ids=str)
def test_a_seed_always_picks_the_same_rows(case, known):
    assert same(case.rows(known, 5), case.rows(known, 5))


@pytest.mark.parametrize("case", [LeaveOneOut(3), Table("cardio", 0.1)], ids=str)
def test_another_seed_cuts_elsewhere(case):
    known = ROWS if isinstance(case, Table) else PICTURES
    assert set(case.rows(known, 0).test_normals) != set(case.rows(known, 1).test_normals)


def test_leaving_one_class_out_pools_both_files_and_tests_on_a_fifth_of_the_normals_and_all_of_the_class():
    rows = LeaveOneOut(3).rows(PICTURES, 0)
    assert [len(part) for part in rows] == [864, 0, 216, 120]
    assert set(PICTURES.classes[rows.test_anomalies]) == {3}
    assert set(PICTURES.classes[np.concatenate([rows.normals, rows.test_normals])]) == set(range(10)) - {3}
    assert PICTURES.from_test_file[rows.normals].any()
    assert not PICTURES.from_test_file[rows.test_normals].all()


def test_one_class_learns_from_its_training_images_alone_and_is_tested_on_the_whole_test_file():
    rows = OneClass(3).rows(PICTURES, 0)
    assert [len(part) for part in rows] == [100, 0, 20, 180]
    assert set(PICTURES.classes[rows.normals]) == {3}
    assert not PICTURES.from_test_file[rows.normals].any()
    assert sorted(np.concatenate([rows.test_normals, rows.test_anomalies])) == list(range(1000, 1200))


def test_labelled_anomalies_are_training_images_of_their_one_class_and_change_nothing_else():
    rows, without = OneClass(3, 7, 0.2).rows(PICTURES, 0), OneClass(3).rows(PICTURES, 0)
    assert len(rows.anomalies) == 25  # of 125
    assert set(PICTURES.classes[rows.anomalies]) == {7}
    assert not PICTURES.from_test_file[rows.anomalies].any()
    assert same(rows._replace(anomalies=without.anomalies), without)


@pytest.mark.parametrize(
    ("normals", "ratio", "count"), [(6000, 0.0, 0), (6000, 0.01, 61), (6000, 0.05, 316), (6000, 0.1, 667), (6000, 0.2, 1500)]
)
def test_the_ratio_is_that_of_labelled_anomalies_to_all_that_is_learned_from(normals, ratio, count):
    assert labelled_count(normals, ratio) == count
    assert count / (count + normals) == pytest.approx(ratio, abs=1e-4)


def test_a_table_is_cut_at_60_per_cent_of_the_normals_and_of_the_outliers():
    rows = Table("cardio", 0.05).rows(ROWS, 0)
    assert [len(part) for part in rows] == [60, 3, 40, 8]
    assert set(ROWS.classes[np.concatenate([rows.normals, rows.test_normals])]) == {0}
    assert set(ROWS.classes[np.concatenate([rows.anomalies, rows.test_anomalies])]) == {1}


def test_a_larger_ratio_adds_anomalies_to_a_smaller_one_until_there_are_no_more():
    small, large, all_there_are = (Table("cardio", ratio).rows(ROWS, 0).anomalies for ratio in (0.05, 0.1, 0.5))
    assert set(small) < set(large) < set(all_there_are)
    assert len(all_there_are) == 12  # 60 % of 20, where half would be 60


def test_the_same_rows_are_tested_on_whatever_the_ratio():
    one, other = (Table("cardio", ratio).rows(ROWS, 0) for ratio in (0.0, 0.2))
    assert same(one._replace(anomalies=other.anomalies), other)


def test_the_small_grid_is_all_classes_with_one_anomaly_class_each():
    cases = {run.case for run in runs("mnist", "esad", Choice(seeds=1))}
    assert cases == {
        *(OneClass(number) for number in range(10)),
        *(OneClass(number, (number + 1) % 10, ratio) for number in range(10) for ratio in (0.01, 0.2)),
    }


def test_the_full_grid_is_all_90_pairs_and_trains_once_a_class_where_no_anomaly_is_labelled():
    cases = {run.case for run in runs("fashion-mnist", "esad", Choice("full", seeds=1))}
    pairs = {(a, b) for a in range(10) for b in range(10) if a != b}
    assert {(case.normal, case.anomaly) for case in cases if case.ratio == 0.05} == pairs
    assert {case for case in cases if case.ratio == 0.0} == {OneClass(number) for number in range(10)}
    assert len(cases) == 10 + 4 * 90


def test_ganomaly_leaves_one_class_out_and_ama_learns_one_class():
    assert [run.case for run in runs("mnist", "ganomaly", Choice(seeds=1))] == [LeaveOneOut(number) for number in range(10)]
    assert [run.case for run in runs("mnist", "ama", Choice(seeds=1))] == [OneClass(number) for number in range(10)]


def test_tables_are_run_at_every_ratio_for_the_model_that_uses_labels_alone():
    assert {run.case.ratio for run in runs("odds", "esad", Choice())} == set(RATIOS)
    assert {run.case.ratio for run in runs("odds", "ama", Choice())} == {0.0}


def test_a_seed_is_complete_before_the_next_one_begins():
    assert [run.seed for run in runs("mnist", "ama", Choice(classes=(1, 2)))] == [0, 0, 1, 1]
    assert {run.seed for run in runs("odds", "ama", Choice())} == {0, 1, 2, 3, 4}


def test_what_is_named_twice_is_run_once():
    assert runs("mnist", "ama", Choice(seeds=1, classes=(4, 4))) == (Run("mnist", "ama", OneClass(4), 0),)


def test_a_choice_is_read_from_words():
    read = choice("full", 3, classes="0, 3", ratios="0,0.2", sets=None)
    assert read == Choice("full", 3, classes=(0, 3), ratios=(0.0, 0.2))
    assert choice("small", None, classes=None, ratios=None, sets="satellite,cardio").tables == ("satellite", "cardio")


@pytest.mark.parametrize("words", [{"classes": "0,three"}, {"classes": ""}, {"ratios": "0;1"}])
def test_words_that_are_no_numbers_are_refused_by_name(words):
    (option,) = words
    with pytest.raises(ConfigError, match=f"--{option}"):
        choice("small", None, **{"classes": None, "ratios": None, "sets": None, **words})


@pytest.mark.parametrize(
    ("dataset", "model", "chosen", "named"),
    [
        ("cifar", "esad", Choice(), "cifar"),
        ("mnist", "resnet", Choice(), "--model"),
        ("mnist", "esad", Choice("large"), "--grid"),
        ("mnist", "esad", Choice(seeds=0), "--seeds"),
        ("mnist", "esad", Choice(classes=(10,)), "--classes"),
        ("mnist", "esad", Choice(ratios=(1.0,)), "--ratios"),
        ("mnist", "esad", Choice(ratios=(float("nan"),)), "--ratios"),
        ("mnist", "ama", Choice(ratios=(0.1,)), "--ratios"),
        ("mnist", "esad", Choice(tables=("cardio",)), "--sets"),
        ("odds", "esad", Choice(classes=(1,)), "--classes"),
    ],
)
def test_a_choice_that_does_not_fit_is_refused_by_the_name_of_its_option(dataset, model, chosen, named):
    with pytest.raises(ConfigError, match=named):
        runs(dataset, model, chosen)


def test_pictures_are_framed_in_black_and_scaled_to_one_on_either_side_of_zero():
    images = np.zeros((2, 28, 28), np.uint8)
    images[1] = 255
    trial = PictureTrial(images, Rows(np.array([0]), np.array([1]), np.array([0]), np.array([1])))
    assert trial.train.samples.shape == (2, 1, 32, 32)
    assert trial.train.samples.dtype == torch.float32
    assert torch.equal(trial.train.samples[0], torch.full((1, 32, 32), -1.0))
    assert torch.equal(trial.train.samples[1, 0, 2:-2, 2:-2], torch.ones(28, 28))
    assert trial.train.samples[1].sum() == 28 * 28 - (32 * 32 - 28 * 28)


def test_normal_and_anomalous_samples_of_a_part_can_be_told_apart():
    images = np.arange(3, dtype=np.uint8).repeat(28 * 28).reshape(3, 28, 28)
    trial = PictureTrial(images, Rows(np.array([0, 2]), np.array([1]), np.array([0]), np.array([1])))
    assert trial.train.anomalous.tolist() == [False, False, True]
    assert len(trial.train.normals) == 2
    assert trial.train.anomalies[0, 0, 5, 5] == pytest.approx(1 / 127.5 - 1)
    assert trial.test.anomalous.tolist() == [False, True]


SCALES = pytest.mark.parametrize("scale", ["range", "deviation"])


def table_trial(values: np.ndarray, ratio: float = 0.2, scale: str = "range") -> TableTrial:
    return TableTrial(values, Table("cardio", ratio).rows(ROWS, 0), scale)


def test_the_normals_learned_from_fill_the_range_of_every_column_that_varies():
    values = np.random.default_rng(0).normal(50, [1.0, 1e3, 1e-3], (120, 3))
    normals = table_trial(values).train.normals
    assert torch.allclose(normals.amin(0), -torch.ones(3), atol=1e-5)
    assert torch.allclose(normals.amax(0), torch.ones(3), atol=1e-5)


def test_or_have_mean_0_and_deviation_1():
    values = np.random.default_rng(0).normal(50, [1.0, 1e3, 1e-3], (120, 3))
    normals = table_trial(values, scale="deviation").train.normals
    assert torch.allclose(normals.mean(0), torch.zeros(3), atol=1e-5)
    assert torch.allclose(normals.std(0, correction=0), torch.ones(3), atol=1e-5)


def test_values_many_deviations_away_are_no_farther_than_ten():
    values = np.random.default_rng(0).normal(size=(120, 3))
    values[100:] *= 1e6
    assert table_trial(values, scale="deviation").test.samples.abs().amax() == 10.0


@SCALES
def test_a_column_that_never_varies_is_moved_to_zero(scale):
    assert not table_trial(np.full((120, 1), 0.1), scale=scale).train.samples.any()


@SCALES
def test_neither_the_test_part_nor_any_outlier_has_a_say_in_how_tables_are_scaled(scale):
    values = np.random.default_rng(0).normal(size=(120, 3))
    rows = table_trial(values).rows
    spoiled = np.full_like(values, 1e9)
    spoiled[rows.normals] = values[rows.normals]
    assert torch.equal(table_trial(spoiled, scale=scale).train.normals, table_trial(values, scale=scale).train.normals)
    assert torch.equal(table_trial(values, 0.0, scale).test.samples, table_trial(values, 0.2, scale).test.samples)
