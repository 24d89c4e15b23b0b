"""Valid entries of the streams in Redis."""

from streamer.types import Event

EVENT = Event(
    event_id="e",
    kind="start",
    camera_id="gate",
    started_at_ms=1,
    captured_at_ms=1,
    peak_score=0.5,
    threshold=0.5,
    budget=1.0,
    observed_s=600.0,
    calibration_id="c",
    model_id="m",
    engine="onnx",
    topic="frames",
    partition=0,
    offset=4,
    scored_at_ms=2,
).fields()
HEALTH = {"schema": "1", "kind": "start", "camera_id": "gate", "problem": "dark", "text": "dark", "captured_at_ms": "1"}
