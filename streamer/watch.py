"""``oddsight-stream watch``: the terminal view of whatever writes to Redis."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live

from streamer.config import RedisSettings
from streamer.events import Event
from streamer.feed import Feed
from streamer.redis_link import check_redis, make_redis
from streamer.view import Board, event_line

_LOOK_EVERY_S = 0.2


def watch(settings: RedisSettings, console: Console, stop: threading.Event) -> None:
    """Show what comes from now on, until ``stop`` is set.

    Raises:
        RedisUnavailable: says what to check.
    """
    board = Board()
    with make_redis(settings) as client, show_board(console, board) as show:
        check_redis(client)
        feed = Feed(client, settings, from_start=False)
        while not stop.is_set():
            news = feed.poll(_LOOK_EVERY_S)
            board.take(news)
            show(news.events)


@contextmanager
def show_board(console: Console, board: Board) -> Iterator[Callable[[list[Event]], None]]:
    """A function to call after each look: refreshes a live view on a terminal, elsewhere prints a line an event entry."""

    def print_lines(events: list[Event]) -> None:
        for event in events:
            console.print(event_line(event), markup=False, soft_wrap=True)

    if not console.is_terminal:
        yield print_lines
        return
    with Live(console=console, auto_refresh=False, get_renderable=board.render) as live:
        yield lambda _events: live.refresh()
