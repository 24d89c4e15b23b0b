"""Runs a benchmark: trains each model on one part of the data and measures it on the other.

Settings and length of training are fixed in advance, whatever the test results, and the test set is made after training.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deploy.errors import OddsightError
from trainer.benchmark.data import (
    Augmentation,
    Dataset,
    DataSplit,
    MixedSamples,
    SampleSet,
    Scale,
    image_split,
    read_images,
    read_table,
    table_split,
)
from trainer.benchmark.protocols import IMAGE_DATASETS, BenchmarkRun
from trainer.benchmark.results import ResultsFile, RunResult, run_in_processes
from trainer.errors import BadDataset, TrainingDiverged
from trainer.evaluation.metrics import auc
from trainer.models.registry import recipe
from trainer.training.distributed import DistributedContext
from trainer.training.interfaces import Detector
from trainer.training.loop import Callback, LoopSettings, TrainingData, run_loop


@dataclass(frozen=True, slots=True)
class BenchmarkSettings:
    """Settings of the runs of one model on one data set. They belong to the identity of a run."""

    batch: int
    epochs: float = 0.0
    """Passes over the normal training samples; ignored if ``steps`` is set."""
    steps: int = 0
    network: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the model other than its defaults."""
    anomaly_share: float = 0.0
    """Of labelled anomalies in a batch, if there are any."""
    augmentation: Augmentation | None = None
    """Of images."""
    scale: Scale = "range"
    """Of tables."""

    def normals_per_batch(self, anomalies: int) -> int:
        """Normal samples in a batch, with so many labelled anomalies in the training set."""
        return round(self.batch * (1.0 - self.anomaly_share)) if anomalies else self.batch

    def steps_for(self, normals: int, anomalies: int) -> int:
        """Steps of a run with so many training samples."""
        return self.steps or max(1, round(self.epochs * max(1, normals // self.normals_per_batch(anomalies))))


# The authors' code: 15 epochs (12,660 steps), batches of 64, 64 channels. A quarter of the width and a twentieth of the steps run
# on two cores. On parts of the training images, with other classes as anomalies, more steps were no better at this width.
_GANOMALY_IMAGES = BenchmarkSettings(batch=64, steps=660, network={"width": 16})
# The authors' code: 100 epochs, batches of 256, five steps of the critic for one of the autoencoder, widths of 64, 256 and 128:
# hours per class on a CPU. These take a minute, and were chosen on the training images of one digit.
_AMA_SMALL = {"learning_rate": 3e-3, "latent_weight": 0.1, "critic_steps": 1}
_AMA_IMAGES = BenchmarkSettings(
    batch=16, steps=500, network={**_AMA_SMALL, "encoder_width": 16, "generator_width": 16, "critic_width": 8}
)
BENCHMARK_SETTINGS: Mapping[tuple[str, str], BenchmarkSettings] = {
    ("ganomaly", "mnist"): _GANOMALY_IMAGES,
    ("ganomaly", "fashion-mnist"): _GANOMALY_IMAGES,
    ("ganomaly", "odds"): BenchmarkSettings(batch=64, steps=1500),
    ("ama", "mnist"): _AMA_IMAGES,
    ("ama", "fashion-mnist"): _AMA_IMAGES,
    ("ama", "odds"): BenchmarkSettings(batch=128, steps=300, network={**_AMA_SMALL, "latent": 8, "atypical_share": 0.0}),
    # The paper's settings are not known. Images of fashion differ in parts, digits in their strokes.
    ("esad", "mnist"): BenchmarkSettings(
        128, epochs=6, network={"score": "relative"}, anomaly_share=0.4, augmentation=Augmentation(0.7, "turned")
    ),
    ("esad", "fashion-mnist"): BenchmarkSettings(
        128, epochs=6, network={"score": "relative", "latent": 32}, anomaly_share=0.4, augmentation=Augmentation(0.3, "mixed")
    ),
    ("esad", "odds"): BenchmarkSettings(
        128, steps=800, network={"entropy_weight": 0.3, "latent": 8}, anomaly_share=0.25, scale="deviation"
    ),
}
"""By model and data set."""

DISTANCE, DENSITY = "feature_distance", "feature_density"
_SCORE_BATCH = 512


@dataclass(frozen=True, slots=True)
class Job:
    """A run with its settings and the folder of its data."""

    run: BenchmarkRun
    folder: Path
    settings: BenchmarkSettings

    @property
    def identity(self) -> dict[str, Any]:
        """What identifies the run among results, as it is read back from JSON."""
        config = recipe(self.run.model).configure(self.settings.network)
        settings = {**asdict(self.settings), "network": config.model_dump(mode="json")}
        return dict(json.loads(json.dumps({**asdict(self.run), "settings": settings})))


@dataclass(frozen=True, slots=True)
class BenchmarkResult:
    """Results, in the order of the grid and with those of earlier calls, and errors of a benchmark."""

    finished: Mapping[BenchmarkRun, RunResult]
    failed: Mapping[BenchmarkRun, OddsightError]


class BenchmarkObserver(Protocol):
    """Receives the progress of a benchmark."""

    def on_start(self, total: int, finished: int) -> None:
        """``finished`` of ``total`` runs have results of an earlier call."""

    def on_result(self, run: BenchmarkRun, result: RunResult | OddsightError) -> None:
        """A run has finished, and its result is on disk; or it has failed."""


def benchmark(jobs: Sequence[Job], out: Path, processes: int, observer: BenchmarkObserver) -> BenchmarkResult:
    """Do the runs that have no result in the file ``out`` yet, and append their results.

    Raises:
        OddsightError: the data or ``out`` cannot be used, or a process was killed; results so far are kept.
    """
    for job in jobs:
        _read(job.folder, job.run.dataset, job.run.case.group)  # fails before anything is trained
    with ResultsFile(out) as file:
        earlier = {_key(result.run): result for result in file.read()}
        results = {job.run: earlier[_key(job.identity)] for job in jobs if _key(job.identity) in earlier}
        failed: dict[BenchmarkRun, OddsightError] = {}

        def on_result(job: Job, result: RunResult | OddsightError) -> None:
            if isinstance(result, OddsightError):
                failed[job.run] = result
            else:
                results[job.run] = result
                file.append(result)
            observer.on_result(job.run, result)

        observer.on_start(len(jobs), len(results))
        remaining = [job for job in jobs if job.run not in results]
        run_in_processes(execute, remaining, max(1, min(processes, len(remaining))), on_result)
    return BenchmarkResult({job.run: results[job.run] for job in jobs if job.run in results}, failed)


def make_jobs(runs: Sequence[BenchmarkRun], folder: Path) -> list[Job]:
    """Runs with the settings of their model and data set."""
    return [Job(run, folder, BENCHMARK_SETTINGS[run.model, run.dataset]) for run in runs]


def execute(job: Job) -> RunResult:
    """Train and measure."""
    data = _read(job.folder, job.run.dataset, job.run.case.group)
    wall_s, cpu_s = time.monotonic(), time.process_time()
    rows = job.run.case.rows(data.labels, job.run.seed)
    images = job.run.dataset in IMAGE_DATASETS
    split = image_split(data.values, rows) if images else table_split(data.values, rows, job.settings.scale)
    return RunResult(
        run=job.identity,
        auc=measure(split, partial(train, job.run.model, job.settings, job.run.seed)),
        **{name: len(numbers) for name, numbers in rows._asdict().items()},
        wall_s=round(time.monotonic() - wall_s, 3),
        cpu_s=round(time.process_time() - cpu_s, 3),
    )


def train(model: str, settings: BenchmarkSettings, seed: int, data: SampleSet) -> Detector:
    """The model trained on ``data``.

    Raises:
        TrainingDiverged: a loss or a gradient is not finite.
    """
    factory, context, (normals, anomalies) = recipe(model), _context(), data
    config = factory.configure(settings.network)
    torch.manual_seed(seed)
    detector = factory.detector(config, tuple(normals.shape[1:]))
    learner = factory.learner(detector, config)
    for module in learner.modules.values():
        module.to(context.device)
    samples = MixedSamples(normals, anomalies, settings.anomaly_share, settings.augmentation)
    loop = LoopSettings(seed, settings.normals_per_batch(len(anomalies)), settings.steps_for(len(normals), len(anomalies)))
    run_loop(learner, TrainingData(samples), loop, context, Callback())
    with torch.no_grad():
        detector.eval().fit_scale(normals.to(context.device))
    return detector


def measure(split: DataSplit, train_detector: Callable[[SampleSet], Detector]) -> dict[str, float]:
    """Train on the training set, and return the area under the ROC curve of the test set by score.

    Raises:
        TrainingDiverged: a score is not finite.
    """
    training_set = split.train
    detector = train_detector(training_set)
    test_set = split.test  # made after training
    anomalous = np.repeat([False, True], [len(part) for part in test_set])
    scores = score(detector, torch.cat(test_set))
    if DISTANCE in scores:
        scores[DENSITY] = two_sided(scores[DISTANCE], score(detector, training_set.normals)[DISTANCE])
    return {name: _auc(name, values, anomalous) for name, values in scores.items()}


@torch.no_grad()
def score(detector: Detector, samples: Tensor) -> dict[str, NDArray[np.float32]]:
    """All scores of samples (N, *Shape), float32 (N,) by name."""
    detector.eval()
    device = next(detector.parameters()).device
    parts = [detector.scores(part.to(device)) for part in torch.split(samples, _SCORE_BATCH)]
    return {name: torch.cat([part[name] for part in parts]).float().cpu().numpy() for name in parts[0]}


def two_sided(scores: NDArray[np.float32], normal_scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """AMA's final score (N,), for which too small a distance is anomalous as well; normal scores (M,) are of the training set.

    AMA takes the density of a Gaussian fitted to the normal scores. For ranking, the distance from their mean is the same.
    """
    return np.asarray(np.abs(scores - normal_scores.mean()), np.float32)


@cache
def _read(folder: Path, dataset: str, table: str) -> Dataset:
    return read_images(folder, dataset) if dataset in IMAGE_DATASETS else read_table(folder, table)


@cache
def _context() -> DistributedContext:
    return DistributedContext()


def _auc(name: str, scores: NDArray[np.float32], anomalous: NDArray[np.bool_]) -> float:
    if not np.isfinite(scores).all():
        raise TrainingDiverged(f"the {name} score of {np.count_nonzero(~np.isfinite(scores))} test samples is not finite")
    value = auc(scores, anomalous.astype(np.uint8))
    if value is None:
        raise BadDataset("the test set contains only one class, so no AUC is defined")
    return value


def _key(identity: Mapping[str, Any]) -> str:
    return json.dumps(identity, sort_keys=True)
