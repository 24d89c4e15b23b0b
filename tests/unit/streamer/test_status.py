"""What a service says of itself, from its metrics."""

from streamer.monitoring import Metrics
from streamer.status import status_fields


def test_metrics_are_summed_over_cameras_and_told_by_reason() -> None:
    metrics = Metrics()
    metrics.frames.labels("gate").inc(3)
    metrics.frames.labels("yard").inc(4)
    metrics.scored.inc(6)
    metrics.rejected.labels("damaged").inc(2)
    metrics.shed.labels("gate", "late").inc()
    metrics.shed.labels("yard", "late").inc()
    metrics.batch_clips.observe(2)
    metrics.batch_clips.observe(4)
    metrics.lag.labels("0").set(5)
    metrics.lag.labels("1").set(6)

    assert status_fields(metrics) == {
        "cameras": "0",
        "partitions": "0",
        "lag": "11",
        "frames_total": "7",
        "scored_total": "6",
        "open_events": "0",
        "batch_clips_mean": "3.00",
        "rejected_total": '{"damaged": 2.0}',
        "shed_total": '{"late": 2.0}',
    }


def test_a_service_that_has_seen_nothing() -> None:
    assert status_fields(Metrics())["batch_clips_mean"] == "0.00"
