"""What pages are told of what the feed reads."""

import asyncio
import json

import pytest

from streamer.dashboard.board import Batch
from streamer.dashboard.live import Live
from streamer.redis.subscriber import Updates
from tests.harness.dashboard import FakeRedis, event_of, mark_of, score_of


@pytest.fixture
def live() -> Live:
    fake = FakeRedis()
    return Live(lambda: fake, fake, fake)  # type: ignore[arg-type,return-value]  # it has their methods


def told(live: Live, *batches: Batch) -> list[tuple[str, object]]:
    """The messages that an open page gets after its snapshot."""
    page = live.hub.open_page(live.snapshot())
    for batch in batches:
        live._take(batch)
    found = [page._waiting.get_nowait() for _ in range(page._waiting.qsize())]
    return [(str(each.event), json.loads(str(each.data))) for each in found[1:]]


def test_an_event_and_its_camera_are_told(live: Live) -> None:
    (event, row), (cameras, rows) = told(live, Batch(Updates([], [event_of(1)])))
    assert (event, row["open"]) == ("event", True)  # type: ignore[index]  # a row
    assert (cameras, rows[0]["alarm"]) == ("cameras", f"{1:016x}")  # type: ignore[index]  # rows
    assert "recent" not in rows[0]  # type: ignore[index]  # likewise


def test_a_mark_is_told_as_the_event(live: Live) -> None:
    messages = told(live, Batch(Updates([], [event_of(1)])), Batch(marks=[mark_of(1, "normal")]))
    assert [row["verdict"]["kind"] for name, row in messages[2:] if name == "event"] == ["normal"]  # type: ignore[index]  # rows


def test_what_was_written_before_is_not_told_one_by_one(live: Live) -> None:
    assert told(live, Batch(Updates([], [event_of(number) for number in range(1000)]), is_past=True)) == []


def test_many_events_at_once_are_told_by_another_snapshot(live: Live) -> None:
    events = [event_of(number, camera_id=f"camera {number}") for number in range(100)]
    ((name, content),) = told(live, Batch(Updates([], events)))
    assert name == "snapshot"
    assert len(content["events"]) == 100  # type: ignore[index,call-overload]  # a snapshot


def test_scores_are_told_twice_a_second_however_many_come(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamer.dashboard.live.SCORES_EVERY_S", 0.01)
    live.board.apply(Batch(Updates([score_of("gate", number) for number in range(50)], [])))
    page = live.hub.open_page(live.snapshot())

    async def publish() -> None:
        task = asyncio.create_task(live._publish_scores())
        await asyncio.sleep(0.1)
        task.cancel()

    asyncio.run(publish())
    names = [str(page._waiting.get_nowait().event) for _ in range(page._waiting.qsize())]
    assert names.count("scores") == 1
    assert names.count("tick") >= 1


def test_pages_learn_that_redis_is_away_and_get_all_anew_when_it_is_back(live: Live) -> None:
    page = live.hub.open_page(live.snapshot())
    for problem in (None, "gone", "gone", None):
        live._set_link(problem)
    names = [str(page._waiting.get_nowait().event) for _ in range(page._waiting.qsize())]
    assert names == ["snapshot", "link", "snapshot", "link", "link", "snapshot"]
