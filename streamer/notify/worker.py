"""Works for one receiver: takes up what there is to tell, and sends it in order until it was taken."""

import math
import time
from collections import deque
from collections.abc import Callable, Collection
from datetime import datetime
from typing import Final, NamedTuple, Protocol

import structlog
from pydantic import ValidationError

from deploy.errors import first_line
from streamer.interfaces import DeliveryFailed, MessageRefused
from streamer.monitoring import NotifyMetrics
from streamer.notify.messages import Message, message_of, summary_message
from streamer.notify.notices import Notice, Problem, at_ms, concerns, is_due_ms, problem_of
from streamer.notify.policy import ReceiverState, is_quiet, judge, quiet_until_ms
from streamer.notify.senders.sender import Sender
from streamer.receivers import NotifySettings
from streamer.redis.lease import Lease
from streamer.redis.notices import StreamEntry, StreamName
from streamer.types import Event, read_event

log = structlog.get_logger("oddsight.notify")

_POLL_S: Final = 0.5
_COUNT_EVERY_S: Final = 5.0
_MOST_IN_HAND: Final = 1_000
"""Of entries that wait. Further ones stay in Redis, so that an outage of a receiver costs no memory."""
_PATIENCE_MS: Final = 5_000
"""How long something that belongs to a message is waited for."""


class Backoff(NamedTuple):
    """How long a failed delivery waits for the next attempt: twice as long each time."""

    first_s: float = 1.0
    most_s: float = 300.0

    def wait_s(self, attempts: int) -> float:
        """After so many failed attempts."""
        return min(self.most_s, self.first_s * 2.0 ** min(attempts - 1, 60))


class Notices(Protocol):
    """Where entries come from: :class:`streamer.redis.notices.RedisNotices`. Every method raises RedisUnavailable."""

    @property
    def handled(self) -> "Handled":
        """What people said of events."""

    def open(self) -> str | None:
        """Begin with what was not done; the stored state."""

    def poll(self, wait_s: float) -> list[StreamEntry]:
        """New entries, or those that were not done."""

    def unread(self) -> float:
        """How many events were not taken up by :meth:`poll` yet."""

    def done(self, entries: Collection[tuple[StreamName, str]], state: str | None = None) -> None:
        """These entries do not come again, and this is the state from now on."""


class Handled(Protocol):
    """The events that somebody has taken care of."""

    def poll(self) -> None:
        """Take up what is new."""

    def __contains__(self, event_id: object) -> bool: ...


class _Item(NamedTuple):
    """An entry that waits to be told."""

    where: tuple[StreamName, str]
    notice: Notice


class ReceiverWorker:
    """Works for one receiver while it holds the lease. Call :meth:`step` repeatedly."""

    def __init__(
        self,
        name: str,
        settings: NotifySettings,
        source: Notices,
        sender: Sender,
        lease: Lease,
        metrics: NotifyMetrics,
        *,
        backoff: Backoff,
        idle: Callable[[float], object],
        clock_s: Callable[[], float] = time.monotonic,
        wall_clock_s: Callable[[], float] = time.time,
    ) -> None:
        """``idle``: waits for a number of seconds, or until the process is to end."""
        self._name, self._settings, self._receiver = name, settings, settings.receivers[name]
        self._source, self._sender, self._lease, self._metrics = source, sender, lease, metrics
        self._backoff, self._idle, self._clock_s, self._wall_clock_s = backoff, idle, clock_s, wall_clock_s
        self._state, self._queue = ReceiverState(), deque[_Item]()
        self._term: int | None = None
        self._began_ms = 0.0
        self._sent = ""
        """Key of a message that was delivered, which Redis does not know yet."""
        self._attempts, self._retry_at_s, self._count_at_s = 0, 0.0, 0.0
        self.problem: str | None = None
        """Why the receiver cannot be told at the moment; None if it can."""

    def step(self) -> None:
        """Take up new entries, and tell what is due. Waits a moment if there is nothing to do.

        Raises:
            RedisUnavailable: call again later; nothing is forgotten, and nothing told twice.
        """
        if self._term != self._lease.term:
            self._state, self._queue, self._term = _parsed(self._source.open()), deque(), self._lease.term
            self._began_ms = self._wall_clock_s() * 1000
        if len(self._queue) < _MOST_IN_HAND:
            self._take(self._source.poll(self._patience_s()))
        else:
            self._idle(self._patience_s())
        while self._lease.is_held and self._clock_s() >= self._retry_at_s and self._tell_next():
            pass
        self._count()

    def rest(self) -> None:
        """Another process works for the receiver."""
        self.problem = None
        for gauge in (self._metrics.waiting, self._metrics.delay_s, self._metrics.unread):
            gauge.labels(self._name).set(0)

    def _count(self) -> None:
        due_ms = is_due_ms(self._receiver, self._queue[0].notice) if self._queue else math.inf
        self._metrics.waiting.labels(self._name).set(len(self._queue))
        self._metrics.delay_s.labels(self._name).set(max(0.0, self._wall_clock_s() - due_ms / 1000))
        if self._clock_s() >= self._count_at_s:
            self._count_at_s = self._clock_s() + _COUNT_EVERY_S
            self._metrics.unread.labels(self._name).set(self._source.unread())

    def _patience_s(self) -> float:
        return max(0.0, min(_POLL_S, self._retry_at_s - self._clock_s())) if self._attempts else _POLL_S

    def _take(self, entries: list[StreamEntry]) -> None:
        in_hand = {item.where for item in self._queue}
        unconcerned = []
        for stream, entry_id, fields in entries:
            notice = read_event(fields) if stream == "events" else problem_of(fields)
            if notice is None or not concerns(self._receiver, notice):
                unconcerned.append((stream, entry_id))
            elif (stream, entry_id) not in in_hand:
                self._queue.append(_Item((stream, entry_id), notice))
        if unconcerned:
            self._source.done(unconcerned)

    def _tell_next(self) -> bool:
        """Whether something was done, so that the next may be."""
        now = datetime.fromtimestamp(self._wall_clock_s(), self._settings.zone)
        if self._state.quiet is not None and not is_quiet(self._receiver, now):
            message = summary_message(self._state.quiet, self._settings)
            told = self._state.model_copy(update={"quiet": None})
            return self._deliver(message, quiet_until_ms(self._receiver, now), [], told)
        if not self._queue or is_due_ms(self._receiver, self._queue[0].notice) > now.timestamp() * 1000:
            return False
        item = self._queue[0]
        handled = self._handled_with(item)
        if handled:
            return self._finish(handled, self._state)
        verdict = judge(self._receiver, self._state, item.notice, now)
        if not verdict.is_told:
            return self._finish([item], verdict.state)
        message = message_of(item.notice, self._settings, verdict.more)
        if self._sender.lacks(message) and now.timestamp() * 1000 < at_ms(item.notice) + _PATIENCE_MS:
            return False
        return self._deliver(message, is_due_ms(self._receiver, item.notice), [item], verdict.state)

    def _handled_with(self, item: _Item) -> list[_Item]:
        """What need not be told, because somebody has taken care of it in time, or it is over; empty if this must be."""
        notice = item.notice
        if self._receiver.escalate_after_s is None:
            return []
        if isinstance(notice, Event):
            self._source.handled.poll()
            return [item] if notice.event_id in self._source.handled else []
        others = [each for each in self._queue if isinstance(each.notice, Problem) and each.notice.is_of == notice.is_of]
        return others if len(others) > 1 else []

    def _deliver(self, message: Message, since_ms: int, items: list[_Item], state: ReceiverState) -> bool:
        """Whether the message is done with: delivered, refused or given up."""
        if message.key != self._sent and not self._attempt(message, since_ms):
            return False
        self._sent = message.key
        return self._finish(items, state)

    def _attempt(self, message: Message, since_ms: int) -> bool:
        about = {"receiver": self._name, "key": message.key}
        try:
            self._sender.send(message)
        except MessageRefused as error:
            log.warning("a message was refused, and is not told", **about, error=first_line(error))
            outcome = "refused"
        except DeliveryFailed as error:
            self.problem = first_line(error)
            self._metrics.failures.labels(self._name).inc()
            if not self._is_too_old(since_ms):
                self._wait_longer(about)
                return False
            log.warning("a message was given up, and is not told", **about, error=self.problem)
            outcome = "given_up"
        else:
            log.info("told", **about)
            outcome = "told"
            self.problem = None
        self._attempts, self._retry_at_s = 0, 0.0
        self._metrics.notifications.labels(self._name, outcome).inc()
        return True

    def _is_too_old(self, since_ms: int) -> bool:
        tried_ms = self._wall_clock_s() * 1000 - max(since_ms, self._began_ms)
        return tried_ms >= self._receiver.give_up_after_s * 1000

    def _wait_longer(self, about: dict[str, str]) -> None:
        self._attempts += 1
        wait_s = self._backoff.wait_s(self._attempts)
        self._retry_at_s = self._clock_s() + wait_s
        log.warning("not told yet", **about, attempt=self._attempts, retry_in_s=round(wait_s, 1), error=self.problem)

    def _finish(self, items: list[_Item], state: ReceiverState) -> bool:
        text = None if state is self._state else state.model_dump_json()
        self._source.done([item.where for item in items], text)
        self._state = state
        for item in items:
            self._queue.remove(item)
        return True


def _parsed(text: str | None) -> ReceiverState:
    try:
        return ReceiverState() if text is None else ReceiverState.model_validate_json(text)
    except ValidationError as error:
        log.warning("what a receiver was told is damaged in Redis: it begins anew", error=first_line(error))
        return ReceiverState()
