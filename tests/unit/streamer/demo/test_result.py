import io
from pathlib import Path

import pytest
from rich.console import Console

from streamer.demo.result import (
    AnomalyInterval,
    CameraFault,
    collect_events,
    fault_cells,
    learning_line,
    limit_lines,
    match_events,
    read_ground_truth,
    result_table,
    summary_line,
)
from streamer.redis.subscriber import HealthEntry, ScoreEntry
from streamer.types import Event

BEGIN_MS = 1_000_000
GATE = AnomalyInterval(camera_id="gate", kind="triple_speed", description="fast", start_s=8, end_s=12)
PATH = AnomalyInterval(camera_id="path", kind="covered", description="dark", start_s=9, end_s=14)


def entry(kind: str, event_id: str, camera_id: str, started_s: float, captured_s: float, peak: float = 3.0) -> Event:
    return Event.model_validate(
        {
            "event_id": event_id,
            "kind": kind,
            "camera_id": camera_id,
            "started_at_ms": BEGIN_MS + round(started_s * 1000),
            "captured_at_ms": BEGIN_MS + round(captured_s * 1000),
            "ended_at_ms": BEGIN_MS + round(captured_s * 1000) if kind == "end" else None,
            "peak_score": peak,
            "threshold": 2.0,
            "budget": 1.0,
            "observed_s": 600.0,
            "calibration_id": "c",
            "model_id": "m",
            "engine": "openvino",
            "topic": "frames",
            "partition": 0,
            "offset": 1,
            "scored_at_ms": 2,
        }
    )


def test_joins_entries_of_one_event() -> None:
    entries = [entry("start", "a", "gate", 8.2, 8.5, 2.5), entry("update", "a", "gate", 8.2, 10.5, 4.0)]

    events = collect_events([*entries, entry("end", "a", "gate", 8.2, 12.1, 4.5)])

    assert [(e.announced_at_ms - BEGIN_MS, e.ended_at_ms - BEGIN_MS, e.peak_score) for e in events] == [(8500, 12100, 4.5)]


def test_events_elsewhere_are_false() -> None:
    entries = [
        entry("start", "a", "gate", 8.2, 8.5),
        entry("end", "a", "gate", 8.2, 12.9),
        entry("start", "b", "gate", 15.0, 15.3),
        entry("start", "c", "yard", 9.0, 9.3),
    ]

    result = match_events((GATE, PATH), collect_events(entries), BEGIN_MS, tolerance_ms=1_000)

    assert result.detections[GATE] is not None
    assert result.detections[PATH] is None
    assert [(event.camera_id, event.started_at_ms - BEGIN_MS) for event in result.false_events] == [
        ("gate", 15_000),
        ("yard", 9_000),
    ]


def test_earlier_events_do_not_match() -> None:
    entries = [entry("start", "a", "gate", 6.0, 6.3), entry("end", "a", "gate", 6.0, 7.5)]

    assert match_events((GATE,), collect_events(entries), BEGIN_MS, tolerance_ms=1_000).detections[GATE] is None


def test_table_shows_every_result() -> None:
    entries = [entry("start", "a", "gate", 8.2, 8.5), entry("start", "b", "mast", 3.0, 3.3)]
    result = match_events((GATE, PATH), collect_events(entries), BEGIN_MS, tolerance_ms=1_000)
    console = Console(record=True, width=160, file=io.StringIO())

    console.print(result_table(result, ["gate", "path", "mast", "yard"], BEGIN_MS))
    rows = {line.split()[1]: line for line in console.export_text().splitlines() if line.startswith("│")}

    assert "found" in rows["gate"]
    assert "0.5 s" in rows["gate"]
    assert "MISSED" in rows["path"]
    assert "FALSE EVENT" in rows["mast"]
    assert "quiet" in rows["yard"]


def test_what_cannot_be_found_is_no_miss_and_says_why() -> None:
    against = GATE.model_copy(update={"description": "somebody goes against the others", "limit": "no directions"})
    console = Console(record=True, width=160, file=io.StringIO())
    missed, found = (
        match_events((against, PATH), collect_events(entries), BEGIN_MS, tolerance_ms=0)
        for entries in ([], [entry("start", "a", "gate", 8.2, 8.5)])
    )

    console.print(result_table(missed, ["gate", "path"], BEGIN_MS))
    rows = {line.split()[1]: line for line in console.export_text().splitlines() if line.startswith("│")}

    assert "cannot be found" in rows["gate"]
    assert "MISSED" in rows["path"]
    assert limit_lines(missed) == ["gate: somebody goes against the others, which cannot be found: no directions."]
    assert limit_lines(found) == []


def test_summary_counts_and_measures() -> None:
    result = match_events((GATE, PATH), collect_events([entry("start", "a", "gate", 8.2, 8.5)]), BEGIN_MS, tolerance_ms=0)
    scores = [ScoreEntry("gate", at_ms, 1.0, 2.0, at_ms + 80) for at_ms in range(0, 2_100, 100)]

    line = summary_line(result, scores, 4)

    assert line.startswith("1 of 2 anomalies found, 0 false events; 21 frames of 4 cameras scored at 10 frames/s, median 80 ms")


def test_says_when_a_camera_was_learned() -> None:
    learning = [ScoreEntry("street", BEGIN_MS + at_s * 1000, 1.0, 2.0, BEGIN_MS, learning=at_s / 60) for at_s in range(60)]
    watched = [ScoreEntry("street", BEGIN_MS + at_s * 1000, 1.0, 2.0, BEGIN_MS, "street-1") for at_s in range(60, 80)]

    assert learning_line("street", learning + watched, BEGIN_MS).endswith("has been on watch since second 60.")
    assert "still being learned" in learning_line("street", learning, BEGIN_MS)


def test_reads_the_shipped_ground_truth() -> None:
    truth = read_ground_truth(Path(__file__).parents[4] / "streamer" / "demo" / "data" / "stretches.json")

    assert {interval.camera_id for interval in truth.stretches} == {"plaza", "hall", "street"}
    assert [interval.kind for interval in truth.stretches if interval.limit] == ["wrong_way"]
    assert [(fault.camera_id, fault.problem) for fault in truth.health] == [("plaza", "covered")]


@pytest.mark.parametrize(
    ("entries", "outcome", "delay"),
    [
        ([("start", 40.0), ("end", 41.0), ("start", 50.5)], "told, still open", "2.5 s"),
        ([("start", 50.5), ("end", 52.0)], "told, then ended", "2.5 s"),
        ([("start", 40.0), ("end", 41.0)], "MISSED", ""),
    ],
)
def test_says_whether_a_fault_was_told(entries: list[tuple[str, float]], outcome: str, delay: str) -> None:
    fault = CameraFault(camera_id="gate", problem="covered", description="dark", start_s=48.0)
    told = [HealthEntry("gate", kind, "covered", "nothing to see", BEGIN_MS + round(at_s * 1000)) for kind, at_s in entries]
    other = HealthEntry("yard", "start", "covered", "nothing to see", BEGIN_MS + 49_000)

    cells = fault_cells(fault, [*told, other], BEGIN_MS)

    assert (cells[0], cells[2], str(cells[3]), cells[4]) == ("gate", "dark", outcome, delay)
