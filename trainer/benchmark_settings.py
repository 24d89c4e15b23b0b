"""How long and in which size each model learns in the benchmark: fixed beforehand, whatever the test part says."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trainer.protocols import PICTURE_SETS


@dataclass(frozen=True, slots=True)
class BenchmarkSettings:
    """Part of what identifies a run: with other settings it is run anew."""

    epochs: float
    batch: int
    network: Mapping[str, Any] = field(default_factory=dict)
    """What differs from the defaults of the model's configuration."""


BENCHMARK_SETTINGS: Mapping[tuple[str, str], BenchmarkSettings] = {
    # 15 epochs and batches of 64 are the defaults of the authors' code.
    ("ganomaly", "pictures"): BenchmarkSettings(epochs=15, batch=64),
    ("ganomaly", "tables"): BenchmarkSettings(epochs=150, batch=64),
    # 100 epochs and batches of 256 are the defaults of the authors' code.
    ("ama", "pictures"): BenchmarkSettings(epochs=100, batch=256),
    ("ama", "tables"): BenchmarkSettings(epochs=150, batch=128),
    # The paper's are not known; these are Deep SAD's, without its pre-training.
    ("esad", "pictures"): BenchmarkSettings(epochs=150, batch=128),
    ("esad", "tables"): BenchmarkSettings(epochs=150, batch=128),
}
"""By model and kind of data set."""


def settings_of(dataset: str, model: str) -> BenchmarkSettings:
    """The settings of a model for a data set; there are some for every recipe."""
    return BENCHMARK_SETTINGS[model, "pictures" if dataset in PICTURE_SETS else "tables"]
