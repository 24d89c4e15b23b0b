"""Thins the frames of a camera that sends more than its quota.

A frame is too much only if both clocks say so, that of the camera and that of its records: one that stands still, or counts in
another unit, must not cost a camera its frames. Where both stand still or run backward, often because they are one, nothing is
too much. (Believed times, see :mod:`deploy.clock`, are of no use here: they are known only of frames that were decoded.)

What is kept follows from the camera's messages alone. So the same messages give the same frames whenever they are read, and a
replay after a restart rebuilds a clip and a state from exactly the frames that were looked at before.
"""

from dataclasses import dataclass, field
from typing import Final, NamedTuple

from streamer.types import QuotaUsed

_BURST_US: Final = 1_000_000
"""How far a camera may be ahead of its quota: frames that a network held up arrive together, and none of them is too much."""

_DISORDER_US: Final = 1_000_000
"""How far times may go back while a camera is at its quota; farther, and its clock was set back."""

_STANDING: Final = 3
"""So many messages in a row tell that the clocks stand still: fewer may lie out of order."""


class _Mark(NamedTuple):
    """The quota before and after a frame."""

    before: QuotaUsed
    after: QuotaUsed
    is_kept: bool


@dataclass(slots=True)
class CameraPace:
    """How far one camera has used up its quota: each frame that is kept uses an interval of it."""

    quota_used: QuotaUsed = field(default_factory=QuotaUsed)
    is_late: bool = False
    """Whether the newest frame had waited too long, see :mod:`streamer.pipeline.shedding`."""
    begins_anew: bool = False
    """Whether the next frame that is kept is the first behind such frames."""
    _marks: dict[int, _Mark] = field(default_factory=dict)
    """By offset; a replay may begin at any frame that was kept, and without one the quota goes on from the newest of all."""

    @property
    def newest(self) -> int:
        """Offset of the newest frame; -1 if none is known."""
        return next(reversed(self._marks), -1)

    def keeps(self, offset: int, captured_at_ms: int, received_ms: int | None, interval_us: int) -> bool:
        """Whether the camera's next frame is within its quota of one frame every ``interval_us``.

        A camera far above its quota keeps one frame an interval. Where a clock goes back, the quota begins anew. ``received_ms``:
        the record's own time, None if it is not known.
        """
        before, after = self.quota_used, _seen(self.quota_used, captured_at_ms, received_ms)
        captured_us, is_over = _use(before.captured_us, captured_at_ms, interval_us)
        received_us = before.received_us
        if received_ms is not None:
            received_us, is_received_over = _use(received_us, received_ms, interval_us)
            is_over = is_over and is_received_over
        is_kept = not is_over or after.standing == _STANDING
        self.quota_used = after._replace(captured_us=captured_us, received_us=received_us) if is_kept else after
        self._marks[offset] = _Mark(before, self.quota_used, is_kept)
        return is_kept

    def mark(self, replay_from: int | None, newest: int) -> QuotaUsed | None:
        """What ``quota_used`` must be for a replay from the kept frame ``replay_from``; None if that is not known.

        If it is None nothing is replayed, and the answer holds behind the frame ``newest``.
        """
        if replay_from is not None:
            mark = self._marks.get(replay_from)
            return None if mark is None else mark.before
        done = self._newest_until(newest)
        return None if done is None else self._marks[done].after

    def forget(self, replay_from: int | None, newest: int) -> None:
        """Drop the marks that no later call of :meth:`mark` with these or later offsets needs."""
        done = self._newest_until(newest)
        if done is None:
            return
        begin = done if replay_from is None else replay_from
        needed = {offset for offset, mark in self._marks.items() if offset >= begin and (mark.is_kept or offset > newest)}
        self._marks = {offset: mark for offset, mark in self._marks.items() if offset in needed or offset == done}

    def _newest_until(self, offset: int) -> int | None:
        return next((each for each in reversed(self._marks) if each <= offset), None)


def _seen(used: QuotaUsed, captured_at_ms: int, received_ms: int | None) -> QuotaUsed:
    """The quota when a message has come, and nothing is used up by it yet."""
    last_received_ms = used.last_received_ms if received_ms is None else received_ms
    goes_forward = captured_at_ms > used.last_captured_ms or last_received_ms > used.last_received_ms
    standing = 0 if goes_forward else min(used.standing + 1, _STANDING)
    return used._replace(last_captured_ms=captured_at_ms, last_received_ms=last_received_ms, standing=standing)


def _use(used_us: int, at_ms: int, interval_us: int) -> tuple[int, bool]:
    """By one clock, up to when the quota is used up after a frame at ``at_ms``, and whether that frame is too much."""
    at_us = at_ms * 1000
    ahead_us = used_us - at_us
    if ahead_us > _BURST_US + interval_us + _DISORDER_US:  # the clock was set back
        return at_us + interval_us, False
    # Limited, or a clock that stands still would in time look as if it was set back.
    return min(max(used_us, at_us), at_us + _BURST_US) + interval_us, ahead_us > _BURST_US
