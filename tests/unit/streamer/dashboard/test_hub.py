"""Messages reach all pages; a page that does not keep up is dropped, and nothing waits for it."""

import asyncio
import json
from contextlib import suppress
from typing import Any

from streamer.dashboard.hub import MAX_WAITING, Hub, Page, message


def taken(page: Page) -> list[Any]:
    """What waits for a page."""

    async def take() -> list[Any]:
        found: list[Any] = []
        with suppress(TimeoutError):
            async with asyncio.timeout(0.05):
                async for each in page.messages():
                    found += [json.loads(each.data)]
        return found

    return asyncio.run(take())


def test_a_hundred_pages_get_the_same_message_encoded_once() -> None:
    hub = Hub()
    pages = [hub.open_page(message("snapshot", 0)) for _ in range(100)]
    hub.publish("event", {"a": 1})
    queues = [page._waiting for page in pages]
    assert len({id(queue._queue[-1]) for queue in queues}) == 1  # type: ignore[attr-defined]  # the messages themselves
    assert {queue.qsize() for queue in queues} == {2}
    assert taken(pages[7]) == [0, {"a": 1}]


def test_a_page_that_does_not_keep_up_is_dropped_and_the_others_go_on() -> None:
    hub = Hub()
    slow, quick = hub.open_page(message("snapshot", 0)), hub.open_page(message("snapshot", 0))
    for number in range(MAX_WAITING + 5):
        hub.publish("tick", number)
        quick._waiting.get_nowait()
    assert slow.is_dropped
    assert not quick.is_dropped
    assert len(hub) == 1
    assert slow._waiting.qsize() == MAX_WAITING


def test_pages_end_with_the_server() -> None:
    hub = Hub()
    page = hub.open_page(message("snapshot", 0))
    hub.close()
    assert page.is_dropped
    assert len(taken(page)) <= 1
    assert len(hub) == 0
