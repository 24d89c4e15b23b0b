"""The demo's closing table: which edited stretches were found, how soon, and which events were false."""

from statistics import median

from rich.table import Table
from rich.text import Text

from streamer.feed import ScoreEntry
from streamer.stretches import Announced, Stretch, Verdict


def closing_table(verdict: Verdict, cameras: list[str], first_frame_ms: int) -> Table:
    """A row for each edited stretch and for each camera without one; false events in rows of their own."""
    table = Table(title="what was hidden in the footage, and what became of it", title_justify="left")
    for heading in ("camera", "edited", "what", "found", "delay", "peak score / threshold"):
        table.add_column(heading)
    for stretch, event in verdict.found.items():
        table.add_row(*_stretch_cells(stretch, event, first_frame_ms))
    untouched = sorted(set(cameras) - {stretch.camera_id for stretch in verdict.found})
    for camera_id in untouched:
        quiet = not any(event.camera_id == camera_id for event in verdict.false_events)
        table.add_row(camera_id, "never", "the control", Text("quiet", style="green") if quiet else "", "", "")
    for event in verdict.false_events:
        begin_s = (event.started_at_ms - first_frame_ms) / 1000
        table.add_row(event.camera_id, f"{begin_s:.1f} s", "nothing", Text("FALSE EVENT", style="yellow"), "", _peak(event))
    return table


def summary_line(verdict: Verdict, scores: list[ScoreEntry], n_cameras: int) -> str:
    """Found, false, frames scored, frames a second, and the time from capture to score."""
    found = sum(event is not None for event in verdict.found.values())
    seconds = (max(entry.scored_at_ms for entry in scores) - min(entry.scored_at_ms for entry in scores)) / 1000
    latency_ms = median(entry.scored_at_ms - entry.captured_at_ms for entry in scores)
    return (
        f"{found} of {len(verdict.found)} stretches found, {len(verdict.false_events)} false events; "
        f"{len(scores)} frames of {n_cameras} cameras scored at {len(scores) / seconds:.0f} frames/s, "
        f"median {latency_ms:.0f} ms from capture to score."
    )


def _stretch_cells(stretch: Stretch, event: Announced | None, first_frame_ms: int) -> tuple[str | Text, ...]:
    edited = f"{stretch.start_s:.0f} to {stretch.end_s:.0f} s"
    if event is None:
        return stretch.camera_id, edited, stretch.description, Text("MISSED", style="bold red"), "", ""
    delay_s = (event.announced_at_ms - first_frame_ms) / 1000 - stretch.start_s
    return stretch.camera_id, edited, stretch.description, Text("found", style="bold green"), f"{delay_s:.1f} s", _peak(event)


def _peak(event: Announced) -> str:
    return f"{event.peak_score:.2f} / {event.threshold:.2f}"
