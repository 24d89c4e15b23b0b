"""Clients of a Redis Cluster and of a Redis that Sentinels watch, from URLs that name several servers.

redis+cluster://[USER:PASSWORD@]HOST:PORT,HOST:PORT      some of the cluster's nodes; they know the others
redis+sentinel://[USER:PASSWORD@]HOST:PORT,HOST:PORT/SERVICE/DATABASE      the Sentinels; user and password are the server's
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, cast
from urllib.parse import unquote, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.connection import parse_url
from redis.retry import Retry
from redis.sentinel import Sentinel

_CLUSTER_TRIES = 3  # a try that fails makes the client look for the nodes again; a step that comes twice is written once


class Servers(NamedTuple):
    """What a URL of several servers says."""

    addresses: list[tuple[str, int]]
    path: list[str]
    options: dict[str, Any]
    """User, password and what follows the question mark, as options of a connection."""
    tls: bool


def parse_servers(url: str, default_port: int) -> Servers:
    """Raises ValueError if the URL is not valid."""
    split = urlsplit(url)
    user, _, hosts = split.netloc.rpartition("@")
    parts = [urlsplit(f"//{host}") for host in hosts.split(",")]
    if not all(part.hostname for part in parts):
        raise ValueError(f"{hosts!r} is not a list of HOST:PORT")
    options: dict[str, Any] = cast("Any", parse_url)(f"redis://{user}@localhost?{split.query}")
    del options["host"]
    addresses = [(str(part.hostname), part.port or default_port) for part in parts]
    return Servers(
        addresses, [unquote(part) for part in split.path.split("/") if part], options, split.scheme.startswith("rediss")
    )


def connect_cluster(url: str, options: Mapping[str, Any]) -> redis.Redis:
    """Connects at once, to find the other nodes. Raises ValueError if the URL is not valid."""
    servers = parse_servers(url, 6379)
    if servers.path not in ([], ["0"]):
        raise ValueError("a cluster has only database 0")
    client = RedisCluster(
        startup_nodes=[cast("Any", ClusterNode)(host, port) for host, port in servers.addresses],
        retry=Retry(NoBackoff(), _CLUSTER_TRIES),
        ssl=servers.tls,
        **{**servers.options, **options},
    )
    return cast("redis.Redis", client)  # it has the same methods


def connect_sentinel(url: str, options: Mapping[str, Any]) -> redis.Redis:
    """A client that asks the Sentinels for the primary whenever it connects. Raises ValueError if the URL is not valid."""
    servers = parse_servers(url, 26379)
    match servers.path:
        case [service]:
            database = 0
        case [service, number] if number.isdigit():
            database = int(number)
        case _:
            raise ValueError("the service's name must follow the addresses, as /SERVICE or /SERVICE/DATABASE")
    never = Retry(NoBackoff(), 0)
    timeouts = {name: value for name, value in options.items() if name.startswith("socket_")}
    sentinel = cast("Any", Sentinel)(servers.addresses, sentinel_kwargs={**timeouts, "ssl": servers.tls, "retry": never})
    own = {**servers.options, **options, "db": database, "ssl": servers.tls, "retry": never}
    return cast("redis.Redis", sentinel.master_for(service, **own))
