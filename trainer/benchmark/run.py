"""Runs a benchmark: trains each model of its grid on one part of the data and measures it on the other.

Training is given a trial's training part and nothing else, for a number of epochs that is fixed beforehand. The test part is
made when training is over.

How long and in which size each model learns in the benchmark: fixed beforehand, whatever the test part says.
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
from trainer.benchmark.data import Augmentation, MixedSamples, Pictures, TableRows, read_pictures, read_table
from trainer.benchmark.protocols import PICTURE_SETS, Part, PictureTrial, Rows, Run, Scale, TableTrial, Trial
from trainer.benchmark.results import Finished, RunFile, side_by_side
from trainer.errors import BadDataset, TrainingDiverged
from trainer.evaluation.metrics import auc
from trainer.models.registry import recipe
from trainer.training.distributed import DistributedContext
from trainer.training.interfaces import Detector
from trainer.training.loop import Callback, LoopSettings, TrainingData, run_loop


@dataclass(frozen=True, slots=True)
class BenchmarkSettings:
    """Part of what identifies a run: with other settings it is run anew."""

    batch: int
    epochs: float = 0.0
    """Times through the normal samples; 0 where ``steps`` says how long."""
    steps: int = 0
    network: Mapping[str, Any] = field(default_factory=dict)
    """What differs from the defaults of the model's configuration."""
    anomaly_share: float = 0.0
    """Labelled anomalies in a batch, where there are any."""
    augmentation: Augmentation | None = None
    """Of pictures."""
    scale: Scale = "range"
    """Of tables."""

    def normals_a_batch(self, anomalies: int) -> int:
        """What is left of a batch when labelled anomalies, if there are any, have their share."""
        return round(self.batch * (1.0 - self.anomaly_share)) if anomalies else self.batch

    def steps_for(self, normals: int, anomalies: int) -> int:
        """Steps of a run that learns from so many samples."""
        return self.steps or max(1, round(self.epochs * max(1, normals // self.normals_a_batch(anomalies))))


_GANOMALY_PICTURES = BenchmarkSettings(batch=64, steps=660, network={"width": 16})
"""The authors' code: 15 epochs (12,660 steps), batches of 64, 64 channels. A quarter in width and a twentieth in length: what two
cores get through. On parts of the training images, with other classes taken for anomalies, longer was no better at this width."""
_AMA_SMALL = {"learning_rate": 3e-3, "latent_weight": 0.1, "critic_steps": 1}
_AMA_PICTURES = BenchmarkSettings(
    batch=16, steps=500, network={**_AMA_SMALL, "encoder_width": 16, "generator_width": 16, "critic_width": 8}
)
"""The authors' code: 100 epochs, batches of 256, five steps of the critic for one of the autoencoder, widths of 64, 256 and 128:
hours a class on a CPU. This takes it a minute, and was chosen on one digit's training images."""

BENCHMARK_SETTINGS: Mapping[tuple[str, str], BenchmarkSettings] = {
    ("ganomaly", "mnist"): _GANOMALY_PICTURES,
    ("ganomaly", "fashion-mnist"): _GANOMALY_PICTURES,
    ("ganomaly", "odds"): BenchmarkSettings(batch=64, steps=1500),
    ("ama", "mnist"): _AMA_PICTURES,
    ("ama", "fashion-mnist"): _AMA_PICTURES,
    ("ama", "odds"): BenchmarkSettings(batch=128, steps=300, network={**_AMA_SMALL, "latent": 8, "atypical_share": 0.0}),
    # The paper's are not known. Things of fashion are told apart by parts of them, digits by their strokes.
    ("esad", "mnist"): BenchmarkSettings(
        batch=128, epochs=6, network={"score": "relative"}, anomaly_share=0.4, augmentation=Augmentation(0.7, "turned")
    ),
    ("esad", "fashion-mnist"): BenchmarkSettings(
        batch=128,
        epochs=6,
        network={"score": "relative", "latent": 32},
        anomaly_share=0.4,
        augmentation=Augmentation(0.3, "mixed"),
    ),
    ("esad", "odds"): BenchmarkSettings(
        batch=128, steps=800, network={"entropy_weight": 0.3, "latent": 8}, anomaly_share=0.25, scale="deviation"
    ),
}
"""By model and data set."""


DISTANCE, DENSITY = "feature_distance", "feature_density"
_SCORE_BATCH = 512


@dataclass(frozen=True, slots=True)
class Job:
    """A run, where its data are, and how it learns."""

    run: Run
    folder: Path
    settings: BenchmarkSettings

    @property
    def identity(self) -> dict[str, Any]:
        """Runs with the same one are the same run; as it is read back from JSON."""
        config = recipe(self.run.model).configure(self.settings.network)
        settings = {**asdict(self.settings), "network": config.model_dump(mode="json")}
        found: dict[str, Any] = json.loads(json.dumps({**asdict(self.run), "settings": settings}))
        return found


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a benchmark."""

    finished: Mapping[Run, Finished]
    """In the order of the grid, runs of earlier calls included."""
    failed: Mapping[Run, OddsightError]


class Watcher(Protocol):
    """Told how a benchmark goes."""

    def begin(self, total: int, already: int) -> None:
        """``already`` of ``total`` runs were finished by an earlier call."""
        ...

    def finished(self, run: Run, finished: Finished) -> None:
        """A run is finished and written down."""
        ...

    def failed(self, run: Run, error: OddsightError) -> None:
        """A run came to nothing."""
        ...


def benchmark(jobs: Sequence[Job], out: Path, processes: int, watcher: Watcher) -> Outcome:
    """Run what is not yet in ``out``, a file of finished runs, and add it there.

    Raises:
        OddsightError: the data or ``out`` cannot be used, or a process was killed; what is finished is kept.
    """
    for job in jobs:
        _data(job.folder, job.run)  # before anything is trained
    with RunFile(out) as file:
        known = {_key(finished.run): finished for finished in file.read()}
        found = {job.run: known[_key(job.identity)] for job in jobs if _key(job.identity) in known}
        failed: dict[Run, OddsightError] = {}

        def take(job: Job, result: Finished | OddsightError) -> None:
            if isinstance(result, OddsightError):
                failed[job.run] = result
                watcher.failed(job.run, result)
                return
            found[job.run] = result
            file.add(result)
            watcher.finished(job.run, result)

        watcher.begin(len(jobs), len(found))
        left = [job for job in jobs if job.run not in found]
        side_by_side(execute, left, max(1, min(processes, len(left))), take)
    return Outcome({job.run: found[job.run] for job in jobs if job.run in found}, failed)


def jobs_of(runs: Sequence[Run], folder: Path) -> list[Job]:
    """Runs with the settings of the benchmark."""
    return [Job(run, folder, BENCHMARK_SETTINGS[run.model, run.dataset]) for run in runs]


def execute(job: Job) -> Finished:
    """Train and measure."""
    data = _data(job.folder, job.run)
    wall_s, cpu_s = time.monotonic(), time.process_time()
    rows = job.run.case.rows(data.known, job.run.seed)
    found = measure(_trial(data, rows, job.settings.scale), partial(train, job.run.model, job.settings, job.run.seed))
    return Finished(
        run=job.identity,
        auc=found,
        **{name: len(numbers) for name, numbers in rows._asdict().items()},
        wall_s=round(time.monotonic() - wall_s, 3),
        cpu_s=round(time.process_time() - cpu_s, 3),
    )


def train(model: str, settings: BenchmarkSettings, seed: int, learned: Part) -> Detector:
    """The model, trained on ``learned``, the only part of the data it is ever shown.

    Raises:
        TrainingDiverged: a loss or a gradient is no longer finite.
    """
    made, shape = recipe(model), tuple(learned.samples.shape[1:])
    config = made.configure(settings.network)
    torch.manual_seed(seed)
    detector = made.detector(config, shape)
    learner = made.learner(detector, config)
    for module in learner.modules.values():
        module.to(_together().device)
    normals, anomalies = learned.normals, learned.anomalies
    samples = MixedSamples(normals, anomalies, settings.anomaly_share, settings.augmentation)
    loop = LoopSettings(seed, settings.normals_a_batch(len(anomalies)), settings.steps_for(len(normals), len(anomalies)))
    run_loop(learner, TrainingData(samples), loop, _together(), Callback())
    with torch.no_grad():
        detector.eval().fit_scale(normals.to(_together().device))
    return detector


def measure(trial: Trial, learn: Callable[[Part], Detector]) -> dict[str, float]:
    """Area under the ROC curve of the test part by score, of what ``learn`` makes of the training part.

    Raises:
        TrainingDiverged: a score is not finite.
    """
    learned = trial.train
    detector = learn(learned)
    tested = trial.test
    scores = {**score(detector, tested.samples)}
    if DISTANCE in scores:
        scores[DENSITY] = unlikeliness(scores[DISTANCE], score(detector, learned.normals)[DISTANCE])
    return {name: _auc(name, values, tested.anomalous) for name, values in scores.items()}


@torch.no_grad()
def score(detector: Detector, samples: Tensor) -> dict[str, NDArray[np.float32]]:
    """Every score of samples (N, *Shape), float32 (N,) by name."""
    detector.eval()
    device = next(detector.parameters()).device
    parts = [detector.scores(part.to(device)) for part in torch.split(samples, _SCORE_BATCH)]
    return {name: torch.cat([part[name] for part in parts]).float().cpu().numpy() for name in parts[0]}


def unlikeliness(scores: NDArray[np.float32], usual: NDArray[np.float32]) -> NDArray[np.float32]:
    """AMA's final score: how unlikely scores (N,) are under a Gaussian that was fitted to those of training normals, (M,).

    Too small is strange, too. Only the order matters, and that of the density is that of the distance from the mean.
    """
    return np.asarray(np.abs(scores - usual.mean()), np.float32)


def _trial(data: Pictures | TableRows, rows: Rows, scale: Scale) -> Trial:
    return PictureTrial(data.images, rows) if isinstance(data, Pictures) else TableTrial(data.values, rows, scale)


def _data(folder: Path, run: Run) -> Pictures | TableRows:
    return _pictures(folder, run.dataset) if run.dataset in PICTURE_SETS else _table(folder, run.case.group)


@cache
def _pictures(folder: Path, dataset: str) -> Pictures:
    return read_pictures(folder, dataset)


@cache
def _table(folder: Path, name: str) -> TableRows:
    return read_table(folder, name)


@cache
def _together() -> DistributedContext:
    return DistributedContext()


def _auc(name: str, scores: NDArray[np.float32], anomalous: NDArray[np.bool_]) -> float:
    if not np.isfinite(scores).all():
        raise TrainingDiverged(f"the {name} score of {np.count_nonzero(~np.isfinite(scores))} test samples is not finite")
    found = auc(scores, anomalous.astype(np.uint8))
    if found is None:
        raise BadDataset("the test part holds one class alone, so nothing can be told apart in it")
    return found


def _key(identity: Mapping[str, Any]) -> str:
    return json.dumps(identity, sort_keys=True)
