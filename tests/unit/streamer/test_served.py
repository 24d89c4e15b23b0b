"""Whether the bundle of the settings is the one that running services serve."""

from pathlib import Path

from deploy.bundle import DEFAULT_BUNDLE, read_bundle
from streamer.config import Settings
from streamer.served import other_bundle

OWN = read_bundle(DEFAULT_BUNDLE).model_id


def test_a_service_that_serves_another_network_is_told() -> None:
    told = other_bundle(Settings(), [{"model_id": OWN}, {"model_id": "video-ede-0123456789ab"}])
    assert told is not None
    assert all(text in told for text in ("video-ede-0123456789ab", OWN, "--bundle", "engine.bundle"))
    assert told.count(OWN) == 1


def test_nothing_is_told_of_what_is_not_known(tmp_path: Path) -> None:
    assert other_bundle(Settings(), []) is None
    assert other_bundle(Settings(), [{"host": "nvr"}, {"model_id": OWN}]) is None
    missing = Settings.model_validate({"engine": {"bundle": tmp_path / "none"}})
    assert other_bundle(missing, [{"model_id": "video-ede-0123456789ab"}]) is None
