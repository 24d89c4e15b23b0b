import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat
from torch import Tensor, nn

import trainer.benchmark.run
from deploy.errors import ConfigError
from trainer.benchmark.data import SampleSet, read_table, table_split
from trainer.benchmark.protocols import DATASETS, BenchmarkRun, OneClass, RunSelection, plan_runs
from trainer.benchmark.report import benchmark_json
from trainer.benchmark.run import (
    BENCHMARK_SETTINGS,
    BenchmarkSettings,
    Job,
    benchmark,
    execute,
    measure,
    score,
    train,
    two_sided,
)
from trainer.errors import BadDataset, TrainingDiverged
from trainer.models.registry import RECIPES, recipe
from trainer.training.interfaces import Detector, Recipe, Settings

SETTINGS = BenchmarkSettings(epochs=40, batch=32)


class PlainConfig(Settings):
    width: int = 1


class Plain(Detector):
    """A linear auto-encoder, which learns the line that its samples lie on."""

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
def single_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def one_by_one(work, jobs, _, on_result):
        for job in jobs:
            try:
                on_result(job, work(job))
            except TrainingDiverged as error:
                on_result(job, error)

    monkeypatch.setattr(trainer.benchmark.run, "run_in_processes", one_by_one)


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
    selection = RunSelection(tables=tables or ("one", "two"), seeds=seeds)
    return [Job(run, folder, settings) for run in plan_runs("odds", "ama", selection)]


class Recorder:
    """An observer that records its calls."""

    def __init__(self) -> None:
        self.started, self.finished, self.failed = [], [], []

    def on_start(self, total, finished):
        self.started.append((total, finished))

    def on_result(self, run, result):
        (self.failed if isinstance(result, TrainingDiverged) else self.finished).append(run)


# Training and test


class GuardedSplit:
    """A split whose test set must not be accessed before training is over."""

    def __init__(self, samples: Tensor) -> None:
        self.samples, self.train, self.trained = samples, SampleSet(samples, samples[:0]), False

    @property
    def test(self) -> SampleSet:
        assert self.trained, "the test set was accessed before training was over"
        return SampleSet(self.samples[::2], self.samples[1::2])


def measure_samples(samples: Tensor, kind: type[Detector]) -> dict[str, float]:
    split = GuardedSplit(samples)

    def train_detector(data: SampleSet) -> Detector:
        assert data is split.train
        split.trained = True
        return kind(PlainConfig(), (4,))

    return measure(split, train_detector)


def test_test_set_is_accessed_after_training():
    assert set(measure_samples(torch.rand(6, 4), Plain)) == {"reconstruction", "size"}


@pytest.mark.usefixtures("plain")
def test_test_set_does_not_affect_training(folder):
    job = grid(folder)[0]
    values = line_and_outliers()
    rows = job.run.case.rows(read_table(folder, "one").labels, 0)
    garbage = values.copy()
    garbage[np.concatenate([rows.test_normals, rows.test_anomalies])] = 1e6
    one, other = (train("plain", SETTINGS, 0, table_split(table, rows).train).state_dict() for table in (values, garbage))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.usefixtures("plain")
def test_run_measures_every_score(folder):
    found = execute(grid(folder)[0])
    assert list(found.auc) == ["reconstruction", "size"]
    assert found.auc["reconstruction"] > 0.9
    assert (found.normals, found.anomalies, found.test_normals, found.test_anomalies) == (60, 0, 40, 8)
    assert found.run == grid(folder)[0].identity


@pytest.mark.usefixtures("plain")
def test_untrained_model_is_worse(folder):
    untrained = execute(grid(folder, settings=replace(SETTINGS, epochs=0))[0])
    assert untrained.auc["reconstruction"] < 0.75


@pytest.mark.usefixtures("plain")
def test_seed_determines_result(folder):
    first, second, other = (execute(grid(folder, "one")[number]).auc for number in (0, 0, 1))
    assert first == second
    assert first != other


def test_scores_in_eval_mode():
    detector = Plain(PlainConfig(), (4,))
    detector.down = nn.Sequential(nn.Dropout(0.5), detector.down)
    detector.train()
    samples = torch.rand(20, 4)
    assert np.array_equal(score(detector, samples)["reconstruction"], score(detector, samples)["reconstruction"])


class Distances(Plain):
    """The distance of a sample is its first value."""

    def scores(self, samples: Tensor) -> dict[str, Tensor]:
        return {"feature_distance": samples[:, 0]}


def test_two_sided_score_of_small_distance():
    samples = torch.tensor([[5.0], [1.0], [5.1], [9.0]]).repeat(1, 4)  # anomalies: 1 and 9
    assert measure_samples(samples, Distances) == {"feature_distance": 0.5, "feature_density": 1.0}


def test_two_sided_score_ranks_like_gaussian():
    usual, scores = np.array([1.0, 2.0, 4.0], np.float32), np.array([0.0, 2.0, 3.5, 9.0], np.float32)
    density = np.exp(-((scores - usual.mean()) ** 2) / (2 * usual.var()))
    assert np.array_equal(np.argsort(two_sided(scores, usual)), np.argsort(-density))


def test_rejects_nan_scores():
    with pytest.raises(TrainingDiverged, match="reconstruction score of 4 test samples"):
        measure_samples(torch.full((4, 4), torch.nan), Plain)


def test_rejects_test_set_of_one_class():
    with pytest.raises(BadDataset, match="only one class"):
        measure_samples(torch.rand(1, 4), Plain)


# All runs of a benchmark


@pytest.mark.usefixtures("plain", "single_process")
def test_resumes(folder, tmp_path):
    out, recorder = tmp_path / "runs.jsonl", Recorder()
    whole = benchmark(grid(folder), tmp_path / "whole.jsonl", 1, Recorder())
    benchmark(grid(folder)[:1], out, 1, Recorder())
    resumed = benchmark(grid(folder), out, 1, recorder)
    assert recorder.started == [(4, 1)]
    assert recorder.finished == [job.run for job in grid(folder)[1:]]
    assert [one.auc for one in resumed.finished.values()] == [one.auc for one in whole.finished.values()]
    assert list(resumed.finished) == [job.run for job in grid(folder)]


@pytest.mark.usefixtures("plain", "single_process")
def test_other_settings_are_run_anew(folder, tmp_path):
    out, recorder = tmp_path / "runs.jsonl", Recorder()
    benchmark(grid(folder, "one", seeds=1), out, 1, recorder)
    benchmark(grid(folder, "one", seeds=1, settings=replace(SETTINGS, network={"width": 2})), out, 1, recorder)
    benchmark(grid(folder, "one", seeds=1, settings=replace(SETTINGS, epochs=41)), out, 1, recorder)
    assert recorder.started == [(1, 0)] * 3
    assert len(out.read_text().splitlines()) == 3


@pytest.mark.usefixtures("plain", "single_process")
def test_diverged_run_does_not_stop_others(folder, tmp_path, monkeypatch):
    def sometimes(model: str, settings: BenchmarkSettings, seed: int, part: SampleSet) -> Detector:
        if seed == 1:
            raise TrainingDiverged("step 3: the loss is nan")
        return train(model, settings, seed, part)

    monkeypatch.setattr(trainer.benchmark.run, "train", sometimes)
    jobs, recorder = grid(folder, "one", seeds=3), Recorder()
    outcome = benchmark(jobs, tmp_path / "runs.jsonl", 1, recorder)
    assert recorder.failed == list(outcome.failed) == [jobs[1].run]
    assert list(outcome.finished) == recorder.finished == [jobs[0].run, jobs[2].run]
    assert len((tmp_path / "runs.jsonl").read_text().splitlines()) == 2
    assert benchmark_json(outcome)["failed"] == [{"run": str(jobs[1].run), "error": "step 3: the loss is nan"}]


@pytest.mark.usefixtures("plain", "single_process")
def test_missing_data_fail_before_training(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer.benchmark.run, "train", pytest.fail)
    with pytest.raises(BadDataset, match=r"three\.mat"):
        benchmark(grid(folder, "one", "three"), tmp_path / "runs.jsonl", 1, Recorder())


def test_identity_has_whole_configuration(folder):
    identity = Job(BenchmarkRun("mnist", "ganomaly", OneClass(3, 4, 0.2), 1), folder, SETTINGS).identity
    assert json.loads(json.dumps(identity)) == identity
    assert identity["case"] == {"normal": 3, "anomaly": 4, "ratio": 0.2}
    assert identity["settings"]["epochs"] == 40
    assert identity["settings"]["network"] == recipe("ganomaly").configure({}).model_dump(mode="json")


def test_settings_for_all_models_and_data_sets():
    assert set(BENCHMARK_SETTINGS) == {(model, dataset) for model in RECIPES for dataset in DATASETS}


@pytest.mark.parametrize(("model", "dataset"), BENCHMARK_SETTINGS)
def test_settings_are_valid(model, dataset):
    settings = BENCHMARK_SETTINGS[model, dataset]
    recipe(model).configure(settings.network)
    assert settings.steps_for(6000, 0) > 0


def test_batch_leaves_room_for_anomalies():
    settings = BenchmarkSettings(batch=100, epochs=2, anomaly_share=0.4)
    assert (settings.normals_per_batch(0), settings.normals_per_batch(9)) == (100, 60)
    assert (settings.steps_for(600, 0), settings.steps_for(600, 9)) == (12, 20)
    assert replace(settings, steps=5).steps_for(600, 9) == 5


def test_rejects_unknown_model():
    with pytest.raises(ConfigError, match="--model must be one of ganomaly, ama, esad, got 'resnet'"):
        recipe("resnet")


# The command


@pytest.mark.parametrize(
    ("more", "named"), [(["--jobs", "0"], "--jobs"), (["--ratios", "0.1"], "--ratios"), (["--classes", "1"], "--classes")]
)
def test_command_rejects_options_that_do_not_fit(folder, more, named):
    from typer.testing import CliRunner

    from trainer.cli import app

    result = CliRunner().invoke(app, ["benchmark", "odds", "--model", "ganomaly", "--data", str(folder), *more])
    assert isinstance(result.exception, ConfigError)
    assert named in str(result.exception)
