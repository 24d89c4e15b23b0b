"""When evidence is written, tried again and given up; without Kafka, Redis or a store, and without waiting."""

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from streamer.config import Settings
from streamer.evidence import marks, recorder
from streamer.evidence.recorder import EvidenceRecorder
from streamer.evidence.store import EvidenceStore
from streamer.interfaces import StoreUnavailable
from streamer.monitoring import EvidenceMetrics
from streamer.redis.groups import Entry
from streamer.storage import EvidenceSettings
from tests.harness.fakes import FakeClock
from tests.harness.notices import event_entry


class Events:
    """:class:`streamer.redis.evidence.RedisEvidence` in memory."""

    def __init__(self) -> None:
        self.new: list[Entry] = []
        self.finished: list[str] = []

    def poll(self, _wait_s: float) -> list[Entry]:
        new, self.new = self.new, []
        return new

    def done(self, entry_id: str) -> None:
        self.finished.append(entry_id)

    def marks(self) -> list[Entry]:
        return []

    def heatmap(self, *_: object) -> None:
        return None

    def scores(self, *_: object) -> list[Any]:
        return []

    def unread(self) -> float:
        return 7.0


class Writer:
    """:class:`streamer.evidence.writer.EvidenceWriter` to a store that may be away."""

    def __init__(self) -> None:
        self.is_away = False
        self.pictures = self.clips = 0

    def write_picture(self, *_: object) -> dict[str, Any]:
        if self.is_away:
            raise StoreUnavailable("the store is away")
        self.pictures += 1
        return {"missing": {}}

    def write_clip(self, *_: object) -> dict[str, Any]:
        self.clips += 1
        return {"clip": {}}

    def write_manifest(self, *_: object) -> None:
        """It is not looked at."""


class Pool:
    """Does at once what it is given, or keeps it waiting."""

    def __init__(self) -> None:
        self.is_busy = False

    def submit(self, work: Any, *arguments: Any, **options: Any) -> Future[Any]:
        future: Future[Any] = Future()
        if not self.is_busy:
            try:
                future.set_result(work(*arguments, **options))
            except StoreUnavailable as error:
                future.set_exception(error)
        return future


class Rig:
    """A recorder with its parts, and a clock."""

    def __init__(self, folder: Path, clock: FakeClock) -> None:
        self.clock, self.events, self.writer, self.pool, self.metrics = clock, Events(), Writer(), Pool(), EvidenceMetrics()
        settings = Settings(evidence=EvidenceSettings(dir=folder))
        quiet = SimpleNamespace(load=lambda: None, partitions=tuple)
        self.recorder = EvidenceRecorder(
            settings,
            EvidenceStore(settings.evidence, self.metrics),
            cast("Any", quiet),
            cast("Any", self.events),
            cast("Any", quiet),
            cast("Any", self.writer),
            cast("ThreadPoolExecutor", self.pool),
            self.metrics,
        )
        self.recorder._live.poll = lambda *_: None  # type: ignore[method-assign]  # has tests of its own

    def add(self, number: int, kind: str) -> None:
        fields = event_entry(f"{number:016x}", kind, self.clock.now_s, ended_at_ms=1)
        self.events.new.append(Entry(f"{number}-{kind}", fields))

    def step_at(self, second: float) -> None:
        self.clock.now_s = second
        self.recorder.step()
        self.recorder.step()

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"oddsight_evidence_{name}", labels) or 0.0


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    clock = FakeClock(0.0)
    for module in (recorder, marks):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=clock, time=clock))
    return Rig(tmp_path, clock)


def test_an_outage_is_waited_for_and_readiness_tells_of_it(rig: Rig) -> None:
    rig.writer.is_away = True
    rig.add(1, "start")
    rig.step_at(0)
    rig.add(1, "end")
    for minute in range(50):
        rig.step_at(60 + 60 * minute)
    assert (rig.recorder.problem, rig.events.finished) == ("the store is away", ["1-end"])
    assert 50 <= rig.count("failures_total") <= 55  # at most every minute
    assert rig.count("delay_seconds") == 50 * 60
    rig.writer.is_away = False
    for second in range(3):
        rig.step_at(51 * 60 + second)
    assert (rig.writer.clips, rig.events.finished[-1], rig.recorder.problem) == (1, "1-start", None)
    rig.step_at(52 * 60)
    assert (rig.count("delay_seconds"), rig.count("unread_entries"), rig.count("lost_events_total")) == (0, 7, 0)


def test_after_an_hour_evidence_is_given_up_and_counted(rig: Rig) -> None:
    rig.writer.is_away = True
    rig.add(1, "start")
    for minute in range(70):
        rig.step_at(60 * minute)
    assert rig.events.finished == ["1-start"]
    assert rig.count("lost_events_total", reason="given_up") == 1
    assert rig.count("unfinished_events") == 0


def test_of_too_many_events_at_once_the_last_get_no_clip(rig: Rig) -> None:
    for number in range(250):
        rig.add(number, "start")
        rig.add(number, "end")
    rig.recorder.step()  # pictures
    rig.pool.is_busy = True
    rig.step_at(1)
    assert rig.count("lost_events_total", reason="too_many") == 50


def test_after_an_outage_all_events_get_their_clips(rig: Rig) -> None:
    rig.writer.is_away = True
    for number in range(250):
        rig.add(number, "start")
        rig.add(number, "end")
    rig.step_at(0)
    rig.writer.is_away = False
    for second in range(10, 20):
        rig.step_at(second)
    assert (rig.writer.clips, rig.count("lost_events_total", reason="too_many")) == (250, 0)
