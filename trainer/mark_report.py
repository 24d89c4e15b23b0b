"""What marks changed, in a table and in words."""

from collections.abc import Iterable, Iterator, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from deploy.calibration import DEFAULT_BUDGET, Calibration, thresholds
from deploy.decision import DecisionTimes
from trainer.data.annotations import ANOMALY, NORMAL
from trainer.evaluation.result import rate
from trainer.marks import MarkChange, MarkedScore


def print_changes(screen: Console, changes: Sequence[MarkChange], before: Calibration | None, after: Calibration) -> None:
    """Print what became of marked events, of the thresholds, and of what they promise."""
    # Without a terminal, Rich would fit the table into 80 columns.
    screen.print(_table(changes), width=None if screen.is_terminal else 140, crop=False, markup=False, highlight=False)
    for line in _lines(changes, before, after):
        screen.print(line, markup=False, highlight=False)


def _table(changes: Iterable[MarkChange]) -> Table:
    """Each marked stretch with its highest score and the threshold."""
    table = Table(title="marked events", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in ("", "marked", "before", "now", ""):
        table.add_column(heading, overflow="fold")
    for change in changes:
        mark = ANOMALY if change.anomalous else NORMAL
        table.add_row(change.name, mark, _figures(change.before), _figures(change.after), _verdict(change))
    return table


def _figures(score: MarkedScore | None) -> str:
    return "-" if score is None else f"{score.peak:.3g} / {score.enter:.3g}{'' if score.is_event else ', no event'}"


def _verdict(change: MarkChange) -> str:
    if change.anomalous:
        return "LOST" if change.is_lost else "found" if change.after.is_event else "not found"
    was_event = change.before is None or change.before.is_event
    return "still an event" if change.after.is_event else "quiet now" if was_event else "quiet"


def _lines(changes: Sequence[MarkChange], before: Calibration | None, after: Calibration) -> Iterator[str]:
    if before is None or before == after:
        yield f"thresholds: {_promise(after)}" + ("" if before is None else "; marks do not change them")
    else:
        yield f"thresholds: {_promise(before)} before; now {_promise(after)}"
    if lost := sum(change.is_lost for change in changes):
        yield f"{lost} real events are found no more: what was called normal looks the same there; take a mark of these back"


def _promise(calibration: Calibration) -> str:
    limits = thresholds(calibration, DEFAULT_BUDGET, DecisionTimes())
    return f"enter {limits.enter:.3g}, at most {rate(limits.bound)} false events a day"
