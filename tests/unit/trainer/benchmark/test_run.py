import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat
from torch import Tensor, nn

import trainer.benchmark.run
from deploy.errors import ConfigError
from trainer.benchmark.protocols import DATASETS, Choice, OneClass, Part, Run, Table, TableTrial, runs
from trainer.benchmark.report import own_figure, report, run_line, summary, table
from trainer.benchmark.results import Finished, RunFile, processes_for
from trainer.benchmark.run import (
    BENCHMARK_SETTINGS,
    BenchmarkSettings,
    Job,
    benchmark,
    execute,
    measure,
    score,
    train,
    unlikeliness,
)
from trainer.errors import BadDataset, BadRunFile, TrainingDiverged
from trainer.models.registry import RECIPES, recipe
from trainer.training.interfaces import Detector, Recipe, Settings

SETTINGS = BenchmarkSettings(epochs=40, batch=32)


class PlainConfig(Settings):
    width: int = 1


class Plain(Detector):
    """A linear auto-encoder: knows the line that its samples lie on."""

    def __init__(self, config: PlainConfig, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(shape[0], config.width, bias=False), nn.Linear(config.width, shape[0], bias=False)

    def forward(self, samples: Tensor) -> Tensor:
        return (self.up(self.down(samples)) - samples).square().mean(dim=1)

    def scores(self, samples: Tensor) -> dict[str, Tensor]:
        return {"reconstruction": self(samples), "size": samples.square().mean(dim=1)}


class PlainLearner:
    def __init__(self, detector: Plain, _: PlainConfig) -> None:
        self.modules = {"detector": detector}
        self.optimisers = {"adam": torch.optim.Adam(detector.parameters(), lr=0.02)}

    def rate_factor(self, share):
        return 1.0

    def learn(self, batch, share, context):
        detector = self.modules["detector"]
        loss = (batch.labels * detector(batch.samples)).mean()
        context.update("detector", self.optimisers["adam"], {"loss": loss}, detector.parameters())
        return {"loss": loss.detach()}


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Recipe("plain", PlainConfig.model_validate, Plain, PlainLearner)
    monkeypatch.setattr(trainer.benchmark.run, "recipe", lambda _: made)


@pytest.fixture
def in_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def one_by_one(work, jobs, _, take):
        for job in jobs:
            try:
                take(job, work(job))
            except TrainingDiverged as error:
                take(job, error)

    monkeypatch.setattr(trainer.benchmark.run, "side_by_side", one_by_one)


def line_and_outliers(seed: int = 0) -> np.ndarray:
    """100 rows near a line through the origin, then 20 beside it that are no farther out."""
    rng = np.random.default_rng(seed)
    on = rng.uniform(-1, 1, (100, 1)) * np.array([1.0, -1.0, 0.5, 1.0]) + rng.normal(0, 0.02, (100, 4))
    return np.concatenate([on, rng.uniform(-1, 1, (20, 4))])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate(("one", "two")):
        savemat(tmp_path / f"{name}.mat", {"X": line_and_outliers(number), "y": np.repeat([0, 1], [100, 20])[:, None]})
    return tmp_path


def grid(folder: Path, *tables: str, seeds: int = 2, settings: BenchmarkSettings = SETTINGS) -> list[Job]:
    return [Job(run, folder, settings) for run in runs("odds", "ama", Choice(tables=tables or ("one", "two"), seeds=seeds))]


class Notes:
    """A watcher that remembers."""

    def __init__(self) -> None:
        self.begun, self.done, self.wrong = [], [], []

    def begin(self, total, already):
        self.begun.append((total, already))

    def finished(self, run, finished):
        self.done.append(run)

    def failed(self, run, error):
        self.wrong.append((run, error))


def finished(auc: dict[str, float], **changes: object) -> Finished:
    counts = {"normals": 90, "anomalies": 10, "test_normals": 5, "test_anomalies": 5, "wall_s": 3.0, "cpu_s": 2.0}
    return Finished(**{"run": {"seed": 0}, "auc": auc, **counts, **changes})


# Training and test


class Sealed:
    """A trial whose test part must not be touched before training is over."""

    def __init__(self, samples: Tensor) -> None:
        self.train, self.open = Part(samples, np.zeros(len(samples), np.bool_)), False

    @property
    def test(self) -> Part:
        assert self.open, "the test part was touched before training was over"
        return Part(self.train.samples, np.arange(len(self.train.samples)) % 2 == 1)


def test_the_test_part_is_not_touched_before_training_is_over():
    trial = Sealed(torch.rand(6, 4))

    def learn(part: Part) -> Detector:
        assert part is trial.train
        trial.open = True
        return Plain(PlainConfig(), (4,))

    assert set(measure(trial, learn)) == {"reconstruction", "size"}
    assert trial.open


@pytest.mark.usefixtures("plain")
def test_what_is_learned_is_the_same_when_the_test_part_is_garbage(folder):
    job = grid(folder)[0]
    values, known = line_and_outliers(), trainer.benchmark.data.read_table(folder, "one").known
    rows = job.run.case.rows(known, 0)
    garbage = values.copy()
    garbage[np.concatenate([rows.test_normals, rows.test_anomalies])] = 1e6
    one, other = (train("plain", SETTINGS, 0, TableTrial(table, rows).train).state_dict() for table in (values, garbage))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.usefixtures("plain")
def test_a_run_trains_and_measures_every_score_of_the_test_part(folder):
    found = execute(grid(folder)[0])
    assert list(found.auc) == ["reconstruction", "size"]
    assert found.auc["reconstruction"] > 0.9
    assert (found.normals, found.anomalies, found.test_normals, found.test_anomalies) == (60, 0, 40, 8)
    assert found.run == grid(folder)[0].identity


@pytest.mark.usefixtures("plain")
def test_without_training_the_same_run_does_not_tell_them_apart(folder):
    untrained = execute(grid(folder, settings=replace(SETTINGS, epochs=0))[0])
    assert untrained.auc["reconstruction"] < 0.75


@pytest.mark.usefixtures("plain")
def test_a_run_gives_the_same_figures_again_and_another_seed_gives_others(folder):
    first, second, other = (execute(grid(folder, "one")[number]).auc for number in (0, 0, 1))
    assert first == second
    assert first != other


def test_scores_are_those_of_eval_mode_whatever_the_mode_before():
    detector = Plain(PlainConfig(), (4,))
    detector.down = nn.Sequential(nn.Dropout(0.5), detector.down)
    detector.train()
    samples = torch.rand(20, 4)
    assert np.array_equal(score(detector, samples)["reconstruction"], score(detector, samples)["reconstruction"])


class Distances(Plain):
    """Its distance of a sample is the sample's first value."""

    def scores(self, samples: Tensor) -> dict[str, Tensor]:
        return {"feature_distance": samples[:, 0]}


def test_the_two_sided_score_takes_too_small_a_distance_for_strange_as_well():
    trial = Sealed(torch.tensor([[5.0], [1.0], [5.1], [9.0]]).repeat(1, 4))  # strange ones: 1 and 9
    found = measure(trial, lambda _: setattr(trial, "open", True) or Distances(PlainConfig(), (4,)))
    assert found == {"feature_distance": 0.5, "feature_density": 1.0}


def test_the_two_sided_score_is_ordered_as_a_gaussian_density_fitted_to_normal_scores():
    usual, scores = np.array([1.0, 2.0, 4.0], np.float32), np.array([0.0, 2.0, 3.5, 9.0], np.float32)
    density = np.exp(-((scores - usual.mean()) ** 2) / (2 * usual.var()))
    assert np.array_equal(np.argsort(unlikeliness(scores, usual)), np.argsort(-density))


def test_a_score_that_is_no_number_is_an_error_with_its_name():
    trial = Sealed(torch.full((4, 4), torch.nan))
    with pytest.raises(TrainingDiverged, match="reconstruction score of 4 test samples"):
        measure(trial, lambda _: setattr(trial, "open", True) or Plain(PlainConfig(), (4,)))


def test_a_test_part_of_one_class_is_an_error():
    trial = Sealed(torch.rand(1, 4))
    with pytest.raises(BadDataset, match="one class"):
        measure(trial, lambda _: setattr(trial, "open", True) or Plain(PlainConfig(), (4,)))


# The grid, and going on


@pytest.mark.usefixtures("plain", "in_one_process")
def test_the_same_call_goes_on_where_it_stopped(folder, tmp_path):
    out, notes = tmp_path / "runs.jsonl", Notes()
    whole = benchmark(grid(folder), tmp_path / "whole.jsonl", 1, Notes())
    benchmark(grid(folder)[:1], out, 1, Notes())
    resumed = benchmark(grid(folder), out, 1, notes)
    assert notes.begun == [(4, 1)]
    assert notes.done == [job.run for job in grid(folder)[1:]]
    assert [one.auc for one in resumed.finished.values()] == [one.auc for one in whole.finished.values()]
    assert list(resumed.finished) == [job.run for job in grid(folder)]


@pytest.mark.usefixtures("plain", "in_one_process")
def test_runs_of_another_configuration_do_not_count_and_stay(folder, tmp_path):
    out, notes = tmp_path / "runs.jsonl", Notes()
    benchmark(grid(folder, "one", seeds=1), out, 1, notes)
    benchmark(grid(folder, "one", seeds=1, settings=replace(SETTINGS, network={"width": 2})), out, 1, notes)
    benchmark(grid(folder, "one", seeds=1, settings=replace(SETTINGS, epochs=41)), out, 1, notes)
    assert notes.begun == [(1, 0)] * 3
    assert len(out.read_text().splitlines()) == 3


@pytest.mark.usefixtures("plain", "in_one_process")
def test_a_run_that_diverges_is_told_and_the_others_go_on(folder, tmp_path, monkeypatch):
    def sometimes(model: str, settings: BenchmarkSettings, seed: int, part: Part) -> Detector:
        if seed == 1:
            raise TrainingDiverged("step 3: the loss is nan")
        return train(model, settings, seed, part)

    monkeypatch.setattr(trainer.benchmark.run, "train", sometimes)
    jobs, notes = grid(folder, "one", seeds=3), Notes()
    outcome = benchmark(jobs, tmp_path / "runs.jsonl", 1, notes)
    assert [run for run, _ in notes.wrong] == list(outcome.failed) == [jobs[1].run]
    assert list(outcome.finished) == notes.done == [jobs[0].run, jobs[2].run]
    assert len((tmp_path / "runs.jsonl").read_text().splitlines()) == 2
    assert report(outcome)["failed"] == [{"run": str(jobs[1].run), "error": "step 3: the loss is nan"}]


@pytest.mark.usefixtures("plain", "in_one_process")
def test_data_that_are_missing_are_told_before_anything_is_trained(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer.benchmark.run, "train", pytest.fail)
    with pytest.raises(BadDataset, match=r"three\.mat"):
        benchmark(grid(folder, "one", "three"), tmp_path / "runs.jsonl", 1, Notes())


def test_an_identity_survives_being_written_and_holds_the_whole_configuration(folder):
    identity = Job(Run("mnist", "ganomaly", OneClass(3, 4, 0.2), 1), folder, SETTINGS).identity
    assert json.loads(json.dumps(identity)) == identity
    assert identity["case"] == {"normal": 3, "anomaly": 4, "ratio": 0.2}
    assert identity["settings"]["epochs"] == 40
    assert identity["settings"]["network"] == recipe("ganomaly").configure({}).model_dump(mode="json")


def test_every_model_has_settings_for_every_data_set():
    assert set(BENCHMARK_SETTINGS) == {(model, dataset) for model in RECIPES for dataset in DATASETS}


@pytest.mark.parametrize(("model", "dataset"), BENCHMARK_SETTINGS)
def test_the_settings_are_ones_that_the_model_knows(model, dataset):
    settings = BENCHMARK_SETTINGS[model, dataset]
    recipe(model).configure(settings.network)
    assert settings.steps_for(6000, 0) > 0


def test_a_batch_leaves_room_for_labelled_anomalies_where_there_are_any():
    settings = BenchmarkSettings(batch=100, epochs=2, anomaly_share=0.4)
    assert (settings.normals_a_batch(0), settings.normals_a_batch(9)) == (100, 60)
    assert (settings.steps_for(600, 0), settings.steps_for(600, 9)) == (12, 20)
    assert replace(settings, steps=5).steps_for(600, 9) == 5


def test_a_model_that_does_not_exist_is_refused_by_name():
    with pytest.raises(ConfigError, match="--model must be one of ganomaly, ama, esad, got 'resnet'"):
        recipe("resnet")


# The file of finished runs


def test_a_line_cut_short_by_a_kill_is_passed_over_and_not_built_upon(tmp_path):
    path, runs_ = tmp_path / "runs.jsonl", [finished({"a": number / 4}) for number in range(3)]
    with RunFile(path) as file:
        file.add(runs_[0])
        file.add(runs_[1])
    path.write_bytes(path.read_bytes()[:-20])
    with RunFile(path) as file:
        assert file.read() == runs_[:1]
        file.add(runs_[2])
    with RunFile(path) as file:
        assert file.read() == [runs_[0], runs_[2]]


def test_a_finished_run_is_in_the_file_at_once(tmp_path):
    with RunFile(tmp_path / "runs.jsonl") as file:
        file.add(finished({"a": 0.5}))
        assert (tmp_path / "runs.jsonl").read_text().endswith("}\n")


@pytest.mark.parametrize(
    "content", ["notes\nof mine", '{"other": 1}\n', "[1]\n", "[" * 10**5 + "\n", '{"run": {}, "auc": {}}\n', b"\xff\xfe\n"]
)
def test_a_file_of_something_else_is_refused_and_left_as_it_is(tmp_path, content):
    path = tmp_path / "mine.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    before = path.read_bytes()
    with RunFile(path) as file, pytest.raises(BadRunFile, match=r"mine\.txt.*--out"):
        file.read()
    assert path.read_bytes() == before


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(BadRunFile, match="--out must be a file"):
        RunFile(tmp_path)
    with pytest.raises(BadRunFile, match="--out must be a file"):
        RunFile(tmp_path / "none" / "runs.jsonl")


def test_as_many_processes_as_cores_unless_told_otherwise():
    assert processes_for(None) == len(os.sched_getaffinity(0))
    assert processes_for(3) == 3
    with pytest.raises(ConfigError, match="--jobs must be 1 or more, got 0"):
        processes_for(0)


# The report


def two_seeds_of_ten_classes() -> dict[Run, Finished]:
    return {
        Run("mnist", "esad", OneClass(number), seed): finished({"score": auc, "reconstruction": 0.5}, anomalies=0)
        for seed, aucs in enumerate(([0.8, 0.9] * 5, [0.9, 1.0] * 5))
        for number, auc in enumerate(aucs)
    }


def test_figures_are_mean_and_deviation_over_seeds_of_the_mean_over_classes():
    own, other = summary(two_seeds_of_ten_classes())
    assert own.auc == pytest.approx(0.9)
    assert own.auc_std == pytest.approx(0.1 / 2**0.5)  # of 0.85 and 0.95
    assert (own.seeds, own.runs, own.wall_s, own.cpu_s) == (2, 20, 60.0, 40.0)
    assert (other.score, other.auc, other.auc_std) == ("reconstruction", 0.5, 0.0)


def test_the_published_figure_is_compared_with_the_models_own_score_alone():
    own, other = summary(two_seeds_of_ten_classes())
    assert own.published == own_figure("mnist", "esad", "")
    assert own.difference == pytest.approx(0.9 - 0.996)
    assert own.others is not None
    assert own.others.from_memory
    assert (other.published, other.difference, other.others) == (None, None, None)


def test_tables_without_labelled_anomalies_stand_beside_what_pyod_measured():
    found = {Run("odds", "ama", Table("cardio"), 0): finished({"a": 0.7}, anomalies=0)}
    (row,) = summary(found)
    assert row.published is None
    assert row.others is not None
    assert (row.others.method, row.others.auc, row.others.from_memory) == ("isolation forest", 0.924, False)


def test_a_mean_over_some_classes_is_compared_with_no_mean_over_all():
    some = {run: one for run, one in two_seeds_of_ten_classes().items() if run.case != OneClass(9)}
    assert [(row.published, row.difference, row.others) for row in summary(some)] == [(None, None, None)] * 2


def test_one_seed_has_no_deviation():
    (row,) = summary({Run("odds", "ama", Table("one"), 0): finished({"a": 0.7})})
    assert row.auc_std is None
    assert row.seeds == 1


def test_the_ratio_reached_is_reported_beside_the_ratio_asked_for():
    found = {Run("odds", "esad", Table("cardio", 0.2), 0): finished({"a": 0.7}, normals=90, anomalies=10)}
    assert [(row.ratio, row.ratio_reached) for row in summary(found)] == [(0.2, 0.1)]


def test_the_table_marks_figures_from_memory_and_leaves_out_columns_without_any(capsys):
    from rich.console import Console

    Console(width=160).print(table(two_seeds_of_ten_classes(), "title"))
    compared = capsys.readouterr().out
    Console(width=160).print(table({Run("odds", "ama", Table("one"), 0): finished({"a": 0.7})}, "title"))
    alone = capsys.readouterr().out
    assert "90.0 ± 7.1" in compared
    assert "92.8* Deep SAD" in compared
    assert "* from memory" in compared
    assert "-9.6" in compared
    assert "published " not in alone
    assert "others" not in alone


def test_a_finished_run_is_one_line():
    line = run_line(Run("mnist", "esad", OneClass(3, 4, 0.2), 1), finished({"score": 0.91234, "reconstruction": 0.5}))
    assert line == "mnist esad normal 3, anomaly 4, ratio 0.2, seed 1: AUC score 0.9123, reconstruction 0.5000 (3 s)"


# The command


@pytest.mark.parametrize(
    ("more", "named"), [(["--jobs", "0"], "--jobs"), (["--ratios", "0.1"], "--ratios"), (["--classes", "1"], "--classes")]
)
def test_options_that_do_not_fit_are_refused_by_name(folder, more, named):
    from typer.testing import CliRunner

    from trainer.cli import app

    result = CliRunner().invoke(app, ["benchmark", "odds", "--model", "ganomaly", "--data", str(folder), *more])
    assert isinstance(result.exception, ConfigError)
    assert named in str(result.exception)
