"""How long and in which size each model learns in the benchmark: fixed beforehand, whatever the test part says."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trainer.loop import steps_of
from trainer.protocols import Scale
from trainer.sampling import Augmentation


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
        return self.steps or steps_of(self.epochs, normals, self.normals_a_batch(anomalies))


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
