"""How the service loads its engine."""

from contextlib import ExitStack
from typing import Any

import pytest
from structlog.testing import capture_logs

from deploy.engine import EngineRequest
from deploy.spec import ClipSpec
from deploy.validation.admission import LoadedEngine
from streamer import service
from streamer.config import Settings
from streamer.monitoring import Metrics
from tests.harness.fakes import BrightnessEngine
from tests.harness.pipeline import BUNDLE

REQUEST = EngineRequest("onnx", "f32", performance_hint="latency")
SOURCES: Any = {"engine": "settings", "precision": "bundle default", "performance_hint": "bundle default"}


LOG_FIELDS = {
    "engine": "onnx",
    "precision": "f32",
    "performance_hint": "latency",
    "engine_from": "settings",
    "precision_from": "bundle default",
    "performance_hint_from": "bundle default",
}


@pytest.fixture
def engine() -> BrightnessEngine:
    return BrightnessEngine(ClipSpec(length=1, height_px=16, width_px=16))


def test_engine_follows_settings(engine: BrightnessEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    requests: list[Any] = []

    def load(_bundle: object, request: EngineRequest, **settings: object) -> LoadedEngine:
        requests.append((request, settings))
        return LoadedEngine(engine, 0.99, REQUEST, SOURCES, "processor was another, is one")

    monkeypatch.setattr(service, "load_serving_engine", load)
    settings = Settings.model_validate({"engine": {"backend": "onnx", "threads": 3}, "batch": {"max_clips": 7}})
    with capture_logs() as lines, ExitStack() as stack:
        assert service._load_engine(settings, BUNDLE, Metrics(), stack).engine is engine

    request = EngineRequest(max_clips=7, threads=3, gpu_cached_cameras=256)
    choices = {"engine": "onnx", "precision": None, "performance_hint": None, "on_unavailable": "fail"}
    assert requests == [(request, choices)]
    warning, chosen = lines
    assert (warning["log_level"], warning["reason"]) == ("warning", "processor was another, is one")
    assert chosen == {
        "event": "engine chosen",
        "log_level": "info",
        **LOG_FIELDS,
        "score_scale": 0.99,
        "gpu_cached_cameras": 0,
    }


def test_recovery_is_logged_and_counted(engine: BrightnessEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = LoadedEngine(engine, recovery="fallback", recovery_reason="no GPU")
    monkeypatch.setattr(service, "load_serving_engine", lambda *_, **__: loaded)
    metrics = Metrics()
    with capture_logs() as lines, ExitStack() as stack:
        service._load_engine(Settings(), BUNDLE, metrics, stack)

    assert metrics.registry.get_sample_value("oddsight_engine_recoveries_total", {"action": "fallback"}) == 1
    named = {key: lines[0][key] for key in ("log_level", "action", "running", "reason")}
    assert named == {"log_level": "warning", "action": "fallback", "running": engine.name, "reason": "no GPU"}
