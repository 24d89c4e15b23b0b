"""What can go wrong: each fault begins when its block is entered, and has ended when the block is left."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Literal

from streamer.chaos.servers import Server
from streamer.chaos.stack import SESSION_TIMEOUT_S, Stack

COMBINED = "combined"

_STAGGER_S = 1.0
_JOIN_TIMEOUT_S = 15.0  # while Redis or Kafka is away it cannot join
_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of fault; it lasts for a time in ``hold_s``."""

    name: str
    part: Literal["replica", "redis", "kafka", "group", "messages"]
    """Two faults of one part are not combined."""
    during: Callable[[Stack, Random], AbstractContextManager[None]]
    hold_s: tuple[float, float] = (0.2, 2.0)
    needs_apache: bool = False
    """The embedded broker cannot do it: it forgets everything when it is killed, and adds no partitions."""


@contextmanager
def replica_killed(stack: Stack, rng: Random) -> Iterator[None]:
    """SIGKILL one replica."""
    with _down([rng.choice(stack.replicas)]):
        yield


@contextmanager
def all_replicas_killed(stack: Stack, _: Random) -> Iterator[None]:
    """SIGKILL all replicas at once."""
    with _down(stack.replicas):
        yield


@contextmanager
def replica_stopped(stack: Stack, rng: Random) -> Iterator[None]:
    """SIGSTOP one replica for longer than the session: the others take over, and it wakes up with what it had read."""
    with _suspended(rng.choice(stack.replicas)):
        yield


@contextmanager
def replica_terminated(stack: Stack, rng: Random) -> Iterator[None]:
    """SIGTERM one replica."""
    replica = rng.choice(stack.replicas)
    replica.terminate()
    yield
    replica.wait()
    replica.start()


@contextmanager
def replica_joins(stack: Stack, _: Random) -> Iterator[None]:
    """One more member joins the group, and leaves it again some time after it got its partitions."""
    replica = stack.make_replica()
    try:
        replica.start()
        deadline_s = time.monotonic() + _JOIN_TIMEOUT_S
        while "partition started" not in replica.printed() and time.monotonic() < deadline_s:
            time.sleep(_POLL_S)
        yield
        replica.terminate()
        replica.wait()
    finally:
        replica.kill()


@contextmanager
def redis_killed(stack: Stack, _: Random) -> Iterator[None]:
    """SIGKILL Redis; it comes back with its append-only file."""
    with _down([stack.redis]):
        yield


@contextmanager
def redis_stopped(stack: Stack, _: Random) -> Iterator[None]:
    """SIGSTOP Redis."""
    with _suspended(stack.redis):
        yield


@contextmanager
def redis_scripts_flushed(stack: Stack, _: Random) -> Iterator[None]:
    """Redis forgets the scripts that it was given."""
    stack.redis_command("SCRIPT", "FLUSH")
    yield
    stack.redis_command("SCRIPT", "FLUSH")


@contextmanager
def redis_refuses_writes(begin: Sequence[str | int], end: Sequence[str | int], stack: Stack, _: Random) -> Iterator[None]:
    """Redis can be read, but takes no writes between two commands."""
    stack.redis_command(*begin)
    yield
    stack.redis_command(*end)


@contextmanager
def redis_connections_cut(stack: Stack, _: Random) -> Iterator[None]:
    """Redis closes all connections, twice."""
    stack.redis_command("CLIENT", "KILL", "TYPE", "normal")
    yield
    stack.redis_command("CLIENT", "KILL", "TYPE", "normal")


@contextmanager
def kafka_killed(stack: Stack, _: Random) -> Iterator[None]:
    """SIGKILL Kafka; it comes back with its data."""
    with _down([stack.broker]):
        yield


@contextmanager
def kafka_stopped(stack: Stack, _: Random) -> Iterator[None]:
    """SIGSTOP Kafka."""
    with _suspended(stack.broker):
        yield


@contextmanager
def partition_added(stack: Stack, _: Random) -> Iterator[None]:
    """The topic gets one more partition, and at once a camera sends to it."""
    stack.add_partition()
    yield


@contextmanager
def hostile_messages(stack: Stack, rng: Random) -> Iterator[None]:
    """Messages that are no usable frames come among the frames."""
    stack.traffic.send_hostile(rng)
    yield


FULL = (("CONFIG", "SET", "maxmemory", 1), ("CONFIG", "SET", "maxmemory", 0))
READ_ONLY = (("REPLICAOF", "127.0.0.1", 1), ("REPLICAOF", "NO", "ONE"))
_BEYOND_SESSION_S = (SESSION_TIMEOUT_S + 1.0, SESSION_TIMEOUT_S + 3.0)

FAULTS = (
    Fault("replica killed", "replica", replica_killed),
    Fault("all replicas killed", "replica", all_replicas_killed),
    Fault("replica stopped", "replica", replica_stopped, _BEYOND_SESSION_S),
    Fault("replica terminated", "replica", replica_terminated),
    Fault("replica joins and leaves", "group", replica_joins),
    Fault("redis killed", "redis", redis_killed),
    Fault("redis stopped", "redis", redis_stopped, (0.5, 7.0)),
    Fault("redis scripts flushed", "redis", redis_scripts_flushed),
    Fault("redis full", "redis", partial(redis_refuses_writes, *FULL), (0.5, 4.0)),
    Fault("redis read-only", "redis", partial(redis_refuses_writes, *READ_ONLY), (0.5, 4.0)),
    Fault("redis connections cut", "redis", redis_connections_cut),
    Fault("kafka killed", "kafka", kafka_killed, needs_apache=True),
    Fault("kafka stopped", "kafka", kafka_stopped, (0.5, 5.0)),
    Fault("partition added", "kafka", partition_added, needs_apache=True),
    Fault("hostile messages", "messages", hostile_messages),
)


def combined(faults: Sequence[Fault]) -> Fault:
    """Several faults at a time, drawn anew each time."""

    @contextmanager
    def during(stack: Stack, rng: Random) -> Iterator[None]:
        with ExitStack() as running:
            for fault in draw_faults(faults, rng):
                running.enter_context(fault.during(stack, rng))
                time.sleep(rng.uniform(0, _STAGGER_S))
            time.sleep(rng.uniform(*_BEYOND_SESSION_S))
            yield

    return Fault(COMBINED, "group", during, (0.0, 0.0))


def draw_faults(faults: Sequence[Fault], rng: Random) -> list[Fault]:
    """Two or three faults of different parts, in random order."""
    of_each_part = list({fault.part: fault for fault in rng.sample(faults, len(faults))}.values())
    return rng.sample(of_each_part, rng.choice((2, 3)))


@contextmanager
def _down(servers: Sequence[Server]) -> Iterator[None]:
    """Servers are killed, and started again at the end of the block."""
    for server in servers:
        server.kill()
    yield
    for server in servers:
        server.start()


@contextmanager
def _suspended(server: Server) -> Iterator[None]:
    server.suspend()
    try:
        yield
    finally:
        server.resume()
