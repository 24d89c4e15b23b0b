"""What the service says about its engine before it serves."""

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


def logged(monkeypatch: pytest.MonkeyPatch, passed_over: str | None) -> tuple[Any, list[Any]]:
    """What was asked for, and the lines of the log."""
    engine, asked = BrightnessEngine(ClipSpec(length=1, height_px=16, width_px=16)), []

    def load(bundle: object, request: EngineRequest, **settings: object) -> LoadedEngine:
        asked.append((request, settings))
        return LoadedEngine(engine, 0.99, REQUEST, SOURCES, passed_over)

    monkeypatch.setattr(service, "load_serving_engine", load)
    settings = Settings.model_validate({"engine": {"backend": "onnx", "threads": 3}, "batch": {"max_clips": 7}})
    with capture_logs() as lines, service._engine(settings, BUNDLE, Metrics()) as loaded:
        assert loaded.engine is engine
    return asked, lines


def test_the_settings_are_asked_for_and_the_choice_is_logged_with_its_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, lines = logged(monkeypatch, None)

    request = EngineRequest(max_clips=7, threads=3, gpu_cached_cameras=256)
    settings = {"engine": "onnx", "precision": None, "performance_hint": None, "on_unavailable": "fail"}
    assert asked == [(request, settings)]
    assert lines == [
        {
            "event": "engine chosen",
            "log_level": "info",
            "engine": "onnx",
            "precision": "f32",
            "performance_hint": "latency",
            "engine_from": "settings",
            "precision_from": "bundle default",
            "performance_hint_from": "bundle default",
            "score_scale": 0.99,
            "gpu_cached_cameras": 0,
        }
    ]


def test_a_bundles_default_that_is_passed_over_is_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    _, lines = logged(monkeypatch, "processor was another, is one")

    warnings = [line for line in lines if line["log_level"] == "warning"]
    assert [line["reason"] for line in warnings] == ["processor was another, is one"]


def test_an_engine_that_was_not_ready_is_told_and_counted_with_what_was_done(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = BrightnessEngine(ClipSpec(length=1, height_px=16, width_px=16))
    loaded = LoadedEngine(engine, recovery="fallback", recovery_reason="no GPU")
    monkeypatch.setattr(service, "load_serving_engine", lambda *_, **__: loaded)
    metrics = Metrics()
    with capture_logs() as lines, service._engine(Settings(), BUNDLE, metrics):
        assert metrics.registry.get_sample_value("oddsight_engine_recoveries_total", {"action": "fallback"}) == 1
    assert (lines[0]["log_level"], lines[0]["action"], lines[0]["running"], lines[0]["reason"]) == (
        "warning",
        "fallback",
        engine.name,
        "no GPU",
    )
