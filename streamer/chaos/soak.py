"""``oddsight-stream chaos --minutes``: many cameras, faults and floods for long; is memory flat, and readiness true?

One more replica, the witness, is never harmed itself: its memory is measured from its start to the end.
"""

import os
import shutil
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from statistics import median
from typing import Any, Final, NamedTuple

from streamer.chaos.audit import Tally, first_problems
from streamer.chaos.auditor import Auditor
from streamer.chaos.faults import FAULTS, Fault, combined, partition_added
from streamer.chaos.results import Results
from streamer.chaos.run import OnProgress
from streamer.chaos.stack import Replica, Stack
from streamer.chaos.traffic import make_cameras
from streamer.interfaces import RedisUnavailable, StreamError
from streamer.kafka.client import silence_kafka_log

_FPS: Final = 4.0
_QUIET_S: Final = (5.0, 20.0)
"""Time between two faults."""
_FLOOD: Final = 10
"""Times that all hostile messages are sent in a flood."""
_CHECK_EVERY_S: Final = 300.0
_WARM_UP_SHARE: Final = 0.15
"""Share of the time after which the memory at the beginning is measured; buffers and caches are full then."""
_MOST_GROWTH: Final = 0.05
_LATE_MS: Final = 10_000
"""A camera is not watched if a frame that Kafka has had for so long has no score: a new partition is noticed that soon."""
_UNTRUE_AFTER_S: Final = 3
"""A service may say ready for so many seconds before it notices that it is not."""
_TIMEOUT_S: Final = 0.5


class Sample(NamedTuple):
    """One second."""

    witness_mb: float | None
    ready: bool
    """Whether all replicas said that they are ready."""
    late: str | None
    """A camera that was not watched."""


@dataclass(slots=True)
class SoakReport:
    """What came of it."""

    kafka: str
    seed: int
    minutes: float
    cameras: int
    faults: int = 0
    tally: Tally = field(default_factory=Tally)
    samples: list[Sample] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    folder: Path | None = None

    @property
    def memory_mb(self) -> tuple[float, float]:
        """Median of the witness at the beginning and at the end."""
        measured = [each.witness_mb for each in self.samples if each.witness_mb is not None]
        part = max(1, round(len(measured) * _WARM_UP_SHARE))
        begin, end = measured[part : 2 * part] or [0.0], measured[-part:] or [0.0]
        return median(begin), median(end)

    @property
    def untrue_s(self) -> int:
        """Seconds in which all replicas said ready, and had for a while, although a camera was not watched."""
        count = since = 0
        for sample in self.samples:
            since = since + 1 if sample.ready and sample.late is not None else 0
            count += since > _UNTRUE_AFTER_S
        return count

    @property
    def is_clean(self) -> bool:
        """Whether all is accounted for, memory is flat, and readiness was true."""
        begin, end = self.memory_mb
        tally = self.tally
        is_flat = abs(end - begin) <= _MOST_GROWTH * begin
        return is_flat and not (self.problems or tally.lost or tally.doubled or tally.wrong or self.untrue_s)

    def _by_minute(self) -> list[float]:
        measured = [sample.witness_mb for sample in self.samples if sample.witness_mb is not None]
        return [round(median(measured[first : first + 60]), 1) for first in range(0, len(measured), 60)]

    def values(self) -> dict[str, Any]:
        """The report as JSON."""
        begin, end = self.memory_mb
        return {
            "kafka": self.kafka,
            "seed": self.seed,
            "minutes": self.minutes,
            "cameras": self.cameras,
            "faults": self.faults,
            "events": self.tally.events,
            "lost": self.tally.lost,
            "doubled": self.tally.doubled,
            "wrong": self.tally.wrong,
            "memory_mb": {"begin": round(begin, 1), "end": round(end, 1), "by_minute": self._by_minute()},
            "sampled_s": len(self.samples),
            "ready_s": sum(sample.ready for sample in self.samples),
            "untrue_s": self.untrue_s,
            "late": sorted({sample.late for sample in self.samples if sample.late is not None}),
            "problems": first_problems(self.problems),
            "folder": None if self.folder is None else str(self.folder),
        }


def run_soak(minutes: float, cameras: int, seed: int, on_progress: OnProgress) -> SoakReport:
    """Run ``cameras`` cameras for ``minutes``, with faults at random.

    Raises:
        ConfigError, EmbeddedUnavailable, StreamError: as :func:`streamer.chaos.run.run_chaos`.
    """
    silence_kafka_log()
    home = os.environ.get("KAFKA_HOME")
    report = SoakReport("embedded" if home is None else "apache", seed, minutes, cameras)
    faults = _faults(has_apache=home is not None)
    folder = Path(tempfile.mkdtemp(prefix="oddsight-soak-"))
    try:
        stack = Stack(folder, Path(home) if home else None, "streamer.cli", make_cameras(cameras), _FPS)
        with stack.running(), closing(Auditor(stack)) as auditor, _witness(stack) as witness:
            _soak(stack, auditor, witness, faults, report, on_progress)
    finally:
        if report.samples and not report.is_clean:
            report.folder = folder
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return report


def _faults(*, has_apache: bool) -> list[Fault]:
    """All but the one with which the load grows, so that memory may be compared."""
    same_load = [fault for fault in FAULTS if fault.during is not partition_added and (has_apache or not fault.needs_apache)]
    return [*same_load, combined(same_load)]


@contextmanager
def _witness(stack: Stack) -> Iterator[Replica]:
    replica = stack.make_replica()
    replica.start()
    try:
        yield replica
    finally:
        replica.kill()


def _soak(
    stack: Stack, auditor: Auditor, witness: Replica, faults: Sequence[Fault], report: SoakReport, on_progress: OnProgress
) -> None:
    if not auditor.wait_on_watch(0):
        raise StreamError(f"the service did not score a frame of every camera within a minute; it printed: {witness.printed()}")
    rng = Random(report.seed)  # noqa: S311  which fault comes when is no secret
    begin_s = time.monotonic()
    check_at_s, until_s, total_s = begin_s + _CHECK_EVERY_S, begin_s + report.minutes * 60, round(report.minutes * 60)
    with _sampling(stack, witness, report):
        while (now_s := time.monotonic()) < until_s:
            fault = rng.choice(faults)
            on_progress(min(total_s, round(now_s - begin_s)), total_s, fault.name)
            _disturb(stack, fault, rng)
            report.faults += 1
            if not auditor.wait_on_watch(round(time.time() * 1000)):
                report.problems.append(f"{fault.name}: the service did not recover")
                break
            if time.monotonic() >= check_at_s:
                auditor.check()
                check_at_s = time.monotonic() + _CHECK_EVERY_S
            _rest(stack, rng)
    auditor.check()
    report.tally = auditor.tally
    report.problems += auditor.tally.problems
    if not witness.running:
        report.problems.append(f"the witness has ended; it printed: {witness.printed()}")
    on_progress(total_s, total_s, "done")


def _disturb(stack: Stack, fault: Fault, rng: Random) -> None:
    with fault.during(stack, rng):
        time.sleep(rng.uniform(*fault.hold_s))
    if rng.random() < 1 / _FLOOD:
        for _ in range(_FLOOD):
            stack.traffic.send_hostile(rng)


def _rest(stack: Stack, rng: Random) -> None:
    until_s = time.monotonic() + rng.uniform(*_QUIET_S)
    while time.monotonic() < until_s:
        stack.tend()
        time.sleep(0.2)


@contextmanager
def _sampling(stack: Stack, witness: Replica, report: SoakReport) -> Iterator[None]:
    """Take a sample a second, on a thread, until the block ends."""
    stopped = threading.Event()
    results = Results(stack.settings.redis)

    def sample() -> None:
        while not stopped.wait(1.0):
            report.samples.append(_sample(stack, witness, results))

    thread = threading.Thread(target=sample, name="samples", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
        results.close()


def _sample(stack: Stack, witness: Replica, results: Results) -> Sample:
    ready = all(_is_ready(replica) for replica in (witness, *stack.replicas))
    late = None
    if ready:
        with suppress(RedisUnavailable):  # then none will be ready in a moment
            late = _late_camera(stack, results)
    return Sample(_memory_mb(witness), ready, late)


def _late_camera(stack: Stack, results: Results) -> str | None:
    now_ms = time.time() * 1000
    for camera_id, stored in stack.traffic.stored().items():
        behind_ms = stored.newest_ms - max(stored.first_ms, results.newest_ms(camera_id))
        if behind_ms > _LATE_MS and now_ms - stored.acknowledged_ms < _LATE_MS:
            return camera_id
    return None


def _is_ready(replica: Replica) -> bool:
    if not replica.running:
        return False
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{replica.http_port}/readyz", timeout=_TIMEOUT_S) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _memory_mb(replica: Replica) -> float | None:
    """Resident memory; None if it cannot be read."""
    try:
        text = Path(f"/proc/{replica.pid}/status").read_text(encoding="ascii")
    except OSError:
        return None
    sizes = [line.split()[1] for line in text.splitlines() if line.startswith("VmRSS:")]
    return int(sizes[0]) / 1024 if sizes else None
