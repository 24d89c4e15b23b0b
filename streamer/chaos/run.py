"""``oddsight-stream chaos``: puts a throw-away stack through faults in random order, and tells what was lost or doubled."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

from rich.table import Table

from deploy.errors import ConfigError
from streamer.chaos.audit import Tally, first_problems
from streamer.chaos.auditor import Auditor
from streamer.chaos.faults import COMBINED, FAULTS, Fault, combined
from streamer.chaos.stack import Stack
from streamer.interfaces import StreamError
from streamer.kafka.client import silence_kafka_log

_SELF_CHECK_FAULT, _SELF_CHECK_REPEATS = "replica stopped", 20
_PAUSE_S = (0.2, 1.5)
"""How long all runs undisturbed before the next fault."""

OnProgress = Callable[[int, int, str], None]
"""Called with the number of faults that are over, of all faults, and the name of the present one."""


@dataclass(slots=True)
class Row:
    """The results of one kind of fault."""

    fault: str
    repeats: int = 0
    events: int = 0
    lost: int = 0
    doubled: int = 0
    wrong: int = 0
    recovered_s: list[float] = field(default_factory=list)
    """Of each repeat, from the fault's end until every camera has a score of a newer frame."""

    def add(self, tally: Tally, recovered_s: float | None) -> None:
        """One more repeat; ``recovered_s`` is None if the service did not recover."""
        self.repeats += 1
        self.events += tally.events
        self.lost += tally.lost
        self.doubled += tally.doubled
        self.wrong += tally.wrong
        self.recovered_s += [] if recovered_s is None else [recovered_s]

    def values(self) -> dict[str, Any]:
        """The row as it is printed, with the median time of recovery."""
        recovered_s = round(median(self.recovered_s), 1) if self.recovered_s else None
        return {
            "fault": self.fault,
            "repeats": self.repeats,
            "events": self.events,
            "lost": self.lost,
            "doubled": self.doubled,
            "wrong": self.wrong,
            "recovered_s": recovered_s,
        }


@dataclass(slots=True)
class Report:
    """What came of a run."""

    kafka: str
    """``apache`` or ``embedded``."""
    seed: int
    fenced: bool
    """False if the replicas ran without the fence, to see that it is missed."""
    rows: list[Row]
    skipped: list[str] = field(default_factory=list)
    """Faults that the embedded broker cannot do."""
    problems: list[str] = field(default_factory=list)
    folder: Path | None = None
    """Where the logs are, if something was found."""
    interrupted: bool = False
    """Whether Ctrl-C ended it; the faults before it count."""

    @property
    def is_clean(self) -> bool:
        """Whether nothing was lost, doubled or wrong, also before the first fault, and the service recovered each time."""
        return not self.problems and all(not (row.lost or row.doubled or row.wrong) for row in self.rows)

    @property
    def is_as_expected(self) -> bool:
        """Whether nothing was found; without the fence, whether doublings were."""
        return self.is_clean if self.fenced else any(row.doubled for row in self.rows)

    def lines(self) -> list[str]:
        """What is to be said besides the rows."""
        lines = [f"skipped, because they need Apache Kafka in KAFKA_HOME: {', '.join(self.skipped)}"] if self.skipped else []
        lines += first_problems(self.problems)
        if self.folder is not None:
            lines.append(f"logs and settings are in {self.folder}")
        if not self.fenced:
            found = "were found, as they must be" if self.is_as_expected else "must be found, and were not"
            lines.append(f"self-check: the replicas ran without the fence, and doublings {found}")
        return lines

    def values(self) -> dict[str, Any]:
        """The report as JSON."""
        return {
            "kafka": self.kafka,
            "seed": self.seed,
            "fenced": self.fenced,
            "faults": sum(row.repeats for row in self.rows),
            "rows": [row.values() for row in self.rows],
            "skipped": self.skipped,
            "problems": first_problems(self.problems),
            "folder": None if self.folder is None else str(self.folder),
            "interrupted": self.interrupted,
        }


def run_chaos(names: Sequence[str], repeats: int, seed: int, on_progress: OnProgress, *, self_check: bool = False) -> Report:
    """Run each named fault ``repeats`` times, in random order; no names: all of them, and some combined at random.

    With ``self_check`` the replicas run without the fence, and are stopped for longer than their session until that doubles
    frames, at most twenty times.

    Raises:
        ConfigError: there is no fault of a name, or the embedded broker cannot do it.
        EmbeddedUnavailable: Kafka or Redis is not installed or does not start.
        StreamError: the service does not start.
    """
    silence_kafka_log()
    home = os.environ.get("KAFKA_HOME")
    if self_check:
        names, repeats = [_SELF_CHECK_FAULT], _SELF_CHECK_REPEATS
    faults, skipped = choose_faults(names, has_apache=home is not None)
    folder = Path(tempfile.mkdtemp(prefix="oddsight-chaos-"))
    rows = [Row(fault.name) for fault in faults]
    report = Report("embedded" if home is None else "apache", seed, not self_check, rows, skipped)
    keep = False
    try:
        stack = Stack(folder, Path(home) if home else None, "streamer.chaos.unfenced" if self_check else "streamer.cli")
        with stack.running(), closing(Auditor(stack)) as auditor:
            try:
                _run_all(stack, auditor, faults, repeats, report, on_progress)
            except KeyboardInterrupt:
                report.interrupted = True
        keep = not report.is_as_expected and not report.interrupted
    finally:
        if keep:
            report.folder = folder
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return report


def choose_faults(names: Sequence[str], *, has_apache: bool) -> tuple[list[Fault], list[str]]:
    """The faults to run, and the names of those that the broker cannot do."""
    possible = [fault for fault in FAULTS if has_apache or not fault.needs_apache]
    by_name = {fault.name: fault for fault in (*possible, combined(possible))}
    known = [fault.name for fault in FAULTS] + [COMBINED]
    for name in names:
        if name not in known:
            raise ConfigError(f"--fault must be one of {', '.join(known)}; got {name!r}")
        if name not in by_name:
            raise ConfigError(f"--fault {name!r} needs Apache Kafka: let KAFKA_HOME name the folder of an installation")
    chosen = list(dict.fromkeys(names or known))
    return [by_name[name] for name in chosen if name in by_name], [name for name in chosen if name not in by_name]


def report_table(report: Report) -> Table:
    """The rows for people."""
    table = Table(title=f"{sum(row.repeats for row in report.rows)} faults, seed {report.seed}, {report.kafka} Kafka")
    table.add_column("fault", no_wrap=True)
    for name in ("repeats", "events", "lost", "doubled", "wrong", "recovered in s"):
        table.add_column(name, justify="right")
    for row in report.rows:
        table.add_row(*("-" if value is None else str(value) for value in row.values().values()))
    return table


def _run_all(
    stack: Stack, auditor: Auditor, faults: Sequence[Fault], repeats: int, report: Report, on_progress: OnProgress
) -> None:
    rng, rows = Random(report.seed), {row.fault: row for row in report.rows}  # noqa: S311  which fault comes when is no secret
    plan = rng.sample([*faults] * repeats, len(faults) * repeats)
    on_progress(0, len(plan), "starting")
    if not auditor.wait_on_watch(0):
        printed = stack.replicas[0].printed()
        raise StreamError(
            f"the service did not score a frame of every camera within a minute of its start; it printed: {printed}"
        )
    report.problems += auditor.check().problems
    for done, fault in enumerate(plan):
        on_progress(done, len(plan), fault.name)
        recovered_s, tally = _run_one(stack, auditor, fault, rng)
        rows[fault.name].add(tally, recovered_s)
        report.problems += [f"{fault.name}: {problem}" for problem in tally.problems]
        if recovered_s is None:
            report.problems.append(f"{fault.name}: the service did not recover")
            break
        if not report.fenced and tally.doubled:
            break
    on_progress(len(plan), len(plan), "done")


def _run_one(stack: Stack, auditor: Auditor, fault: Fault, rng: Random) -> tuple[float | None, Tally]:
    """Run one fault; the time of recovery, None if there was none, and what it left behind."""
    time.sleep(rng.uniform(*_PAUSE_S))
    with fault.during(stack, rng):
        time.sleep(rng.uniform(*fault.hold_s))
    ended_s, ended_ms = time.monotonic(), round(time.time() * 1000)
    has_recovered = auditor.wait_on_watch(ended_ms)
    recovered_s = time.monotonic() - ended_s if has_recovered else None
    tally = auditor.check()
    stack.traffic.retire_added()
    return recovered_s, tally
