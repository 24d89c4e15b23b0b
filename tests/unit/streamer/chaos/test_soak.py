"""What counts as flat memory and as true readiness, over samples of one second."""

from typing import Any, cast

import pytest

from streamer.chaos.audit import Tally
from streamer.chaos.faults import partition_added
from streamer.chaos.soak import Sample, SoakReport, _faults, _late_camera
from streamer.chaos.traffic import Stored

WATCHED = Sample(200.0, ready=True, late=None)
LATE = WATCHED._replace(late="gate")


def report(*samples: Sample, **more: Any) -> SoakReport:
    return SoakReport("apache", 1, 30.0, 40, samples=list(samples), **more)


def test_a_quiet_run_is_clean() -> None:
    assert report(*[WATCHED] * 100).is_clean


@pytest.mark.parametrize(("end_mb", "is_flat"), [(209.0, True), (191.0, True), (211.0, False), (189.0, False)])
def test_memory_may_change_by_a_twentieth_after_the_warm_up(end_mb: float, is_flat: bool) -> None:
    cold, warm, last = WATCHED._replace(witness_mb=100.0), WATCHED, WATCHED._replace(witness_mb=end_mb)
    subject = report(*[cold] * 15, *[warm] * 60, *[last] * 25)
    assert subject.memory_mb == (200.0, end_mb)
    assert subject.is_clean == is_flat


@pytest.mark.parametrize(("late_s", "untrue_s"), [(3, 0), (4, 1), (6, 3)])
def test_a_service_may_say_ready_for_three_seconds_before_it_notices(late_s: int, untrue_s: int) -> None:
    subject = report(*[WATCHED] * 50, *[LATE] * late_s, WATCHED, *[LATE] * 3, *[WATCHED] * 50)
    assert subject.untrue_s == untrue_s
    assert subject.is_clean == (untrue_s == 0)


def test_who_says_that_it_is_not_ready_tells_no_lie() -> None:
    assert report(*[LATE._replace(ready=False)] * 100).untrue_s == 0


@pytest.mark.parametrize("tally", [Tally(lost=1), Tally(doubled=1), Tally(wrong=1)])
def test_what_is_lost_doubled_or_wrong_counts(tally: Tally) -> None:
    assert not report(*[WATCHED] * 100, tally=tally).is_clean
    assert not report(*[WATCHED] * 100, problems=["x"]).is_clean


def test_the_load_does_not_grow() -> None:
    faults = _faults(has_apache=True)
    assert len(faults) > 10
    assert all(fault.during is not partition_added for fault in faults)
    assert not any(fault.needs_apache for fault in _faults(has_apache=False))


class Parts:
    """Traffic and results of one camera."""

    def __init__(self, stored: Stored, newest_ms: int) -> None:
        self.traffic, self._stored, self._newest_ms = self, stored, newest_ms

    def stored(self) -> dict[str, Stored]:
        return {"gate": self._stored}

    def newest_ms(self, _: str) -> int:
        return self._newest_ms


@pytest.mark.parametrize(
    ("stored", "newest_ms", "late"),
    [
        (Stored(0, 60_000, 1e15), 55_000, None),
        (Stored(0, 60_000, 1e15), 40_000, "gate"),
        (Stored(55_000, 60_000, 1e15), -1, None),  # a camera that has just begun
        (Stored(40_000, 60_000, 1e15), -1, "gate"),
        (Stored(0, 60_000, 0), 40_000, None),  # Kafka takes nothing of it any more
    ],
)
def test_a_camera_is_late_if_a_frame_of_it_waits_for_ten_seconds(stored: Stored, newest_ms: int, late: str | None) -> None:
    parts = cast("Any", Parts(stored, newest_ms))
    assert _late_camera(parts, parts) == late
