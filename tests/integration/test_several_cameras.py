"""One network for several cameras, and a network that is adapted to other footage."""

from pathlib import Path

import numpy as np
import pytest

from deploy.bundle import Bundle
from deploy.engines.torch import load_network
from deploy.errors import ConfigError
from tests.harness.street import SLOW_PX, quiet, street, train, write
from trainer import fit as training
from trainer.fit import FitConfig
from trainer.training.distributed import DistributedContext

ADAPT = FitConfig(max_steps=6, batch_clips=4, checkpoint_every_s=0.0)


@pytest.fixture
def adapt(video_ede_bundle: Bundle) -> FitConfig:
    return ADAPT.model_copy(update={"from_bundle": video_ede_bundle.path})


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Plain footage of another size."""
    folder = tmp_path_factory.mktemp("yard")
    write(folder / "monday", street(340, np.full(340, SLOW_PX), 3)[:, :, :80])
    return folder


def test_only_anomaly_network_is_adapted(video_ede_bundle, adapt, data, tmp_path):
    before = load_network(video_ede_bundle).state_dict()
    network, metrics = train(data, tmp_path, adapt)
    changes = {name: float((tensor - before[name]).abs().max()) for name, tensor in network.state_dict().items()}
    assert {name.partition(".")[0] for name, change in changes.items() if change} == {"judge"}
    assert max(changes.values()) < 0.1
    assert (metrics["steps"], metrics["from"]) == (6, video_ede_bundle.model_id)


def test_adapted_network_keeps_its_settings(video_ede_bundle, adapt, yard, tmp_path):
    run = training.prepare(yard, tmp_path, adapt, DistributedContext(), quiet())
    assert (run.spec, run.card) == (video_ede_bundle.spec, video_ede_bundle.manifest.model)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "video-ganomaly"}, "holds a video-ede, and --model is video-ganomaly"),
        ({"network": {"height_px": 128}}, "height_px 64, which cannot become 128"),
    ],
)
def test_rejects_other_network(adapt, data, tmp_path, settings, message):
    with pytest.raises(ConfigError, match=message):
        training.prepare(data, tmp_path, adapt.model_copy(update=settings), DistributedContext(), quiet())


def test_several_cameras_need_profiles(data, yard, tmp_path):
    config = FitConfig(model="video-ganomaly")
    with pytest.raises(ConfigError, match="several --data are for --model video-ede"):
        training.prepare([data, yard], tmp_path, config, DistributedContext(), quiet())
