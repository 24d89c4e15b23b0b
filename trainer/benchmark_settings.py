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
    # The authors' code: 15 epochs, batches of 64, 64 channels. A quarter of these in width and in length: what two cores
    # get through in an hour for all digits and seeds.
    ("ganomaly", "pictures"): BenchmarkSettings(epochs=4, batch=64, network={"width": 16}),
    ("ganomaly", "tables"): BenchmarkSettings(epochs=150, batch=64),
    # The authors' code: 100 epochs, batches of 256. Fewer and smaller here, for the same reason; about half its steps.
    ("ama", "pictures"): BenchmarkSettings(epochs=10, batch=64),
    ("ama", "tables"): BenchmarkSettings(epochs=150, batch=128),
    # The paper's are not known; these are Deep SAD's, without its pre-training.
    ("esad", "pictures"): BenchmarkSettings(epochs=150, batch=128),
    ("esad", "tables"): BenchmarkSettings(epochs=150, batch=128),
}
"""By model and kind of data set."""


def settings_of(dataset: str, model: str) -> BenchmarkSettings:
    """The settings of a model for a data set; there are some for every recipe."""
    return BENCHMARK_SETTINGS[model, "pictures" if dataset in PICTURE_SETS else "tables"]
