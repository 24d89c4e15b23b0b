"""The times at which a camera's frames are believed to be captured.

A camera's clock may stand still, run backward, jump, or count seconds instead of milliseconds, and strangers may send frames
under its name. Every rule on events, clips and health goes by time, so none of that may reach them. A claimed time is believed if
it follows those before it. Otherwise the times of receipt tell how much time has passed, and where they are not known or do not
keep pace with the camera (recorded footage is sent faster), its usual interval does. A jump that both show is a pause of the
camera. A clock that was set is followed from the believed time on, and taken at its word once it has run soundly for long.

All of it follows from the frames alone, never from the time at which they are read: a frame read again gets the same time.
"""

from typing import Final, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

ClockFault = Literal["seconds", "behind", "ahead"]
"""Why a claimed time is not taken as it is: it counts ``seconds``; it stands still, runs backward or too slowly (``behind``); or
it jumps forward while no such time has passed (``ahead``)."""

GAP_INTERVALS: Final = 3
"""Two frames of a camera belong together if no more than so many of its usual intervals lie between them."""

_SECONDS: Final = range(10**9, 10**11)
"""Claimed times that count seconds: as such they lie after 2001, as milliseconds before 1974."""
_MOST_BEHIND_MS: Final = 2_000  # that is waited for: many clocks count whole seconds only
_STEPS: Final = 7  # whose median is the usual interval
_LEAST_SHARE: Final = 10  # a tenth of the usual interval, or of that of the receipts: less is no step of the camera's clock
_FASTEST: Final = 10  # times the rate of the training footage: more is a burst, of which nothing is learned
_FOLLOW_AFTER: Final = 3  # claims in a row that follow each other: then the clock was set
_TRUSTED_AFTER: Final = 30  # frames without a fault: then a pause is believed that no time of receipt contradicts
_SETTLED_AFTER: Final = 600  # frames without a fault: then a clock that was set is taken at its word
_RECEIPTS: Final = 16  # that the mean time between receipts is taken of


class ClockRule(NamedTuple):
    """What is the same for all cameras."""

    jump_ms: int
    """Longer steps of a camera's clock are compared with the times of receipt: they break clips, or end events."""
    interval_ms: int
    """Of the training footage: a camera's usual interval until its own is known."""


class ClockState(BaseModel):
    """What is stored of a camera's clock between two frames. Its field names are part of the format in Redis."""

    model_config = ConfigDict(frozen=True)

    believed_ms: int
    """Capture time of the newest frame."""
    claimed_ms: int
    """What the camera's clock shows then, if it runs on as before its last fault."""
    received_ms: int | None
    """The time of receipt that belongs to it; None if none was known yet."""
    last_ms: int
    """What the camera claimed for the newest frame."""
    interval_ms: int
    """Its usual time between two frames."""
    receipt_ms: float | None = None
    """Mean time between two receipts; None if it is not known yet."""
    steps_ms: tuple[int, ...] = Field(default=(), max_length=_STEPS)
    """The last intervals of which one clock or the other told."""
    sound: int = _TRUSTED_AFTER
    """Number of frames without a fault since the last one with a fault, up to the most that matters."""
    consistent: int = 0
    """Number of claims in a row that are not believed, but follow each other."""
    waited: int = 0
    """Number of frames in a row for which the camera's clock stood, or lay a little behind."""


class Tick(NamedTuple):
    """A frame's place on the timeline of its camera."""

    before: ClockState | None
    after: ClockState
    fault: ClockFault | None


def gap_limit_ms(max_gap_ms: int, interval_ms: int) -> int:
    """How far two frames of a camera with this usual interval may be apart to belong together."""
    return max(max_gap_ms, GAP_INTERVALS * interval_ms)


def in_ms(claimed_ms: int) -> int:
    """A claimed time in milliseconds, also if it counts seconds."""
    return claimed_ms * 1000 if claimed_ms in _SECONDS else claimed_ms


def tick(rule: ClockRule, before: ClockState | None, claimed_ms: int, received_ms: int | None) -> Tick:
    """A camera's next frame.

    ``claimed_ms``: when the camera says it captured it; ``received_ms``: the time of its record, None if that is not known or is
    what the camera says. Believed times increase, except that a clock that was set back is taken at its word in the end.
    """
    in_seconds = claimed_ms in _SECONDS
    claimed_ms = in_ms(claimed_ms)
    after, fault = _start(rule, claimed_ms, received_ms), None
    if before is not None:
        after, fault = _read(rule, before, claimed_ms, received_ms).judge()
    return Tick(before, after, "seconds" if in_seconds else fault)


def _start(rule: ClockRule, claimed_ms: int, received_ms: int | None) -> ClockState:
    return ClockState(
        believed_ms=claimed_ms,
        claimed_ms=claimed_ms,
        received_ms=received_ms,
        last_ms=claimed_ms,
        interval_ms=rule.interval_ms,
    )


class _Reading(NamedTuple):
    """What both clocks show for a frame, and how much time has passed by each of them since the one before."""

    rule: ClockRule
    before: ClockState
    claimed_ms: int
    received_ms: int | None
    passed_ms: int
    """By the camera's clock."""
    receipt_ms: int | None
    """By the times of receipt."""
    is_witnessed: bool
    """Whether the times of receipt run forward, and keep pace with the camera."""
    least_ms: int
    """Less is no step of the camera's clock."""
    jump_ms: int
    """See :class:`ClockRule`."""

    def judge(self) -> tuple[ClockState, ClockFault | None]:
        if self._is_plausible():
            return self._believe(), None
        if _is_waited_for(self.passed_ms, self.before) and self.passed_ms < self.least_ms:
            return self._wait(), None
        step_ms = self.claimed_ms - self.before.last_ms
        consistent = self.before.consistent + 1 if self.least_ms <= step_ms <= self.jump_ms else 0
        if consistent == _FOLLOW_AFTER:
            return self._follow(step_ms), None
        return self._fill(consistent), "ahead" if self.passed_ms > 0 else "behind"

    def _is_plausible(self) -> bool:
        if self.passed_ms <= self.jump_ms:
            return self.passed_ms >= self.least_ms
        if self.receipt_ms is None or not self.is_witnessed:
            return self.before.sound >= _TRUSTED_AFTER
        return abs(self.passed_ms - self.receipt_ms) <= max(self.jump_ms, self.passed_ms // 4)

    def _believe(self) -> ClockState:
        before, step_ms = self.before, self.passed_ms
        believed_ms, sound = before.believed_ms + step_ms, min(before.sound + 1, _SETTLED_AFTER)
        if sound == _SETTLED_AFTER:
            believed_ms = self.claimed_ms
        if before.waited:  # the step is that of all the frames for which the camera's clock stood
            step_ms = max(1, self.claimed_ms - before.last_ms) // (before.waited + 1)
        return self._advanced(believed_ms, self.claimed_ms, self.received_ms, step_ms, sound=sound)

    def _wait(self) -> ClockState:
        """Go on a little more slowly than frames come, so that the camera's clock catches up."""
        before, passed_ms = self.before, max(1, self._unseen_ms() * 15 // 16)
        claimed_ms, sound = before.claimed_ms + passed_ms, min(before.sound + 1, _SETTLED_AFTER)
        after = self._advanced(before.believed_ms + passed_ms, claimed_ms, self.received_ms, sound=sound)
        return after.model_copy(update={"waited": before.waited + 1})

    def _follow(self, step_ms: int) -> ClockState:
        """Go on by the camera's clock as it runs now."""
        believed_ms = self.before.believed_ms + step_ms
        is_near = -_MOST_BEHIND_MS <= self.claimed_ms - believed_ms <= self.jump_ms
        return self._advanced(believed_ms, believed_ms if is_near else self.claimed_ms, self.received_ms, step_ms, sound=1)

    def _fill(self, consistent: int) -> ClockState:
        """Go on without the camera's clock."""
        before, passed_ms, received_ms = self.before, self._unseen_ms(), self.received_ms
        if self.is_witnessed and before.received_ms is not None:
            received_ms = before.received_ms + passed_ms
        else:  # a stranger's frame may lie between two of the camera: two such steps must not exceed the camera's own
            passed_ms = max(1, passed_ms * 3 // 4)
        step_ms = passed_ms if self.is_witnessed else None
        after = self._advanced(before.believed_ms + passed_ms, before.claimed_ms + passed_ms, received_ms, step_ms, sound=0)
        return after.model_copy(update={"consistent": consistent})

    def _unseen_ms(self) -> int:
        """How much time has passed without the camera's clock."""
        if self.receipt_ms is None or not self.is_witnessed:
            return self.before.interval_ms
        return max(self.least_ms, self.receipt_ms)

    def _advanced(
        self, believed_ms: int, claimed_ms: int, received_ms: int | None, step_ms: int | None = None, *, sound: int
    ) -> ClockState:
        before = self.before
        if received_ms is None and before.received_ms is not None:
            received_ms = before.received_ms + believed_ms - before.believed_ms
        steps_ms = before.steps_ms if step_ms is None else (*before.steps_ms, step_ms)[-_STEPS:]
        return ClockState(
            believed_ms=believed_ms,
            claimed_ms=claimed_ms,
            received_ms=received_ms,
            last_ms=self.claimed_ms,
            interval_ms=_usual_ms(steps_ms, self.rule.interval_ms),
            receipt_ms=self._mean_receipt_ms(),
            steps_ms=steps_ms,
            sound=sound,
        )

    def _mean_receipt_ms(self) -> float | None:
        mean_ms = self.before.receipt_ms
        if self.receipt_ms is None:
            return mean_ms
        if not _is_waited_for(self.receipt_ms, self.before):
            return 0.0  # a clock as odd as any: no witness until it has run forward for some frames
        step_ms = min(max(self.receipt_ms, 0), self.jump_ms)  # a pause says nothing of the others
        return float(step_ms) if mean_ms is None else round(mean_ms + (step_ms - mean_ms) / _RECEIPTS, 2)


def _read(rule: ClockRule, before: ClockState, claimed_ms: int, received_ms: int | None) -> _Reading:
    receipt_ms = None if received_ms is None or before.received_ms is None else received_ms - before.received_ms
    return _Reading(
        rule,
        before,
        claimed_ms,
        received_ms,
        claimed_ms - before.claimed_ms,
        receipt_ms,
        receipt_ms is not None and _is_waited_for(receipt_ms, before) and _keeps_pace(before),
        max(1, int(max(before.interval_ms, before.receipt_ms or 0)) // _LEAST_SHARE),
        gap_limit_ms(rule.jump_ms, before.interval_ms),
    )


def _usual_ms(steps_ms: tuple[int, ...], without_ms: int) -> int:
    """The median interval; ``without_ms`` stands for those that are not known yet."""
    known = sorted((*steps_ms, *(without_ms,) * (_STEPS - len(steps_ms))))
    return max(1, without_ms // _FASTEST, known[_STEPS // 2])


def _keeps_pace(before: ClockState) -> bool:
    """Whether frames are received about as fast as they are captured."""
    if before.receipt_ms is None or len(before.steps_ms) < _STEPS:
        return True
    return before.receipt_ms >= before.interval_ms / 2


def _is_waited_for(passed_ms: int, before: ClockState) -> bool:
    """Whether a clock that stands or lies behind does so by little."""
    return passed_ms >= -gap_limit_ms(_MOST_BEHIND_MS, before.interval_ms)
