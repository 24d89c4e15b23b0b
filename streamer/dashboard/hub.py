"""Hands changes out to all open pages: each is encoded once, and a page that does not keep up is dropped."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

from pydantic import TypeAdapter
from sse_starlette import ServerSentEvent

MAX_WAITING: Final = 200
"""Messages that wait for one page, about half a minute's. A page that is dropped connects again and gets all anew."""
_JSON: Final = TypeAdapter(Any)


def message(name: str, content: Any) -> ServerSentEvent:
    """A message to pages; ``content`` becomes JSON."""
    return ServerSentEvent(_JSON.dump_json(content).decode(), event=name)


class Page:
    """One open page, and what waits to be sent to it."""

    def __init__(self) -> None:
        self._waiting: asyncio.Queue[ServerSentEvent] = asyncio.Queue(MAX_WAITING)
        self.is_dropped = False

    def put(self, new: ServerSentEvent) -> None:
        """Have a message sent, or the page dropped if too many wait."""
        try:
            self._waiting.put_nowait(new)
        except asyncio.QueueFull:
            self.is_dropped = True

    async def messages(self) -> AsyncIterator[ServerSentEvent]:
        """What is to be sent, until the page is dropped."""
        while not self.is_dropped:
            yield await self._waiting.get()


class Hub:
    """All open pages. Its methods are called from the event loop only."""

    def __init__(self) -> None:
        self._pages: set[Page] = set()

    def __len__(self) -> int:
        return len(self._pages)

    def open_page(self, first: ServerSentEvent) -> Page:
        """A page that gets ``first`` and all that is published from now on."""
        page = Page()
        page.put(first)
        self._pages.add(page)
        return page

    def close_page(self, page: Page) -> None:
        self._pages.discard(page)

    def publish(self, name: str, content: Any) -> None:
        """Send one message to all pages."""
        if not self._pages:
            return
        new = message(name, content)
        for page in list(self._pages):
            page.put(new)
            if page.is_dropped:
                self._pages.discard(page)

    def close(self) -> None:
        """Drop all pages, because the server ends."""
        for page in self._pages:
            page.is_dropped = True
            page.put(message("bye", None))
        self._pages.clear()
