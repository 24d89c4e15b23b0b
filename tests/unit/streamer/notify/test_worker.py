"""One receiver's work: order, outages, restarts, quiet hours and escalation, without sockets and without waiting."""

from datetime import UTC, datetime
from typing import Any

import pytest

from streamer.interfaces import RedisUnavailable
from streamer.monitoring import NotifyMetrics
from streamer.notify.worker import Backoff, ReceiverWorker
from streamer.receivers import NotifySettings
from tests.harness.fakes import FakeClock
from tests.harness.notices import NOON_S, MemoryLease, MemoryNotices, MemorySender, event_entry, health_entry


class Rig:
    """A worker with a receiver, entries and a clock of its own."""

    def __init__(self, **receiver: Any) -> None:
        receivers = {"ops": {"kind": "webhook", "url": "http://host/", **receiver}}
        self.settings = NotifySettings.model_validate({"timezone": "UTC", "receivers": receivers})
        self.source, self.sender, self.lease, self.metrics = MemoryNotices(), MemorySender(), MemoryLease(), NotifyMetrics()
        self.clock = FakeClock(NOON_S)
        self.idled = 0
        self.worker = self.restarted()

    def restarted(self) -> ReceiverWorker:
        self.worker = ReceiverWorker(
            "ops",
            self.settings,
            self.source,
            self.sender,
            self.lease,
            self.metrics,
            backoff=Backoff(first_s=1, most_s=8),
            idle=self._idle,
            clock_s=self.clock,
            wall_clock_s=self.clock,
        )
        return self.worker

    def _idle(self, _seconds: float) -> None:
        self.idled += 1

    def start(self, event_id: str, **more: Any) -> None:
        self.source.add("events", event_entry(event_id, at_s=self.clock.now_s, **more))

    def step_at(self, second: float) -> list[str]:
        """Step at a second after noon; the keys of what was told in all."""
        self.clock.now_s = NOON_S + second
        self.worker.step()
        return self.sender.keys

    def at(self, hour: int, minute: int = 0, day: int = 15) -> float:
        """Seconds after noon of that time."""
        return datetime(2023, 11, day, hour, minute, tzinfo=UTC).timestamp() - NOON_S

    def gauge(self, name: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"oddsight_{name}", {"receiver": "ops"})

    def count(self, outcome: str) -> float | None:
        return self.metrics.registry.get_sample_value("oddsight_notifications_total", {"receiver": "ops", "outcome": outcome})


def test_what_concerns_the_receiver_is_told_in_order_and_done() -> None:
    rig = Rig(health=True)
    rig.start("a")
    rig.source.add("health", health_entry())
    rig.start("b")
    rig.source.add("events", event_entry("b", "end"))
    rig.source.add("events", {"written": "by another version"})
    assert [key.split("-")[0] for key in rig.step_at(0)] == ["a", "health", "b"]
    assert rig.source.pending == {}
    assert rig.count("told") == 3


def test_an_outage_of_the_receiver_delays_and_neither_loses_nor_reorders_nor_repeats() -> None:
    rig = Rig()
    rig.sender.is_down = True
    attempts = []
    for second in range(20):
        rig.start(f"e{second:02}")
        rig.step_at(second)
        attempts.append(rig.sender.attempts)
    assert attempts == [1, 2, 2, 3, 3, 3, 3, *[4] * 8, *[5] * 5]  # waits of 1, 2, 4, 8 and 8 s
    assert rig.worker.problem == "memory: nothing listens there"
    rig.sender.is_down = False
    assert rig.step_at(60) == [f"e{second:02}-start" for second in range(20)]
    assert (rig.source.pending, rig.worker.problem) == ({}, None)


def test_a_restart_tells_what_was_not_told_and_nothing_twice() -> None:
    rig = Rig(cooldown_s=60)
    rig.start("a")
    rig.step_at(0)
    rig.start("b")
    rig.start("y", camera_id="yard")
    rig.sender.is_down = True
    rig.step_at(1)
    rig.sender.is_down = False
    rig.restarted()
    rig.clock.now_s = NOON_S + 61
    rig.start("c")
    assert rig.step_at(61) == ["a-start", "y-start", "c-start"]
    assert rig.sender.texts[-1].endswith(", and 1 more since the last one told")


def test_what_redis_does_not_know_to_be_told_is_not_sent_again() -> None:
    rig = Rig()
    rig.start("a")
    send = rig.sender.send

    def send_and_lose_redis(message: Any) -> None:
        send(message)
        rig.source.is_down = True

    rig.sender.send = send_and_lose_redis  # type: ignore[method-assign]  # Redis goes away just then
    with pytest.raises(RedisUnavailable):
        rig.worker.step()
    with pytest.raises(RedisUnavailable):
        rig.worker.step()
    rig.source.is_down = False
    rig.lease.term += 1  # the lease expired meanwhile, so all that is not done is read again
    assert rig.step_at(5) == ["a-start"]
    assert rig.source.pending == {}


def test_a_message_that_is_refused_holds_up_no_other() -> None:
    rig = Rig()
    rig.sender.refuses = ["a-start"]
    rig.start("a")
    rig.start("b")
    assert rig.step_at(0) == ["b-start"]
    assert (rig.source.pending, rig.count("refused")) == ({}, 1)


def test_a_message_is_given_up_after_so_long() -> None:
    rig = Rig(give_up_after_s=100)
    rig.sender.is_down = True
    rig.start("a")
    rig.step_at(0)
    rig.clock.now_s = NOON_S + 50
    rig.start("b")
    rig.step_at(99)
    assert len(rig.source.pending) == 2
    rig.step_at(120)
    assert (len(rig.source.pending), rig.count("given_up")) == (1, 1)
    rig.sender.is_down = False
    assert rig.step_at(121) == ["b-start"]


def test_what_is_old_when_the_process_starts_is_tried_for_as_long_as_any_other() -> None:
    rig = Rig(give_up_after_s=100)
    rig.start("a")
    rig.sender.is_down = True
    rig.step_at(1_000)
    assert rig.source.pending
    rig.sender.is_down = False
    assert rig.step_at(1_050) == ["a-start"]


def test_quiet_hours_are_summed_up_once_at_their_end() -> None:
    rig = Rig(quiet_hours="22:00-06:00")
    rig.step_at(rig.at(21, 59))
    rig.start("a")
    rig.step_at(rig.at(21, 59))
    for hour in (22, 23):
        rig.clock.now_s = NOON_S + rig.at(hour)
        rig.start(f"n{hour}")
        rig.step_at(rig.at(hour))
    rig.restarted()
    assert rig.step_at(rig.at(5, 59, day=16)) == ["a-start"]
    assert rig.source.pending == {}
    rig.sender.is_down = True
    rig.start("b")
    rig.step_at(rig.at(6, 0, day=16))
    rig.sender.is_down = False
    rig.restarted()
    keys = rig.step_at(rig.at(6, 1, day=16))
    assert [key.partition("-")[0] for key in keys] == ["a", "summary", "b"]
    assert rig.sender.texts[1].endswith("gate: 2 events")
    rig.step_at(rig.at(7, 0, day=16))
    assert len(rig.sender.told) == 3


def test_what_could_not_be_told_before_the_quiet_hours_wakes_nobody() -> None:
    rig = Rig(quiet_hours="22:00-06:00")
    rig.sender.is_down = True
    rig.clock.now_s = NOON_S + rig.at(21, 59)
    rig.start("a")
    rig.worker.step()
    rig.sender.is_down = False
    assert rig.step_at(rig.at(22, 30)) == []
    assert [key.partition("-")[0] for key in rig.step_at(rig.at(6, 0, day=16))] == ["summary"]


def test_an_event_is_escalated_only_if_nobody_takes_care_of_it_in_time() -> None:
    rig = Rig(kinds=["start", "end"], escalate_after_s=300)
    rig.start("seen")
    rig.start("unseen")
    rig.source.add("events", event_entry("seen", "end", offset=9, at_s=NOON_S + 10))
    assert rig.step_at(299) == []
    rig.source.handled.add("seen")
    rig.restarted()  # how long it has waited is not forgotten
    assert rig.step_at(300) == ["unseen-start"]
    assert rig.source.pending == {}
    rig.source.add("events", event_entry("unseen", "end", offset=10, at_s=NOON_S + 310))
    assert rig.step_at(310) == ["unseen-start", "unseen-end"]


def test_a_problem_is_escalated_only_if_it_lasts() -> None:
    rig = Rig(kinds=[], health=True, escalate_after_s=300)
    rig.source.add("health", health_entry(camera_id="short"))
    rig.source.add("health", health_entry(camera_id="long"))
    rig.source.add("health", health_entry("end", camera_id="short", at_s=NOON_S + 200))
    rig.step_at(299)
    assert rig.sender.texts == []
    rig.step_at(300)
    assert rig.sender.texts == ["long: dark"]
    rig.source.add("health", health_entry("end", camera_id="long", at_s=NOON_S + 400))
    rig.step_at(400)
    assert rig.sender.texts == ["long: dark", "long: is well again, no longer: dark"]
    assert rig.source.pending == {}


def test_a_picture_is_waited_for_only_a_moment() -> None:
    rig = Rig()
    rig.sender.lacking = True
    rig.start("a")
    assert rig.step_at(4.9) == []
    assert rig.step_at(5) == ["a-start"]


def test_a_long_outage_costs_no_memory() -> None:
    rig = Rig()
    rig.sender.is_down = True
    for number in range(1_500):
        rig.start(f"{number:04}", offset=number)
    for _ in range(20):
        rig.step_at(0)
    assert (len(rig.source.given), rig.idled) == (1_000, 10)
    rig.sender.is_down = False
    for _ in range(10):
        rig.step_at(60)
    assert rig.sender.keys == [f"{number:04}-start" for number in range(1_500)]


def test_nothing_is_told_without_the_lease() -> None:
    rig = Rig()
    rig.start("a")
    rig.lease.is_held = False
    assert rig.step_at(0) == []
    rig.lease.is_held = True
    assert rig.step_at(0) == ["a-start"]


def test_a_process_that_only_stands_by_has_no_problem() -> None:
    rig = Rig()
    rig.sender.is_down = True
    rig.start("a")
    rig.step_at(0)
    assert rig.worker.problem is not None
    rig.worker.rest()
    assert rig.worker.problem is None
    assert rig.metrics.registry.get_sample_value("oddsight_notify_waiting", {"receiver": "ops"}) == 0


def test_a_damaged_state_begins_anew() -> None:
    rig = Rig()
    rig.source.state = "{"
    rig.start("a")
    assert rig.step_at(0) == ["a-start"]


def test_metrics_tell_how_late_a_receiver_is_told_and_what_was_not_read() -> None:
    rig = Rig()
    rig.sender.is_down = True
    rig.start("a")
    rig.step_at(0)
    rig.step_at(90)
    assert (rig.gauge("notify_delay_seconds"), rig.gauge("notify_waiting")) == (90, 1)
    rig.start("b")
    rig.source.given.update(rig.source.pending)  # another member has it
    rig.start("c")
    rig.sender.is_down = False
    rig.step_at(200)
    assert (rig.gauge("notify_delay_seconds"), rig.gauge("notify_unread_entries")) == (0, 0)
    rig.worker.rest()
    assert rig.gauge("notify_waiting") == 0
