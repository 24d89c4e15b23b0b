"""An alarm is raised however odd the capture times of its frames are, and a restart believes the same times."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from streamer.types import FrameMessage, Partition
from tests.harness.pipeline import RECURRENT, SPEC, Rig, message

P0 = Partition("frames", 0)
BEGIN_MS = 1_700_000_000_000
YEAR_MS = 365 * 86_400_000
CALM, ODD = 0.1, 0.8
CALM_FRAMES, ODD_FRAMES = 20, 100

Clock = Callable[[int], int]
"""What a camera claims at a time."""

CLOCKS: dict[str, tuple[int, Clock]] = {
    "constant": (100, lambda _: BEGIN_MS),
    "never set": (100, lambda _: 0),
    "backward": (100, lambda now_ms: 2 * BEGIN_MS - now_ms),
    "in seconds": (100, lambda now_ms: now_ms // 1000),
    "0.9 frames a second": (1_111, lambda now_ms: now_ms),
    "set back and forth": (100, lambda now_ms: now_ms - 3_600_000 * (now_ms // 1000 % 2)),
}
"""The interval of the frames, and the clock."""


def watched(interval_ms: int, clock: Clock, *, header: bool = True) -> list[FrameMessage]:
    """Calm frames, then odd ones; their records carry true times, or what the camera claims if there is no header."""
    messages = []
    for number in range(CALM_FRAMES + ODD_FRAMES):
        now_ms = BEGIN_MS + number * interval_ms
        sent = message(0, number, "gate", CALM if number < CALM_FRAMES else ODD, at_ms=clock(now_ms))
        messages.append(
            replace(sent, timestamp_ms=now_ms + 7) if header else replace(sent, timestamp_ms=clock(now_ms), headers=())
        )
    return messages


def with_strangers(own: list[FrameMessage], shift_ms: int, *, calm: bool) -> list[FrameMessage]:
    """Between any two frames of the camera one under its name with a time far away."""
    mixed = []
    for each in own:
        at_ms = each.timestamp_ms + shift_ms
        forged = message(0, 2 * each.offset + 1, "gate", CALM if calm else ODD, at_ms=at_ms)
        received_ms = each.timestamp_ms + 50 if each.headers else at_ms
        mixed += [
            replace(each, offset=2 * each.offset),
            replace(forged, timestamp_ms=received_ms, headers=forged.headers if each.headers else ()),
        ]
    return mixed


def kinds(rig: Rig) -> list[str]:
    return [kind for (kind,) in rig.events("kind")]


@pytest.mark.parametrize("name", CLOCKS)
@pytest.mark.parametrize("header", [True, False], ids=["header", "record"])
def test_alarm_is_raised_whatever_the_clock_shows(name: str, header: bool) -> None:
    rig = Rig(watched(*CLOCKS[name], header=header))

    rig.finish()

    assert rig.scored_offsets() == list(range(2, CALM_FRAMES + ODD_FRAMES))
    assert set(kinds(rig)) - {"update"} == {"start"}
    (started,) = {offset for kind, offset in rig.events("kind", "offset") if kind == "start"}
    assert int(started) <= CALM_FRAMES + 20


@pytest.mark.parametrize("shift_ms", [-YEAR_MS, 60_000, YEAR_MS])
@pytest.mark.parametrize("header", [True, False], ids=["header", "record"])
def test_frames_of_strangers_with_far_times_erase_no_alarm(shift_ms: int, header: bool) -> None:
    rig = Rig(with_strangers(watched(100, lambda now_ms: now_ms, header=header), shift_ms, calm=False))

    rig.finish()

    assert "start" in kinds(rig)
    assert "end" not in kinds(rig)
    assert len(rig.scored_offsets()) >= 2 * (CALM_FRAMES + ODD_FRAMES) - 4
    assert sum(rig.counted("clock_faults_total", reason=reason) for reason in ("behind", "ahead")) >= ODD_FRAMES


def test_unbelieved_times_are_counted_by_reason() -> None:
    for name, reason, count in (("constant", "behind", 97), ("in seconds", "seconds", 120)):  # 2 s may pass until the first
        rig = Rig(watched(*CLOCKS[name]))
        rig.finish()
        assert rig.counted("clock_faults_total", reason=reason) == count


def test_pause_of_the_camera_still_starts_new_clips() -> None:
    own = watched(100, lambda now_ms: now_ms + (600_000 if now_ms >= BEGIN_MS + 5_000 else 0))
    late = [replace(each, timestamp_ms=each.timestamp_ms + (600_000 if each.offset >= 50 else 0)) for each in own]
    rig = Rig(late)

    rig.finish()

    assert set(range(2, 120)) - set(rig.scored_offsets()) == {50, 51}
    assert kinds(rig).count("start") == 2
    assert rig.counted("clock_faults_total", reason="ahead") == 0


@pytest.mark.parametrize("spec", [SPEC, RECURRENT], ids=["windows", "recurrent"])
@pytest.mark.parametrize("name", [*CLOCKS, "strangers"])
def test_restarts_believe_the_same_times(name: str, spec: object) -> None:
    sent = watched(*CLOCKS.get(name, (100, lambda now_ms: now_ms)))
    sent = with_strangers(sent, YEAR_MS, calm=True) if name == "strangers" else sent
    calm, troubled = Rig(sent, spec=spec), Rig(sent, max_clips=3, poll_messages=7, spec=spec)

    calm.finish()
    troubled.survive([3, 9, 11, 6], ["lost", "", "unanswered", ""])

    assert troubled.effects() == calm.effects()
    assert [fields["captured_at_ms"] for _, fields in troubled.store.scores] == [
        fields["captured_at_ms"] for _, fields in calm.store.scores
    ]
    assert troubled.counted("replayed_frames_total") > 0
