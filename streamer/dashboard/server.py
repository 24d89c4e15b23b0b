"""``oddsight-stream dashboard``: the server of the web page and of its API."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

import structlog
import uvicorn

from deploy.errors import ConfigError
from streamer.config import DashboardSettings, Settings
from streamer.dashboard.access import Access
from streamer.dashboard.app import make_app
from streamer.dashboard.evidence import EvidenceReader
from streamer.dashboard.live import Live
from streamer.dashboard.middleware import LOOPBACK
from streamer.dashboard.oidc import Provider
from streamer.dashboard.parts import Parts
from streamer.dashboard.users import UserList, read_users
from streamer.evidence.store import open_files
from streamer.http_server import listen
from streamer.redis.areas import RedisAreaStore
from streamer.redis.client import RedisProgressStore, make_redis
from streamer.redis.operators import OperatorStore
from streamer.redis.overview import OverviewReader
from streamer.redis.subscriber import Subscriber
from streamer.sign_in import OidcSettings, check_sign_in

log = structlog.get_logger("oddsight.dashboard")

_BACKLOG = 1_024
_MAX_CONNECTIONS = 900
"""Most processes may have 1024 files open."""
_CLOSE_S = 3
_STORE_TIMEOUT_S = 5.0
"""Somebody waits for the page."""


def run_dashboard(settings: Settings, stop: threading.Event) -> None:
    """Serve the dashboard until ``stop`` is set. Redis may be away, at start too: the page says so.

    Raises ConfigError if the address cannot be listened on, may not be without users, or the file of users cannot be used.
    """
    users, own = _users(settings.dashboard), settings.dashboard
    files = open_files(settings.evidence, timeout_s=_STORE_TIMEOUT_S, retries=0)
    provider = None if own.oidc is None else _provider(own.oidc)
    with make_redis(settings.redis) as client, closing(listen(own.host, own.port, "dashboard")) as listener:
        operators, status = OperatorStore(client, settings.redis), OverviewReader(client, settings.redis)
        live = Live(lambda: Subscriber(client, settings.redis, from_start=False), operators, status)
        areas = RedisAreaStore(client, settings.redis)
        progress = RedisProgressStore(client, settings.redis, settings.kafka.consumer_group)
        access = Access(users, operators, round(own.session_hours * 3600), own.oidc)
        evidence = EvidenceReader(files)
        app = make_app(Parts(settings, live, operators, status, access, evidence, areas, progress, provider))
        host, port = listener.getsockname()[:2]
        log.info("dashboard", address=f"http://{f'[{host}]' if ':' in host else host}:{port}/", users=access.has_users)
        asyncio.run(_serve(_Server(_uvicorn_config(app)), live, listener, stop))


class _Server(uvicorn.Server):
    """Leaves signals to the command, as all commands do."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _uvicorn_config(app: object) -> uvicorn.Config:
    return uvicorn.Config(
        app,  # type: ignore[arg-type]  # FastAPI is one
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=_MAX_CONNECTIONS,
        timeout_graceful_shutdown=_CLOSE_S,
        backlog=_BACKLOG,
        ws="none",
    )


async def _serve(server: _Server, live: Live, listener: socket.socket, stop: threading.Event) -> None:
    serve = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        while not stop.is_set() and not serve.done():
            await asyncio.sleep(0.1)
    finally:
        live.hub.close()  # open pages would keep the server waiting
        server.should_exit = True
        await serve


def _users(settings: DashboardSettings) -> UserList | None:
    if settings.users is not None:
        if not read_users(settings.users):
            raise ConfigError(f"dashboard.users: {settings.users} has no users; oddsight-stream users add NAME --role admin")
        return UserList(settings.users)
    if settings.oidc is None and settings.host not in LOOPBACK:
        raise ConfigError(
            f"dashboard.host: without users everybody may do everything, so it must be one of {', '.join(sorted(LOOPBACK))}, "
            f"got {settings.host!r}; set dashboard.users, and make a user: oddsight-stream users add NAME --role admin; "
            "or set dashboard.oidc"
        )
    return None


def _provider(settings: OidcSettings) -> Provider:
    check_sign_in(settings)
    return Provider(settings)
