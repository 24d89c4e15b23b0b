"""The service's stores on a Redis Cluster, and on a Redis that a Sentinel watches, through a failover."""

from contextlib import suppress

import pytest

from streamer.config import RedisSettings
from streamer.interfaces import RedisUnavailable, Step
from streamer.redis.client import RedisProgressStore, check_redis, make_redis
from streamer.redis.notices import RedisNotices
from streamer.redis.profiles import RedisProfileStore
from streamer.redis.subscriber import Subscriber, count_events, newest_scores
from streamer.types import Partition
from tests.harness.brokers import free_ports
from tests.harness.pipeline import profile_of
from tests.harness.redis_servers import Servers, redis_servers, wait_until
from tests.harness.stream_entries import EVENT, HEALTH

P0 = Partition("frames", 0)
SCORE = {"captured_at_ms": "1", "score": "0.25", "threshold": "0.5", "partition": "0", "offset": "4", "scored_at_ms": "2"}
STEP = Step(P0, None, 5, scores=[("gate", SCORE), ("yard", SCORE)])


def test_everything_works_on_a_cluster() -> None:
    with redis_servers() as servers:
        ports = start_cluster(servers)
        dead = free_ports(1)[0]
        url = "redis+cluster://" + ",".join(f"127.0.0.1:{port}" for port in [dead, *ports[:2]])
        settings = RedisSettings(url=url, prefix="{oddsight}")
        with make_redis(settings) as client:
            check_redis(client)
            store, profiles = RedisProgressStore(client, settings, "group"), RedisProfileStore(client, settings)
            store.try_step()
            follower = Subscriber(client, settings, from_start=True)

            store.apply(STEP)
            profiles.put(profile_of("gate", 1, 0))
            profiles.freeze("gate", frozen=True)

            assert store.read(P0).next_offset == 5
            assert store.camera_states("frames") == {}
            assert (profiles.current().keys(), profiles.frozen()) == ({"gate"}, {"gate"})
            assert newest_scores(client, settings).keys() == {"gate", "yard"}
            assert count_events(client, settings, 0) == {}
            assert follower.poll(0.01).events == []

            notices = RedisNotices(client, settings, "ops")
            lease = notices.lease()
            lease.renew()
            assert (lease.is_held, notices.open()) == (True, None)
            for key, fields in ((settings.events_key, EVENT), (settings.health_key, HEALTH)):
                client.xadd(key, fields)  # type: ignore[arg-type]  # texts
            entries = [(stream, entry_id) for _ in range(2) for stream, entry_id, _ in notices.poll(0.01)]
            notices.done(entries, "{}")
            assert [stream for stream, _ in entries] == ["health", "events"]
            assert (notices.open(), notices.poll(0.01)) == ("{}", [])
            lease.release()


def start_cluster(servers: Servers) -> list[int]:
    """Three primaries that share the slots."""
    ports = free_ports(3)
    clients = [
        servers.start(port, "cluster-enabled yes", f"cluster-config-file {port}.nodes", f"cluster-port {free_ports(1)[0]}")
        for port in ports
    ]
    edges = [0, 5461, 10923, 16384]
    for number, client in enumerate(clients):
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", edges[number], edges[number + 1] - 1)
        bus = clients[0].config_get("cluster-port")["cluster-port"]
        client.execute_command("CLUSTER", "MEET", "127.0.0.1", ports[0], bus)
    for client in clients:
        wait_until(lambda client=client: "cluster_state:ok" in str(client.execute_command("CLUSTER", "INFO")))
    return ports


def test_goes_on_with_the_replica_that_takes_over() -> None:
    with redis_servers() as servers:
        first, second, watcher = free_ports(3)
        servers.start(first)
        replica = servers.start(second, f"replicaof 127.0.0.1 {first}")
        wait_until(lambda: replica.info("replication")["master_link_status"] == "up")
        watch = ["down-after-milliseconds main 500", "failover-timeout main 3000"]
        sentinel = servers.start(
            watcher, f"sentinel monitor main 127.0.0.1 {first} 1", *(f"sentinel {line}" for line in watch), sentinel=True
        )
        wait_until(lambda: int(sentinel.execute_command("SENTINEL", "MASTER", "main")["num-slaves"]) == 1)
        settings = RedisSettings(url=f"redis+sentinel://127.0.0.1:{free_ports(1)[0]},127.0.0.1:{watcher}/main/0")
        with make_redis(settings) as client:
            store = RedisProgressStore(client, settings, "group")
            store.apply(STEP)
            wait_until(lambda: replica.exists("oddsight:scores:gate"))
            servers.kill(first)
            with pytest.raises(RedisUnavailable):
                store.apply(Step(P0, 5, 6))

            wait_until(lambda: answers(store))

            store.apply(Step(P0, 5, 6))
            assert int(str(replica.hget("oddsight:progress:group:frames:0", "next_offset"))) == 6


def answers(store: RedisProgressStore) -> bool:
    with suppress(RedisUnavailable):
        store.try_step()
        return True
    return False


def test_says_that_no_node_or_sentinel_answers() -> None:
    where = f"127.0.0.1:{free_ports(1)[0]}"
    with pytest.raises(RedisUnavailable, match="none of the nodes"):
        make_redis(RedisSettings(url=f"redis+cluster://{where}", prefix="{o}"))
    with (
        make_redis(RedisSettings(url=f"redis+sentinel://{where}/main")) as client,
        pytest.raises(RedisUnavailable, match="Sentinels"),
    ):
        check_redis(client)
